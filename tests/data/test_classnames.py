"""Class names: known sets, files and lists, and the checks that all of them pass."""

import sys

import pytest

from openood_interneg.data.classnames import (
    KNOWN_CLASS_NAMES,
    ClassNameError,
    check_class_names,
    class_names,
)


def test_cifar10_names_in_label_order():
    expected = "airplane automobile bird cat deer dog frog horse ship truck"
    assert class_names("cifar10") == tuple(expected.split())


def test_cifar100_names_in_label_order():
    names = class_names("cifar100")
    assert len(set(names)) == 100 and list(names) == sorted(names)
    assert names[1] == "aquarium fish" and names[-1] == "worm"
    assert sum(" " in name for name in names) == 9 and not any("_" in name for name in names)


def test_imagenet_names_are_open_clips_with_its_two_repeated_names():
    pytest.importorskip("open_clip")
    names = class_names("imagenet")
    assert len(names) == 1000 and len(set(names)) == 998
    assert names[0] == "tench" and names.count("missile") == names.count("sunglasses") == 2


def test_imagenet200_pairs_openoods_labels_with_imagenets():
    pytest.importorskip("open_clip")
    names, imagenet = class_names("imagenet200"), class_names("imagenet")
    assert len(set(names)) == 200
    # Labels in OpenOOD's image lists: 110 is n02607072, ImageNet-1k's 393.
    assert names[110] == imagenet[393] == "clownfish"
    assert (names[0], names[1], names[199]) == ("goldfish", "great white shark", "acorn")


def test_file_of_names_keeps_order_and_spelling(write):
    path = write("names.txt", "# my classes\nzebra\r\n aquarium_fish \ncafé {x}\n\n\n")
    assert class_names(path) == class_names(str(path)) == ("zebra", "aquarium_fish", "café {x}")


def test_repeated_names_are_refused_with_their_lines_unless_allowed(write):
    path = write("names.txt", "# two cranes\ncrane\nbird\nCrane\n")
    with pytest.raises(ClassNameError, match=r"'Crane' \(lines 2 and 4\).*rename one of each"):
        class_names(path)
    assert class_names(path, allow_duplicates=True) == ("crane", "bird", "Crane")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no class names in it"),
        ("# none\n \n", "no class names in it"),
        ("cat\n\ndog\n", "line 2: empty; the names' order is the labels' order"),
        (b"cat\nd\xf6g\n", "line 2: not UTF-8"),
        ("cat\n".encode("utf-16-le"), "holds a NUL character"),
    ],
)
def test_bad_files_of_names_are_refused(write, content, message):
    path = write("names.txt", content)
    with pytest.raises(ClassNameError, match=message) as refusal:
        class_names(path)
    assert str(path) in str(refusal.value)


def test_unknown_sources_list_the_known_ones(tmp_path):
    with pytest.raises(ClassNameError, match="text file with one name a line") as refusal:
        class_names("cifar1000")
    assert all(name in str(refusal.value) for name in KNOWN_CLASS_NAMES)
    with pytest.raises(ClassNameError, match="no such file"):
        class_names(tmp_path / "absent.txt")
    with pytest.raises(ClassNameError, match="is a folder"):
        class_names(tmp_path)


@pytest.mark.parametrize("name", ["imagenet", "imagenet200"])
def test_missing_open_clip_names_the_package(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        class_names(name)


def test_wordnet_ids_as_class_names_are_warned_of(tmp_path):
    (tmp_path / "ids.txt").write_text("n01440764\nn01443537\n")
    with pytest.warns(UserWarning, match="2 of 2 class names are WordNet ids.*usual words"):
        class_names(tmp_path / "ids.txt")


def test_imagenets_own_repeated_names_pass_as_a_known_set_only():
    names = class_names("imagenet")
    assert check_class_names(names) == names
    with pytest.raises(ClassNameError, match="'missile'"):
        check_class_names(names[:-1])


def test_a_network_refuses_names_that_are_the_same():
    from openood_interneg.plugin.network import resolve_class_names

    with pytest.raises(ClassNameError, match="class names 0 and 2"):
        resolve_class_names(["cat", "dog", "cat"])


def test_names_alike_within_the_tokens_that_the_model_reads_are_refused_by_all(miniature):
    from openood_interneg.negatives.space_builder import TextSpaceBuilder
    from openood_interneg.plugin.network import ClipZeroShot

    names = ("very " * 100 + "old", "cat", "very " * 100 + "new")
    with pytest.raises(ClassNameError, match=r"\(class names 0 and 2\).*shorten or rename"):
        TextSpaceBuilder(miniature, names).labels("nice")
    with pytest.raises(ClassNameError, match=r"\(class names 0 and 2\)"):
        ClipZeroShot(miniature, names)
    # how much of a name is read depends on the prompt: these two differ at the 75th word
    names = ("very " * 74 + "old", "very " * 74 + "new")
    TextSpaceBuilder(miniature, names).labels("{}")
    with pytest.raises(ClassNameError, match="CLIP sees no difference"):
        TextSpaceBuilder(miniature, names).labels("a photo of a {}")
