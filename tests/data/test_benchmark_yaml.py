"""Benchmark files as people write them: each mistake is named, none is guessed at."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openood_interneg.data.benchmark_files import (
    configs_root,
    data_folder,
    list_benchmarks,
    resolve_path,
)
from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.classnames import ClassNameError
from openood_interneg.data.image_lists import BenchmarkError

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


@pytest.mark.parametrize("name", list_benchmarks())
def test_shipped_ones_say_what_is_missing(name, tmp_path):
    with pytest.raises(BenchmarkError, match="no image list at"):
        load_benchmark(name, tmp_path)


def test_configs_are_found():
    assert (configs_root() / "postprocessors" / "interneg.yml").is_file()


def test_own_yaml(own):
    benchmark = load_benchmark(own())
    assert benchmark.class_names == ("cat", "dog") and benchmark.train is None
    assert benchmark.test.paths == ("a.png", "b.png")
    assert benchmark.far[0].labels.tolist() == [-1] and benchmark.near == ()
    with pytest.raises(BenchmarkError, match="2 of 2 images of 'mine' are not there"):
        benchmark.check()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[cat, dog]", "[cat]", "with 1 class names they must be 0..0"),
        ("[cat, dog]", "nothing.txt", "class_names is 'nothing.txt'"),
        ("  name: mine", "  name: mine\n  num_classes: 3", "num_classes is 3, but there are 2"),
        ("farood", "middleood", "a group 'middleood', which nothing reads"),
        ("  test:", "  tests:", "no 'dataset' block with a 'test'"),
        ("datasets: [far]", "datasets: [near]", "farood lists 'near', but has no block"),
        ("name: mine", "name: [", "not valid YAML"),
    ],
)
def test_yaml_mistakes(own, old, new, message):
    with pytest.raises(BenchmarkError, match=message):
        load_benchmark(own(old, new))


def test_limit_is_spread_evenly(own, tmp_path):
    path = own()
    (tmp_path / "id.txt").write_text("".join(f"{i}.png 0\n" for i in range(101)))
    assert load_benchmark(path, limit=5).test.paths == tuple(f"{i}.png" for i in range(0, 101, 25))


def test_the_rule_on_relative_paths(tmp_path):
    own = tmp_path / "fruits.yml"
    assert data_folder(own) == tmp_path and data_folder(own, "x") == Path("x")
    assert data_folder(tmp_path / "configs" / "datasets" / "cifar10" / "c.yml") == Path("data")
    assert resolve_path("./data/lists/a.txt", tmp_path) == resolve_path("lists/a.txt", tmp_path)
    assert resolve_path("/abs/a.txt", tmp_path) == Path("/abs/a.txt")


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


def test_a_benchmark_made_in_python_is_checked_as_one_from_a_file(own):
    benchmark = load_benchmark(own())
    with pytest.raises(ClassNameError, match="class names 0 and 1"):
        replace(benchmark, class_names=("cat", "Cat"))


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
