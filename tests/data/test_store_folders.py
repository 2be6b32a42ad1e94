"""The folders of the store: who may write there, no room, and what dead processes leave."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch
from helpers import STORED_ROWS, filled, healed, silent

from openood_interneg.data.store import Store, StoreError
from openood_interneg.data.store_folders import STALE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
class TestPermissions:
    @pytest.fixture(autouse=True)
    def usual_umask(self):
        before = os.umask(0o022)
        yield
        os.umask(before)

    def test_what_the_store_makes_is_for_the_user_alone(self, tmp_path):
        entry, _ = filled(tmp_path / "new" / "cache")
        found = [tmp_path / "new" / "cache", *(tmp_path / "new" / "cache").rglob("*")]
        assert entry.folder in found
        assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in found)

    def test_a_root_that_others_may_read_has_private_files(self, tmp_path):
        tmp_path.chmod(0o755)
        entry, _ = filled(tmp_path)
        assert stat.S_IMODE(entry.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(entry.path(0).stat().st_mode) == 0o600

    def test_a_root_that_a_group_may_write_keeps_its_files_open_to_it(self, tmp_path):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(0o770)
        entry, _ = filled(tmp_path / "cache")
        assert stat.S_IMODE(entry.folder.stat().st_mode) == 0o750
        assert stat.S_IMODE(entry.path(0).stat().st_mode) == 0o640

    @pytest.mark.parametrize("at", ["", "features", "features/{}"])
    def test_a_cache_that_anybody_may_write_is_warned_of(self, tmp_path, at):
        entry, _ = filled(tmp_path)
        (tmp_path / at.format(entry.folder.name)).chmod(0o777)
        with healed("can be written by everybody.*--cache-dir"):
            filled(tmp_path)

    def test_a_cache_of_another_user_is_warned_of(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(tmp_path, 12345, -1)
        with healed(r"belongs to another user \(uid 12345\)"):
            Store(tmp_path)

    def test_ones_own_cache_says_nothing(self, tmp_path):
        with silent():
            filled(tmp_path)
            filled(tmp_path)


def test_a_cache_below_a_file_is_one_message_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is no folder.*--cache-dir"):
        Store(tmp_path / "file")
    entry = Store(tmp_path / "file" / "cache").entry("features", {}, 6, 2, STORED_ROWS)
    with pytest.raises(StoreError, match=r"cannot write to the cache .*file/cache.*--no-cache"):
        entry.fill(lambda shards: pytest.fail("work was done before it was said"))


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"cannot write.*No space left on device.*Make room"):
        filled(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    filled(tmp_path)


def test_a_disk_that_fills_up_leaves_finished_shards(tmp_path):
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        tmp_path.chmod(0o700)
        entry = Store(tmp_path).entry("x", {}, 8, 1)
        big = torch.zeros(1, 16_384)
        with pytest.raises(StoreError, match="No space left on device"):
            entry.fill(lambda shards: iter([{"x": big} for _ in shards]))
        assert not list(tmp_path.rglob("*.tmp"))
        assert 0 < len(entry.missing()) < 8
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_complete_cache_that_cannot_be_written_is_read(tmp_path):
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a folder for reading alone")
    _, truth = filled(tmp_path)
    path = str(tmp_path)
    for options in ("--bind", "-oremount,ro,bind"):
        if subprocess.run(["mount", options, path, path], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
    try:
        with silent():
            entry, _ = filled(tmp_path)
            assert torch.equal(entry.read_all()["features"], truth)
        with pytest.raises(StoreError, match="cannot write to the cache"):
            filled(tmp_path, seed=1)
    finally:
        subprocess.run(["umount", path], check=True)


def test_old_temporary_files_are_swept_and_those_of_a_live_writer_stay(tmp_path):
    entry, _ = filled(tmp_path)
    old, young = (entry.folder / f".{name}.safetensors.x.tmp" for name in "ab")
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * STALE
    os.utime(old, (long_ago, long_ago))
    filled(tmp_path, seed=1)  # swept a moment ago
    assert old.exists()
    os.utime(tmp_path / ".swept", (long_ago, long_ago))
    filled(tmp_path, seed=2)
    assert not old.exists() and young.exists()


def run_python(code: str, folder: Path, **options) -> subprocess.Popen:
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **options)


@pytest.mark.slow
def test_a_temporary_store_of_a_killed_process_is_swept_and_a_live_one_stays(tmp_path, monkeypatch):
    code = textwrap.dedent("""
        import sys, time
        from openood_interneg.data.store import Store
        store = Store(None)
        print(store.root, flush=True)
        time.sleep(300)
    """)
    killed, live = (run_python(code, tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        dead_root, live_root = (Path(p.stdout.readline().strip()) for p in (killed, live))
        killed.kill()
        killed.wait()
        assert dead_root.is_dir() and live_root.is_dir()
        long_ago = time.time() - 3600
        for root in (dead_root, live_root):
            os.utime(root, (long_ago, long_ago))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        mine = Store(None)
        assert not dead_root.exists() and live_root.is_dir() and mine.root.is_dir()
    finally:
        for process in (killed, live):
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_terminated_command_leaves_no_temporary_store(tmp_path):
    code = textwrap.dedent("""
        import sys, time
        from openood_interneg import cli
        from openood_interneg.data.store import Store

        def app():
            store = Store(None)
            print(store.root, flush=True)
            time.sleep(300)

        cli.app = app
        cli.main()
    """)
    process = run_python(code, tmp_path, stdout=subprocess.PIPE, text=True)
    root = Path(process.stdout.readline().strip())
    assert root.is_dir()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    process.stdout.close()
    assert not root.exists()
