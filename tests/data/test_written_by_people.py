"""What people write into benchmark files and lists: each mistake is named, none is guessed at."""

import codecs
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.classnames import ClassNameError, check_class_names, class_names
from openood_interneg.data.image_lists import BenchmarkError, read_image_list

YAML = """
dataset:
  name: mine
  class_names: [cat, dog]
  test: {data_dir: ., imglist_pth: id.txt}
ood_dataset:
  farood:
    datasets: [far]
    far: {data_dir: ., imglist_pth: far.txt}
"""
CSID = """  csid:
    datasets: [sketch]
    sketch: {data_dir: %s, imglist_pth: sketch.txt}
"""


@pytest.fixture
def own(tmp_path):
    """Writes a benchmark, with some words of its YAML replaced; returns the YAML's path."""
    (tmp_path / "id.txt").write_text("a.png 0\nb.png 1\n")
    (tmp_path / "far.txt").write_text("c.png -1\n")
    (tmp_path / "sketch.txt").write_text("d.png 1\n")

    def write(old="", new="", more=""):
        (tmp_path / "mine.yml").write_text(YAML.replace(old, new) + more)
        return tmp_path / "mine.yml"

    return write


# Class names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "[cat, Cat ]",
            r"the same name stands for two classes: 'Cat' \(class names 0 and 1",
        ),
        ("[cat, yes]", r'class name 1 is True.*Put it in quotes, as in "yes"'),
        ("[cat, no]", "class name 1 is False"),
        ("[cat, null]", "class name 1 is None"),
        ("[~, cat]", "class name 0 is None"),
        ("[cat, 01]", "class name 1 is 1, no text"),
        ("[cat, 0x1F]", "class name 1 is 31"),
        ("[cat, 1.0e+3]", r"class name 1 is 1000\.0"),
        ("[cat, .inf]", "class name 1 is inf"),
        ("[cat, 2024-05-01]", r"class name 1 is datetime\.date"),
        ("[cat, [dog]]", r"class name 1 is \['dog'\]"),
        ("[cat, '']", "class name 1 is ''"),
        ("[]", "no class names"),
    ],
)
def test_class_names_in_a_yaml_list_are_checked_as_in_a_file(own, names, message):
    with pytest.raises(ClassNameError, match=message) as refusal:
        load_benchmark(own("[cat, dog]", names))
    assert "mine.yml" in str(refusal.value)


def test_quoted_names_are_taken_as_they_are_written(own):
    names = load_benchmark(own("[cat, dog]", '["yes", "01"]')).class_names
    assert names == ("yes", "01")


def test_wordnet_ids_as_class_names_are_warned_of(tmp_path):
    (tmp_path / "ids.txt").write_text("n01440764\nn01443537\n")
    with pytest.warns(UserWarning, match="2 of 2 class names are WordNet ids.*usual words"):
        class_names(tmp_path / "ids.txt")


def test_imagenets_own_repeated_names_pass_as_a_known_set_only():
    names = class_names("imagenet")
    assert check_class_names(names) == names
    with pytest.raises(ClassNameError, match="'missile'"):
        check_class_names(names[:-1])


def test_a_benchmark_made_in_python_is_checked_as_one_from_a_file(own):
    benchmark = load_benchmark(own())
    with pytest.raises(ClassNameError, match="class names 0 and 1"):
        replace(benchmark, class_names=("cat", "Cat"))


def test_a_network_refuses_names_that_are_the_same():
    from openood_interneg.plugin.network import resolve_class_names

    with pytest.raises(ClassNameError, match="class names 0 and 2"):
        resolve_class_names(["cat", "dog", "cat"])


