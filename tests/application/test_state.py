"""`interneg score` and its state: stopped, killed, resumed, refused."""

import json
import random
import signal
from pathlib import Path

import pytest
from drawn_world import CLASSES, fitted, stream_files, world

from openood_interneg.application.state import StateError, read_state, sweep, write_state
from openood_interneg.cli.score import parse_protections
from openood_interneg.cli.score_input import open_input
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError
from openood_interneg.settings import SettingsError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """A list of 144 paths: the drawn stream three times, with two files that are no images."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "bad.png").write_bytes(b"no image")
    paths = [str(path) for _ in range(3) for path in stream_files()]
    paths[17] = paths[70] = str(folder / "bad.png")
    (folder / "list.txt").write_text("\n".join(paths))
    return folder / "list.txt"


@pytest.fixture(scope="module")
def unbroken(run, listed, tmp_path_factory) -> tuple[bytes, float]:
    out = tmp_path_factory.mktemp("unbroken") / "out.jsonl"
    code, seconds, _, err = run(listed, "--out", out)
    assert code == 0, err
    return out.read_bytes(), seconds


def test_lines_say_what_the_detector_says(unbroken, run):
    lines = [json.loads(line) for line in unbroken[0].splitlines()]
    assert [line["position"] for line in lines] == list(range(144))
    assert [i for i, line in enumerate(lines) if "error" in line] == [17, 70]
    assert lines[17]["score"] is None and "bad.png" in lines[17]["error"]
    fields = ["position", "file", "prediction", "label", "score", "unknown", "gamma"]
    assert list(lines[0]) == fields and lines[0]["gamma"] > lines[-1]["gamma"]
    for line in lines:
        if "error" not in line:
            assert line["label"] in CLASSES and 0 <= line["score"] <= 1
            assert line["prediction"] == ("unknown" if line["unknown"] else line["label"])

    # a folder, and the same on standard input without --out
    code, _, out, err = run(world() / "test", "--gamma", 0.5)
    assert code == 0 and "48 images" in err
    detector = fitted(batch_size=4, steps=2)
    wanted = [e for batch in detector.stream(map(str, stream_files())) for e in batch]
    got = [json.loads(line) for line in out.splitlines()]
    assert [line["score"] for line in got] == [e.score for e in wanted]
    assert [line["file"] for line in got] == [e.name for e in wanted]
    piped = run.folder / "piped"
    piped.write_text("\n".join(map(str, stream_files())) + "\n")
    assert run("-", "--gamma", 0.5, "--quiet", stdin=piped)[2] == out
    assert run("-", "--gamma", 0.5, "--quiet", stdin=piped)[3] == ""


def test_twenty_kills_change_nothing(run, listed, unbroken, tmp_path):
    """Every run that gets through, however often it was killed before, writes the same bytes."""
    wanted, seconds = unbroken
    rng = random.Random(7)
    kills = finished = resumed = 0
    out, state = tmp_path / "out.jsonl", tmp_path / "state.safetensors"
    while kills < 20 or not finished or out.exists():
        after = rng.uniform(0.2, 1.0) * seconds if kills < 20 else 1e9
        resumed += state.exists()
        code, _, _, err = run(
            *(listed, "--out", out, "--state", state, "--checkpoint-every", 8),
            kill=signal.SIGKILL,
            after=after,
            until=state if kills % 2 else None,  # on a busy machine, too, some runs come so far
        )
        if code == -signal.SIGKILL:
            kills += 1
            continue
        assert code == 0, err
        assert out.read_bytes() == wanted
        finished += 1
        out.unlink()
        state.unlink()
    assert finished and resumed >= 5
    sweep(state, age=0)
    assert [path.name for path in tmp_path.iterdir()] == [f".{state.name}.lock"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_its_state_kept(run, listed, unbroken, tmp_path, number, code):
    out, state = tmp_path / "out.jsonl", tmp_path / "state.safetensors"
    args = (listed, "--out", out, "--state", state, "--checkpoint-every", 20)
    got, _, _, err = run(*args, kill=number, until=out)
    assert got == code, err
    assert "the state is in" in err
    position = read_state(state)[1]["stream"]["position"]
    lines = out.read_bytes().splitlines()
    assert 0 < position < 144 and len(lines) == position and position % 4 == 0
    got, _, _, err = run(*args)
    assert got == 0 and f"resumed at image {position}" in err
    assert out.read_bytes() == unbroken[0]
    # once more: there is nothing left to do
    assert run(*args)[0] == 0 and out.read_bytes() == unbroken[0]


def test_new_images_can_follow(run, unbroken, tmp_path):
    whole = unbroken[0].splitlines()
    parts = [json.loads(line)["file"] for line in whole]
    (tmp_path / "a.txt").write_text("\n".join(parts[:40]))
    (tmp_path / "b.txt").write_text("\n".join(parts[40:]))
    out, state = tmp_path / "out.jsonl", tmp_path / "state.safetensors"
    kept = ("--out", out, "--state", state)
    assert run(tmp_path / "a.txt", *kept)[0] == 0
    code, _, _, err = run(tmp_path / "b.txt", *kept)
    assert code == 1 and "not those that were scored" in err
    assert run(tmp_path / "b.txt", *kept, "--append")[0] == 0
    assert out.read_bytes() == unbroken[0]


def test_what_does_not_fit_is_refused(run, listed, tmp_path):
    out, state = tmp_path / "out.jsonl", tmp_path / "state.safetensors"
    kept = ("--out", out, "--state", state)
    (tmp_path / "one.txt").write_text(str(stream_files()[0]))
    assert run(tmp_path / "one.txt", *kept, "--gamma", 0.5)[0] == 0
    written, before = out.read_bytes(), state.read_bytes()
    for extra, message in (
        (("--beta", 0.2), "beta: 0.35 in the state, 0.2 here"),
        (("--steps", 3), "steps: 2 in the state, 3 here"),
        (("--gamma", 0.4), "gamma: 0.5 in the state, 0.4 here"),
        (("--no-exif",), "image reading exif"),
        (("--protect", "max_age=7"), "protection max_age"),
    ):
        code, _, _, err = run(tmp_path / "one.txt", *kept, *extra)
        assert code == 1 and "does not belong to this run" in err and message in err, err
    out.write_bytes(written[:-5])
    code, _, _, err = run(tmp_path / "one.txt", *kept)
    assert code == 1 and "were written when the state was kept" in err
    out.write_bytes(written)
    state.write_bytes(before[:-3])
    code, _, _, err = run(tmp_path / "one.txt", *kept)
    assert code == 1 and "state.safetensors" in err and "Traceback" not in err
    assert out.read_bytes() == written

    bad = tmp_path / "bad.txt"
    bad.write_text(f"{stream_files()[0]}\n{tmp_path / 'none.png'}\n")
    code, _, _, err = run(bad, "--gamma", 0.5, "--on-error", "stop")
    assert code == 1 and "none.png" in err
    code, _, _, err = run(listed, "--images-per-class", 14)
    assert code == 1 and "--calibrate DIR" in err
    code, _, _, err = run(listed, "--append")
    assert code == 1 and "--state" in err


def test_input_is_checked_before_work_starts(tmp_path):
    with pytest.raises(ImageError, match="no file in the folder"):
        open_input(str(tmp_path))
    with pytest.raises(DetectorError, match="no folder, image or list"):
        open_input(str(tmp_path / "none"))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DetectorError, match="is empty"):
        open_input(str(tmp_path / "empty.txt"))
    (tmp_path / "binary.dat").write_bytes(b"\0\1\2")
    with pytest.raises(DetectorError, match="neither an image nor a text file"):
        open_input(str(tmp_path / "binary.dat"))
    names, total = open_input(str(stream_files()[0]))
    assert (list(names), total) == ([str(stream_files()[0])], 1)
    (tmp_path / "crlf.txt").write_bytes(b"a b.png\r\n\r\n\xff.png\n")
    assert list(open_input(str(tmp_path / "crlf.txt"))[0]) == ["a b.png", "\udcff.png"]


def test_protections_from_the_command_line():
    assert parse_protections("") == {}
    assert parse_protections("diversity=0.9, max_age=5") == {"diversity": 0.9, "max_age": 5}
    with pytest.raises(SettingsError, match="no value"):
        parse_protections("diversity")


def test_nothing_in_a_state_is_run_or_opened(tmp_path):
    """Pickles are no states, and a state names no file that would be opened."""
    import pickle

    from openood_interneg.application.detector import InterNegDetector

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(StateError):
        read_state(path)
    fitted().save(path)
    tensors, meta = read_state(path)
    meta["backbone"]["name"] = str(tmp_path / "evil.pt")
    write_state(path, tensors, meta)
    with pytest.raises(StateError, match="pass it as backbone="):
        InterNegDetector.load(path)
    assert not (tmp_path / "sprung").exists()
