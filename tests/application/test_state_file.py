"""The state as a file: claimed by one run, its permissions and links kept, leftovers swept."""

import os
import time

import pytest
from drawn_world import fitted, stream_files

from openood_interneg.application.detector import InterNegDetector
from openood_interneg.application.state import StateError, claimed, sweep


@pytest.mark.slow
def test_a_second_run_on_one_state_is_refused_and_changes_nothing(run, tmp_path):
    out, state = tmp_path / "out.jsonl", tmp_path / "state.safetensors"
    images = tmp_path / "one.txt"
    images.write_text(str(stream_files()[0]))
    assert run(images, "--out", out, "--state", state, "--gamma", 0.5)[0] == 0
    before = out.read_bytes(), state.read_bytes()
    leftover = tmp_path / f".{state.name}.abc.tmp"
    leftover.write_bytes(b"being written")
    (tmp_path / "link.safetensors").symlink_to(state)
    with claimed(state):
        for name in (state, tmp_path / "link.safetensors"):
            code, _, _, err = run(images, "--out", out, "--state", name, "--append")
            assert code == 1 and "in use by another run" in err and "Traceback" not in err, err
        assert (out.read_bytes(), state.read_bytes()) == before
        with claimed(tmp_path / "another.safetensors"):
            pass
    assert leftover.exists()
    assert run(images, "--out", out, "--state", state, "--append")[0] == 0
    assert leftover.exists(), "another program may still be writing it"
    assert len(out.read_bytes().splitlines()) == 2


def test_a_claim_ends_with_an_error_and_can_be_refused_by_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "a"):
        raise ZeroDivisionError
    with claimed(tmp_path / "a"), claimed(None):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot claim"), claimed(tmp_path / "file" / "a"):
        pass


def test_leftovers_are_swept_by_age_and_only_those_of_this_state(tmp_path):
    old, live = tmp_path / ".s[1].x.tmp", tmp_path / ".s[1].y.tmp"
    other = tmp_path / ".s1.z.tmp"
    for path in (old, live, other):
        path.write_bytes(b"")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(other, (hour_ago, hour_ago))
    sweep(tmp_path / "s[1]")
    assert not old.exists() and live.exists() and other.exists()
    with claimed(tmp_path / "s1"):
        assert not other.exists()


def test_a_private_state_stays_private_and_a_link_stays_a_link(tmp_path):
    detector = fitted()
    target, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    detector.save(target)
    target.chmod(0o600)
    link.symlink_to(target.name)
    detector.score(stream_files()[:4])
    detector.save(link)
    assert link.is_symlink() and os.readlink(link) == target.name
    assert target.stat().st_mode & 0o777 == 0o600
    assert InterNegDetector.load(target).position == 4
    # a link to a state that is still to come
    (tmp_path / "new.safetensors").symlink_to(tmp_path / "later" / "state.safetensors")
    detector.save(tmp_path / "new.safetensors")
    assert (tmp_path / "later" / "state.safetensors").is_file()
    assert (tmp_path / "new.safetensors").is_symlink()