def test_names_alike_within_the_tokens_that_the_model_reads_are_refused_by_all():
    from openood_interneg.negatives.space_builder import TextSpaceBuilder
    from openood_interneg.plugin.network import ClipZeroShot
    from openood_interneg.vlm.factory import load_backbone

    backbone = load_backbone("miniature")
    names = ("very " * 100 + "old", "cat", "very " * 100 + "new")
    with pytest.raises(ClassNameError, match=r"\(class names 0 and 2\).*shorten or rename"):
        TextSpaceBuilder(backbone, names).labels("nice")
    with pytest.raises(ClassNameError, match=r"\(class names 0 and 2\)"):
        ClipZeroShot(backbone, names)
    # how much of a name is read depends on the prompt: these two differ at the 75th word
    names = ("very " * 74 + "old", "very " * 74 + "new")
    TextSpaceBuilder(backbone, names).labels("{}")
    with pytest.raises(ClassNameError, match="CLIP sees no difference"):
        TextSpaceBuilder(backbone, names).labels("a photo of a {}")


# Names of sets


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("'/../../../out'", "has a '/'"),
        ("'a\\b'", "has a '/'"),
        ('"a\\0b"', "cannot be printed"),
        ('"a\\tb"', "cannot be printed"),
        ('"a\\u202eb"', "cannot be printed"),
        ("'..'", "a dot"),
        ("'a '", "a space"),
        ("x" * 300, "longer than 100 bytes"),
        ("on", "is True.*quotes"),
    ],
)
@pytest.mark.parametrize("place", ["ID", "OOD"])
def test_a_sets_name_that_is_no_file_name_is_refused_where_it_is_read(own, name, message, place):
    path = own("name: mine", f"name: {name}") if place == "ID" else own("far]", f"{name}]")
    if place == "OOD":
        path.write_text(path.read_text().replace("    far: {", f"    {name}: {{"))
    with pytest.raises(BenchmarkError, match=message):
        load_benchmark(path)


# The YAML


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("datasets: [far]", "datasets: far", r"datasets is 'far'; it must be a list.*\[mnist\]"),
        ("datasets: [far]", "datasets: [far, other]", "lists 'other', but has no block"),
        ("datasets: [far]", "datasets: []", "names no OOD set"),
        ("{data_dir: ., imglist_pth: far.txt}", "far.txt", "the block of 'far' is 'far.txt'"),
        ("{data_dir: ., imglist_pth: far.txt}", "{data_dir: .}", "'far' has no imglist_pth"),
        ("imglist_pth: far.txt", "imglist_pth: 1", "imglist_pth of .*is 1, no text"),
        ("  name: mine\n", "", "has no name"),
        ("  name: mine\n", "  name: mine\n  num_classes: yes\n", "num_classes is True"),
        ("  class_names: [cat, dog]\n", "  class_names:\n", "class_names is None"),
        ("  farood:", "  near-ood: {datasets: []}\n  farood:", "group 'near-ood', which nothing"),
    ],
)
def test_mistakes_in_the_yaml_are_named(own, old, new, message):
    with pytest.raises(BenchmarkError, match=message):
        load_benchmark(own(old, new))


