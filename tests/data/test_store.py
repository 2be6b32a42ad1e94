"""The store under attack: figures are those of an empty one, or there is one message."""

import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from openood_interneg.data import store as store_module
from openood_interneg.data.digests import tensors_digest
from openood_interneg.data.store import Rows, Store, StoreError, read_tensors, write_tensors
from openood_interneg.data.store_folders import STALE
from openood_interneg.negatives.stored_inversion import StoredInverter

LAYOUT = {"features": Rows((4,), values="unit")}
ROOT = Path(__file__).resolve().parents[2]


def rows(seed: int, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 4, generator=generator), dim=1)


def filled(root, seed: int = 0):
    """An entry of three shards of equal size, and what it holds."""
    entry = Store(root).entry("features", {"seed": seed}, 6, 2, LAYOUT)
    truth = rows(seed)

    def compute(shards):
        for shard in shards:
            yield {"features": truth[entry.span(shard)]}

    entry.fill(compute)
    return entry, truth


@contextmanager
def healed(match: str = "made anew"):
    with pytest.warns(UserWarning, match=match):
        yield


@contextmanager
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def swap(a: Path, b: Path) -> None:
    one, two = a.read_bytes(), b.read_bytes()
    assert len(one) == len(two) and one != two
    a.write_bytes(two)
    b.write_bytes(one)


def assert_heals(root, truth, seed: int = 0) -> None:
    """What was damaged is made anew with a warning, once, and is right again."""
    with healed():
        entry, _ = filled(root, seed)
        assert torch.equal(entry.read_all()["features"], truth)
    with silent():
        entry, _ = filled(root, seed)
        assert entry.sound() and torch.equal(entry.read_all()["features"], truth)


# ---- displaced -------------------------------------------------------------------------------


def test_shards_swapped_between_two_entries_are_noticed(tmp_path):
    (one, truth), (two, other) = filled(tmp_path, 0), filled(tmp_path, 1)
    swap(one.path(1), two.path(1))
    assert_heals(tmp_path, truth, 0)
    assert_heals(tmp_path, other, 1)


def test_shards_swapped_within_an_entry_are_noticed(tmp_path):
    entry, truth = filled(tmp_path)
    swap(entry.path(0), entry.path(2))
    assert_heals(tmp_path, truth)


def test_a_whole_folder_under_the_name_of_another_is_noticed(tmp_path):
    (one, truth), (two, _) = filled(tmp_path, 0), filled(tmp_path, 1)
    shutil.rmtree(one.folder)
    shutil.copytree(two.folder, one.folder)
    assert_heals(tmp_path, truth)


def test_inversions_of_another_backbone_are_not_taken(tmp_path):
    calls = []

    def live(features, keys):
        calls.append(len(keys))
        return features.flip(1)

    h, keys = rows(0), torch.arange(6)
    first = StoredInverter(live, Store(tmp_path), {"weights": "a"})
    first(h, keys)
    first.flush()
    assert StoredInverter(live, Store(tmp_path), {"weights": "a"})(h, keys).shape == h.shape
    assert calls == [6]
    other = StoredInverter(live, Store(tmp_path), {"weights": "b"})
    shutil.copytree(first.folder, other.folder)
    with healed("made anew when needed"):
        other = StoredInverter(live, Store(tmp_path), {"weights": "b"})
    other(h, keys)
    assert calls == [6, 6]


# ---- damaged, foreign, no files --------------------------------------------------------------


def _folder(path):
    path.unlink()
    path.mkdir()
    (path / "precious.txt").write_text("kept")


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _garbage(path):
    path.write_bytes(b"[" * 100_000)


def _empty(path):
    path.write_bytes(b"")


def _dangling(path):
    path.unlink()
    path.symlink_to(path.parent / "nothing")


DAMAGE = [_folder, _pipe, _device, _garbage, _empty, _dangling]


@pytest.mark.parametrize(
    "name, damage", list(itertools.product(["000001.safetensors", "manifest.json"], DAMAGE))
)
def test_what_is_no_sound_file_is_made_anew(tmp_path, name, damage):
    entry, truth = filled(tmp_path)
    damage(entry.folder / name)
    assert_heals(tmp_path, truth)
    kept = list(entry.folder.glob("*.aside/precious.txt"))
    assert len(kept) == (damage is _folder), "a folder is set aside, not emptied"


