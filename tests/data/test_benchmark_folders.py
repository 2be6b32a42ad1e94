"""Folders of images as a benchmark: what is tested, what is set apart, and what is refused."""

import os
import shutil

import pytest
from helpers import silent

from openood_interneg import benchmark_from_folders, load_benchmark
from openood_interneg.data.benchmark_files import read_source
from openood_interneg.data.benchmark_folders import read_bench_folder
from openood_interneg.data.classnames import ClassNameError
from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.data.images import image_suffixes


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked at")
    return folder


def many(folder, count, suffix="png"):
    return fill(folder, *(f"{i:02}.{suffix}" for i in range(count)))


@pytest.fixture
def own(tmp_path):
    """A benchmark's folder: three ID classes, a near and two far OOD sets."""
    root = tmp_path / "zoo"
    for name, count in {"cat": 6, "polar_bear": 40, "dog": 3}.items():
        many(root / "id" / name, count)
    many(root / "near" / "wolves", 4, "JPG")
    many(root / "far" / "cars" / "deeper", 5)
    many(root / "far" / "noise", 2)
    return root


def test_a_benchmarks_folder(own):
    zoo = load_benchmark(own)
    assert zoo.name == "zoo" and zoo.class_names == ("cat", "dog", "polar bear")
    assert [len(images) for images in (zoo.train, zoo.test)] == [3 + 1 + 16, 3 + 2 + 24]
    assert [images.name for images in zoo.near] == ["wolves"]
    assert [images.name for images in zoo.far] == ["cars", "noise"]
    assert zoo.far[0].paths[0] == "deeper/00.png" and set(zoo.far[0].labels) == {-1}
    assert zoo.test.labels.tolist() == [0] * 3 + [1] * 2 + [2] * 24
    assert not set(zoo.train.paths) & set(zoo.test.paths)
    zoo.check(zoo.train)
    spec = read_bench_folder(own)
    assert "names' hashes come first (at most half) are for proxies, 20 in all" in spec.told(zoo)
    assert "ID: 29 images of 3 classes" in spec.told(zoo) and "cars (far, 5)" in spec.told(zoo)


def test_the_same_images_are_set_apart_wherever_the_folder_is_and_whatever_comes_in(own, tmp_path):
    zoo = load_benchmark(own)
    shutil.copytree(own, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "id" / "cat")
    many(tmp_path / "copy" / "id" / "ant", 8)
    fill(tmp_path / "copy" / "id" / "polar_bear", "new.png")
    copy = load_benchmark(tmp_path / "copy")
    bears = [{p for p in b.train.paths if "bear" in p} for b in (zoo, copy)]
    assert len(bears[0] - bears[1]) <= 1  # where the new one is among the first
    again = benchmark_from_folders(own / "id", {"cars": own / "far" / "cars"})
    assert again.train.paths == zoo.train.paths and again.name == "id"


def test_folders_one_by_one(own):
    b = benchmark_from_folders(
        own / "id", own / "far" / "noise", [own / "near" / "wolves"], train_per_class=1, limit=7
    )
    assert len(b.train) == 3 and len(b.test) == 7
    assert [images.name for images in b.ood] == ["wolves", "noise"]
    assert benchmark_from_folders(own / "id", own / "far", train_per_class=0).train is None
    pairs = {"automobiles": own / "far" / "cars"}
    assert benchmark_from_folders(own / "id", pairs).far[0].name == "automobiles"


def test_a_training_folder_takes_the_place_of_the_split(own):
    with pytest.raises(BenchmarkError, match="2 classes of .* are not in .*: 'cat', 'dog'"):
        many(own / "train" / "polar_bear", 2)
        load_benchmark(own)
    many(own / "train" / "cat", 2)
    many(own / "train" / "dog", 2)
    zoo = load_benchmark(own)
    assert len(zoo.test) == 49 and len(zoo.train) == 6
    assert "train are for proxies, and none of these" in read_bench_folder(own).told(zoo)
    many(own / "train" / "lynx", 2)
    with pytest.raises(BenchmarkError, match="'lynx'; both need the same subfolders"):
        load_benchmark(own)


def test_one_set_without_a_subfolder_has_the_groups_name(tmp_path):
    many(tmp_path / "b" / "id" / "cat", 2)
    many(tmp_path / "b" / "ood", 3)
    b = load_benchmark(tmp_path / "b")
    assert [images.name for images in b.far] == ["ood"] and len(b.far[0]) == 3