def test_a_yaml_of_aliases_does_not_eat_the_memory(own):
    lines = ["bomb:", "  - &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(BenchmarkError, match="expands to more than"):
        load_benchmark(own(more="\n".join(lines)))


def test_a_key_that_stands_twice_is_refused(own):
    with pytest.raises(BenchmarkError, match="'name' stands twice"):
        load_benchmark(own("  name: mine", "  name: mine\n  name: yours"))


def test_the_data_root_replaces_the_yamls_folder_and_a_leading_data(own, tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "id.txt").rename(tmp_path / "sets" / "id.txt")
    (tmp_path / "far.txt").rename(tmp_path / "sets" / "far.txt")
    path = own("imglist_pth: id.txt", "imglist_pth: ./data/id.txt")
    benchmark = load_benchmark(path, tmp_path / "sets")
    assert benchmark.test.folder == benchmark.far[0].folder == tmp_path / "sets"
    with pytest.raises(BenchmarkError, match=f"no image list at {tmp_path}/far.txt"):
        load_benchmark(path)


# Full spectrum


def test_covariate_shifted_sets_are_id_in_the_full_spectrum_and_never_dropped_unsaid(own, tmp_path):
    path = own(more=CSID % "shifted")
    with pytest.warns(UserWarning, match="csid: sketch.*are left out.*--fsood"):
        plain = load_benchmark(path)
    assert plain.test.paths == ("a.png", "b.png")
    (tmp_path / "sketch.txt").rename(tmp_path / "later.txt")
    with pytest.warns(UserWarning, match="left out"):
        load_benchmark(path)  # nothing is needed of what is left out
    (tmp_path / "later.txt").rename(tmp_path / "sketch.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = load_benchmark(path, full_spectrum=True)
    assert full.name == "mine-fsood" and full.far == plain.far
    files = [full.test.file(i) for i in range(3)]
    assert files == [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "shifted" / "d.png"]
    assert full.test.labels.tolist() == [0, 1, 1]
    assert full.test.paths[:2] == plain.test.paths  # keys and features stay those of the images


def test_eval_counts_the_shifted_images_as_id_with_fsood(own, tmp_path, monkeypatch, capsys):
    from openood_interneg.cli import main

    path = own(more=CSID % ".")
    for name in "abcd":
        Image.effect_noise((32, 32), 90).save(tmp_path / f"{name}.png")
    command = ["interneg", "eval", "--bench", str(path), "--backbone", "miniature", "--no-cache"]
    command += ["--methods", "mcm", "--quiet"]
    for more, count in ([], 2), (["--fsood"], 3):
        out = tmp_path / f"out{count}"
        monkeypatch.setattr("sys.argv", [*command, *more, "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        (scores,) = (out / "scores").glob("*.far.npz")
        with np.load(scores) as kept:
            assert kept["id_score"].shape == (count,)
        name = json.loads((out / "results.json").read_text())[0]["benchmark"]
        assert name == ("mine-fsood" if more else "mine")
    capsys.readouterr()


def test_a_full_spectrum_without_shifted_sets_and_shifted_sets_astray_are_refused(own, tmp_path):
    with pytest.raises(BenchmarkError, match="no covariate-shifted ID set"):
        load_benchmark(own(), full_spectrum=True)
    with pytest.raises(BenchmarkError, match="'csid' stands outside of 'ood_dataset'"):
        load_benchmark(own(more="csid: {datasets: []}\n"))
    (tmp_path / "sketch.txt").write_text("d.png -1\n")
    with pytest.raises(BenchmarkError, match="'sketch' has labels from -1"):
        load_benchmark(own(more=CSID % "."), full_spectrum=True)


# Image lists


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_is_no_part_of_the_first_image(tmp_path, newline):
    text = newline.join(["a.png 0", "", "b c.png 1", "d\u2028e.png 1", ""])
    (tmp_path / "list.txt").write_bytes(codecs.BOM_UTF8 + text.encode())
    images = read_image_list(tmp_path / "list.txt", tmp_path, "x")
    assert images.paths == ("a.png", "b c.png", "d\u2028e.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png 0\n".encode("utf-16"), "is UTF-16 text"),
        ("a.png 0\n".encode("utf-16-le"), "NUL character"),
        (b"a.png 0\n\xff.png 1\n", "line 2: not UTF-8"),
        (b"a.png " + b"9" * 30, "line 1: expected 'path label'"),
        ("a.png ٣\n".encode(), "line 1: expected 'path label'"),
        (b"a.png 1_0\n", "line 1: expected 'path label'"),
        (b"\n \n", "is empty"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(BenchmarkError, match=message):
        read_image_list(tmp_path / "list.txt", tmp_path, "x")


def test_a_label_of_an_ood_list_is_minus_one_and_no_other(own, tmp_path):
    (tmp_path / "far.txt").write_text("c.png -7\n")
    with pytest.raises(BenchmarkError, match="labels other than -1"):
        load_benchmark(own())


def test_an_empty_image_file_is_named_before_any_work(own, tmp_path):
    for name in "abc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    benchmark = load_benchmark(own())
    benchmark.check()
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(BenchmarkError, match=r"1 of 2 images of 'mine' .* or are empty:\n.*b\.png"):
        benchmark.check()
