"""`interneg doctor --bench`: what it calls complete can be read."""

import pytest
from PIL import Image

from openood_interneg.cli import main

YAML = """
dataset:
  name: mine
  class_names: [cat, dog]
  train: {data_dir: ., imglist_pth: train.txt}
  test: {data_dir: ., imglist_pth: id.txt}
ood_dataset:
  csid:
    datasets: [sketch]
    sketch: {data_dir: ., imglist_pth: sketch.txt}
  farood:
    datasets: [far]
    far: {data_dir: ., imglist_pth: far.txt}
"""
LISTS = {"train": "a.png 0\n", "id": "b.png 1\n", "sketch": "c.png 1\n", "far": "d.png -1\n"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mine.yml").write_text(YAML)
    for name, text in LISTS.items():
        (tmp_path / f"{name}.txt").write_text(text)
    for name in "abcd":
        Image.effect_noise((64, 64), 90).save(tmp_path / f"{name}.png")
    monkeypatch.setenv("INTERNEG_CACHE", str(tmp_path / "cache"))
    return tmp_path


def doctor(own, capsys, *args):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", ["interneg", "doctor", "--bench", str(own / "mine.yml"), *args])
        main()
    return end.value.code or 0, " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.slow
def test_a_truncated_image_is_named_and_the_set_not_called_complete(own, capsys):
    code, text = doctor(own, capsys)
    assert code == 0 and "complete: 2 classes; mine (train) (1), mine (1), sketch (1)" in text
    for name in "abcd":
        path = own / f"{name}.png"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        code, text = doctor(own, capsys)
        assert code == 1 and "1 images cannot be read" in text and f"{name}.png" in text
        path.write_bytes(whole)


@pytest.mark.slow
def test_quick_looks_for_all_files_and_says_that_it_did_no_more(own, capsys):
    code, text = doctor(own, capsys, "--quick")
    assert code == 0 and "looked for, not read" in text
    (own / "a.png").write_bytes(b"")  # of the training list
    code, text = doctor(own, capsys, "--quick")
    assert code == 1 and "are not there, or are empty" in text and "a.png" in text