def test_files_that_are_no_images_are_left_out_and_told(own):
    fill(own / "far" / "cars", "README.txt", ".DS_Store", "Thumbs.db", ".hidden/a.png", "a.JPEG")
    fill(own / "id", ".cache/a.png")
    fill(own / "id", "cat/a.txt", "dog/b.txt", "__MACOSX/._a.png")
    with pytest.warns(UserWarning) as told:
        b = load_benchmark(own)
    texts = [str(warning.message) for warning in told]
    assert len(texts) == 3  # one for each folder that was given, not for each class
    assert "2 files in " in texts[0] and "(first: cat/a.txt)" in texts[0]
    assert "2 files or folders of the operating system" in texts[1]
    assert "1 files in " in texts[2] and "(first: README.txt)" in texts[2]
    assert len(b.far[0]) == 6 and len(b.class_names) == 3
    assert {".png", ".jpg", ".webp"} <= image_suffixes()
    assert not {".pdf", ".eps", ".txt", ".mpg"} & image_suffixes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: shutil.rmtree(f / "id"),
            "has no subfolder id; a benchmark",
        ),
        (
            lambda f: [shutil.rmtree(f / name) for name in ("near", "far")],
            "has no subfolder ood, near or far",
        ),
        (lambda f: many(f / "farther", 1), "a subfolder 'farther', which nothing reads"),
        (lambda f: many(f / "far", 1), "images of its own .first: 00.png. beside the subfolders"),
        (lambda f: many(f / "id", 2), "2 images lie in .*id itself"),
        (lambda f: (f / "id" / "emu").mkdir(), "1 of 4 classes have no image in .*id: 'emu'"),
        (lambda f: (f / "near" / "none").mkdir(), "no image in .*none, the folder of the OOD set"),
        (lambda f: many(f / "id" / "polar bear", 1), "give one class name, 'polar bear'"),
        (lambda f: (f / "far" / "cars").rename(f / "far" / "wolves"), "has the name of another"),
        (lambda f: (f / "far" / "cars").rename(f / "far" / "Test"), "a name that tables"),
        (lambda f: (f / "near" / "again").symlink_to(f / "far" / "noise"), "are one folder"),
        (
            lambda f: [
                shutil.rmtree(f / "id"),
                many(f / "id" / "train", 2),
                many(f / "id" / "test", 2),
            ],
            "are splits, not classes",
        ),
    ],
)
def test_what_is_no_benchmarks_folder(own, change, message):
    change(own)
    with pytest.raises(BenchmarkError, match=message):
        load_benchmark(own)


def test_folders_that_share_images_or_are_not_there(own):
    with pytest.raises(BenchmarkError, match="lie in one another"):
        benchmark_from_folders(own / "id", own / "id" / "cat")
    with pytest.raises(BenchmarkError, match="nothing is not there; give a folder of images"):
        benchmark_from_folders(own / "id", own / "nothing")
    with pytest.raises(BenchmarkError, match="is a file; give a folder"):
        benchmark_from_folders(own / "id", fill(own / "x", "a.png") / "a.png")
    with pytest.raises(BenchmarkError, match="no OOD set to tell from"):
        benchmark_from_folders(own / "id")
    with pytest.raises(BenchmarkError, match="has no subfolder, and classes are those"):
        benchmark_from_folders(own / "far" / "noise", own / "near" / "wolves")


def test_folder_and_data_root_do_not_go_together(own):
    with pytest.raises(BenchmarkError, match="a data root has no meaning"):
        load_benchmark(own, own)
    with pytest.raises(BenchmarkError, match="no covariate-shifted ID set"):
        load_benchmark(own, full_spectrum=True)
    with pytest.raises(BenchmarkError, match="is a folder, and OpenOOD's interfaces take a YAML"):
        read_source(own)


def test_wordnet_ids_and_names_that_are_one_text(own):
    many(own / "id" / "n01440764", 2)
    with pytest.warns(UserWarning, match=r"1 of 4 class names are WordNet ids \(n01440764\)"):
        load_benchmark(own)
    many(own / "id" / "CAT", 2)
    with pytest.raises(ClassNameError, match="the same name"):
        load_benchmark(own)


def test_a_name_that_is_not_utf8_is_refused(own):
    try:
        (own / "far" / "noise" / os.fsdecode(b"\xff.png")).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    with pytest.raises(BenchmarkError, match="is not UTF-8; rename the file"):
        load_benchmark(own)


def test_class_names_are_matched_to_subfolders(own):
    far = own / "far" / "noise"
    b = benchmark_from_folders(own / "id", far, classes=["Polar-Bear", "dog", "cat"])
    assert b.class_names == ("Polar-Bear", "dog", "cat")
    assert [path.split("/")[0] for path in b.test.paths[-3:]] == ["cat"] * 3
    assert b.test.labels.tolist()[-3:] == [2] * 3
    with pytest.raises(BenchmarkError, match="1 subfolders of .* none of the 2 classes: 'cat'"):
        benchmark_from_folders(own / "id", far, classes=["polar bear", "dog"])
    with pytest.raises(BenchmarkError, match="no subfolder for 1 of 4 classes: 'emu'"):
        benchmark_from_folders(own / "id", far, classes=["polar bear", "dog", "cat", "emu"])


def test_imagenets_names_fit_subfolders_named_by_wordnet_ids(tmp_path):
    for i in range(200):
        many(tmp_path / "val" / f"n{10**6 + i:08}", 2)
    far = many(tmp_path / "far", 1)
    with silent():
        b = benchmark_from_folders(tmp_path / "val", far, classes="imagenet200")
    assert len(b.class_names) == 200
    at = b.test.labels.tolist().index(3)
    assert b.test.paths[at].startswith("n01000003/")