@pytest.mark.parametrize(
    "tensors",
    [
        {"features": rows(5, 2).double()},
        {"features": torch.full((2, 4), float("nan"))},
        {"features": torch.full((2, 4), float("inf"))},
        {"features": 3 * rows(5, 2)},
        {"features": rows(5, 3)},
        {"features": rows(5, 2)[:, :3]},
        {"features": rows(5, 2), "more": rows(5, 2)},
        {"other": rows(5, 2)},
    ],
)
def test_a_forged_shard_with_a_right_digest_is_made_anew(tmp_path, tensors):
    entry, truth = filled(tmp_path)
    owner = {"entry": entry.folder.name, "shard": 1, "rows": 6}
    write_tensors(entry.path(1), tensors, owner)
    (entry.folder / "manifest.json").unlink()
    assert_heals(tmp_path, truth)


def test_a_header_of_deep_brackets_is_made_anew(tmp_path):
    from safetensors.torch import save_file

    entry, truth = filled(tmp_path)
    tensors = {"features": truth[2:4].clone()}
    header = {"digest": tensors_digest(tensors), "entry": "[" * 100_000, "shard": "1", "rows": "6"}
    save_file(tensors, entry.path(1), metadata=header)
    assert_heals(tmp_path, truth)


def test_a_link_in_the_cache_is_not_written_through(tmp_path):
    entry, truth = filled(tmp_path / "cache")
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    for name in ("000000.safetensors", "manifest.json"):
        (entry.folder / name).unlink()
        (entry.folder / name).symlink_to(victim)
    assert_heals(tmp_path / "cache", truth)
    assert victim.read_text() == "precious"


def test_entries_of_an_older_meaning_are_not_read(tmp_path, monkeypatch):
    old = filled(tmp_path)[0].folder
    monkeypatch.setattr(store_module, "FORMAT", store_module.FORMAT + 1)
    entry = Store(tmp_path).entry("features", {"seed": 0}, 6, 2, LAYOUT)
    assert entry.folder != old and not entry.complete()
    assert Store(tmp_path).folder("inversions", {}) != tmp_path / "inversions"


# ---- who may write ---------------------------------------------------------------------------


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


# ---- no room, no right -----------------------------------------------------------------------


def test_a_cache_below_a_file_is_one_message_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is no folder.*--cache-dir"):
        Store(tmp_path / "file")
    entry = Store(tmp_path / "file" / "cache").entry("features", {}, 6, 2, LAYOUT)
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


# ---- what dead processes leave ---------------------------------------------------------------


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


def test_a_manifest_says_whose_it_is(tmp_path):
    entry, _ = filled(tmp_path)
    manifest = json.loads((entry.folder / "manifest.json").read_text())
    assert manifest["entry"] == entry.folder.name and manifest["key"] == {"seed": 0}


def test_mined_texts_that_are_damaged_are_mined_anew(tmp_path):
    from openood_interneg.negatives.space_builder import TextSpaceBuilder
    from openood_interneg.settings import TextSpaceSettings
    from openood_interneg.vlm.factory import load_backbone

    words = tmp_path / "words.txt"
    words.write_text("stone\nriver\nlamp\nred car\n")
    settings = TextSpaceSettings(corpus=str(words), num_negatives=3, negatives="intra")
    clip = load_backbone("miniature")

    def mined():
        return TextSpaceBuilder(clip, ["circle", "star"], None, Store(tmp_path / "s")).mined(
            settings
        )

    first = mined()
    (path,) = (tmp_path / "s" / "mined").glob("*/*.safetensors")
    tensors, header = read_tensors(path)
    for name, value in (("words", b"[[1], [], 2]"), ("deviation", None)):
        forged = dict(tensors)
        if value is None:
            forged[name] = torch.full_like(tensors[name], float("nan"))
        else:
            forged[name] = torch.frombuffer(bytearray(value), dtype=torch.uint8)[None]
        write_tensors(path, forged, header)
        with healed():
            assert mined().words == first.words
        with silent():
            assert torch.equal(mined().features, first.features)
