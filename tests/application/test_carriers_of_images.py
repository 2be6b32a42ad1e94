"""Whatever carries images gives the detector the same images."""

import io
import json
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_world import CLASSES, fitted, plain, stream_files, world
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from openood_interneg.application.inputs import labelled_images, names_in, unlabelled_images
from openood_interneg.application.state import StateError
from openood_interneg.data.any_image import ImageLimits, as_image
from openood_interneg.data.classnames import class_names
from openood_interneg.data.images import ImageError
from openood_interneg.detectors.base import DetectorError

TEST = 6


def id_pairs(count=3) -> list[tuple[Path, str]]:
    return [
        (p, kind) for kind in CLASSES for p in sorted((world() / "id" / kind).iterdir())[:count]
    ]


def as_tar(path: Path, pairs) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, (file, kind) in enumerate(pairs):
            for ending, content in ((".png", file.read_bytes()), (".cls", kind.encode())):
                info = tarfile.TarInfo(f"{number:04d}{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def as_csv(path: Path, pairs) -> Path:
    path.write_text("path,label\n" + "".join(f"{file},{kind}\n" for file, kind in pairs))
    return path


def as_list(path: Path, pairs) -> Path:
    rows = (f"{file} {CLASSES.index(kind)}\n" for file, kind in pairs)
    path.write_text("".join(rows))
    return path


def as_hugging_face(pairs):
    hf = pytest.importorskip("datasets")
    order = sorted(CLASSES, reverse=True)
    features = hf.Features({"picture": hf.Image(), "kind": hf.ClassLabel(names=order)})
    rows = {
        "picture": [{"bytes": file.read_bytes(), "path": None} for file, _ in pairs],
        "kind": [order.index(kind) for _, kind in pairs],
    }
    return hf.Dataset.from_dict(rows, features=features)


def as_loader(pairs):
    rows = [{"data": pil_to_tensor(as_image(f)), "label": CLASSES.index(k)} for f, k in pairs]
    return DataLoader(rows, batch_size=5)


CARRIERS = {
    "tar": lambda pairs, folder: as_tar(folder / "x.tar", pairs),
    "csv": lambda pairs, folder: as_csv(folder / "x.csv", pairs),
    "list": lambda pairs, folder: as_list(folder / "x.txt", pairs),
    "hugging face": lambda pairs, folder: as_hugging_face(pairs),
    "hugging face stream": lambda pairs, folder: as_hugging_face(pairs).to_iterable_dataset(),
    "loader": lambda pairs, folder: as_loader(pairs),
    "bytes": lambda pairs, folder: ((file.read_bytes(), kind) for file, kind in pairs),
    "open files": lambda pairs, folder: [(io.BytesIO(f.read_bytes()), k) for f, k in pairs],
}


@pytest.mark.parametrize("name", CARRIERS)
def test_id_images_of_every_carrier_are_the_same(name, tmp_path):
    pairs = id_pairs()
    sources, labels = labelled_images(CARRIERS[name](pairs, tmp_path), CLASSES)
    assert [CLASSES[label] for label in labels] == [kind for _, kind in pairs]
    for source, (file, _) in zip(sources, pairs, strict=True):
        np.testing.assert_array_equal(np.asarray(as_image(source)), np.asarray(as_image(file)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIERS)
def test_every_carrier_is_scored_and_streamed(name, tmp_path):
    pairs = [(path, CLASSES[0]) for path in stream_files()[:TEST]]
    wanted = fitted().score(stream_files()[:TEST])
    got = fitted().score(CARRIERS[name](pairs, tmp_path))
    np.testing.assert_array_equal(got, wanted)
    batches = fitted().stream(CARRIERS[name](pairs, tmp_path), workers=2)
    np.testing.assert_array_equal(np.float32([e.score for b in batches for e in b]), wanted)


def test_fit_and_calibrate_take_them(tmp_path):
    folder = fitted()
    for carrier in (as_tar(tmp_path / "x.tar", id_pairs(14)), ImageFolder(world() / "id")):
        detector = plain(gamma=0.5).fit(CLASSES, carrier, calibrate=False)
        np.testing.assert_array_equal(
            detector.score(stream_files()[:4], update=False),
            folder.score(stream_files()[:4], update=False),
        )
    detector = plain().fit(CLASSES, as_csv(tmp_path / "x.csv", id_pairs(14)), calibrate=True)
    assert detector.gamma == plain().fit(CLASSES, world() / "id", calibrate=True).gamma


def test_names_of_streamed_images_let_a_run_be_resumed(tmp_path):
    path = as_tar(tmp_path / "x.tar", [(file, "star") for file in stream_files()[:8]])
    whole = [e for b in fitted(batch_size=4).stream(path) for e in b]
    assert whole[5].name == f"{path}/0005.png"
    first = fitted(batch_size=4)
    next(first.stream(path))
    first.save(tmp_path / "state")
    again = fitted(batch_size=4).load(tmp_path / "state")
    rest = [e for b in again.stream(path, resume=True) for e in b]
    assert rest == whole[4:]


def test_a_state_knows_the_id_images_of_its_archive(tmp_path):
    path = as_tar(tmp_path / "x.tar", id_pairs(8))
    plain(gamma=0.5).fit(CLASSES, path, calibrate=False).save(tmp_path / "state")
    again = plain(gamma=0.5).load(tmp_path / "state", class_names=CLASSES, id_images=path)
    assert again.class_names == tuple(CLASSES)
    as_tar(path, [(file, kind) for file, kind in id_pairs(9) if file.stem != "00"])
    with pytest.raises(StateError, match="ID images"):
        plain(gamma=0.5).load(tmp_path / "state", class_names=CLASSES, id_images=path)


def test_a_mapping_with_class_names_that_data_sets_use():
    image = Image.new("RGB", (4, 4))
    mapping = {"data": [image, image], "label": [image]}
    assert labelled_images(mapping, ["label", "data"])[1].tolist() == [1, 1, 0]
    assert len(unlabelled_images(mapping, ["label", "data"])) == 3


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], DetectorError, "there are no ID images"),
        ({}, DetectorError, "there are no ID images"),
        (torch.zeros(2, 3, 4, 4), DetectorError, "ID image 0 comes without its class"),
        (b"x", DetectorError, "ID image 0 comes without its class"),
        ("https://host/a.zip", DetectorError, "ID image 0 comes without its class"),
        ("none.csv", ImageError, r"none\.csv"),
        ("none", DetectorError, r"no folder of ID images, and no list, table or archive"),
        ([("a.png", "star"), ("b.png", "stair")], DetectorError, "did you mean 'star'"),
        (7, ImageError, "not as int"),
    ],
)
def test_id_images_that_cannot_be(images, error, message):
    with pytest.raises(error, match=message):
        labelled_images(images, ["star", "tree"])


def test_class_names_come_from_folders_tables_and_archives(tmp_path):
    wanted = tuple(sorted(CLASSES))
    assert names_in(world() / "id") == wanted
    assert names_in(as_csv(tmp_path / "x.csv", id_pairs())) == wanted
    assert names_in(as_tar(tmp_path / "x.tar", id_pairs())) == wanted
    with pytest.raises(DetectorError, match=r"labels of .*x\.txt are no names \(one is 0\)"):
        names_in(as_list(tmp_path / "x.txt", [(stream_files()[0], CLASSES[0])]))
    with pytest.raises(DetectorError, match="has no subfolder"):
        names_in(world() / "none")


@pytest.mark.slow  # imports open_clip for the names
def test_folders_named_by_wordnet_ids_and_what_systems_leave(tmp_path):
    for number in range(200):
        (tmp_path / f"n{number:08d}").mkdir()
        (tmp_path / f"n{number:08d}" / "a.png").write_bytes(b"x")
    (tmp_path / "n00000003" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    with pytest.warns(UserWarning, match=r"1 files .* \(1 Thumbs\.db\)"):
        sources, labels = labelled_images(tmp_path, class_names("imagenet200"))
    assert labels.tolist() == list(range(200)) and sources[3].parent.name == "n00000003"
    with pytest.warns(UserWarning, match=r"3 of 3 .* \(n00000001, n00000002, n00000003\), which"):
        class_names(["n00000001", "n00000002", "n00000003"])


def test_urls_are_no_part_of_a_state(tmp_path):
    pytest.importorskip("fsspec")
    open_to = ImageLimits(urls=("memory",))
    detector = fitted(limits=open_to)
    detector.save(tmp_path / "state")
    assert type(detector).load(tmp_path / "state").limits == ImageLimits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(limits=open_to).load(tmp_path / "state")
    scored = [e for b in fitted().stream(["memory://a.png"]) for e in b]
    assert "nothing is fetched unasked" in scored[0].error


@pytest.mark.slow  # three runs of the command
def test_the_command_takes_archives_and_tables(run, tmp_path):
    def lines(*args):
        code, _, out, err = run(*args, "--gamma", 0.5)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    files = [(file, CLASSES[0]) for file in stream_files()[:TEST]]
    id_table = as_csv(tmp_path / "id.csv", id_pairs(14))
    from_tar = lines(as_tar(tmp_path / "x.tar", files), "--id-images", id_table)
    from_csv = lines(as_csv(tmp_path / "x.csv", files))
    assert [row["score"] for row in from_tar] == [row["score"] for row in from_csv]
    assert from_csv[2]["file"] == str(files[2][0])
    assert from_tar[2]["file"].endswith("x.tar/0002.png")
    (refused,) = lines("https://host/a.png")
    assert "nothing is fetched unasked" in refused["error"] and "--urls" in refused["error"]
    code, _, _, err = run(tmp_path / "x.csv", "--urls", "https://")
    assert code == 1 and "it takes schemes" in err
