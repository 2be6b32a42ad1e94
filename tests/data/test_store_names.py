"""Names and contents of what a small run keeps: later versions find what this one made.

A test that fails here means that all stores of all users are computed anew. If that is meant (a key
or a tensor means something else than before), `store.FORMAT` grows by one, these values are
replaced by those that the test prints, and CHANGELOG.md says so. If it is not, the key changed by
accident: change it back.
"""

import sys

import pytest

from openood_interneg.cli import main
from openood_interneg.data.digests import digest
from openood_interneg.data.image_lists import ImageList
from openood_interneg.data.store import FORMAT, Store, read_tensors
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.vlm.backbones import Backbone

WORDS = ("dog", "river", "engine", "cloud", "ladder", "red", "happy", "star", "Mug", "theory")
# What stands for a digest that changes with the machine: of weights, of files, of features.
MODEL, FEATURES = "the model", "some features"

NAMES = {
    "images miniature": "a49115546b8efa22a8985b28b1e04b39",
    "images othershapes": "d907d061ac064887559ff33b37004045",
    "images textures": "549dc1e5dd4188f14859ae941551c7ac",
    "images letters": "7e99391283a8e45b6cb73447418c5b08",
    "images noise": "5225c8ab0dfc5b8bd373c427995d9497",
    "texts of 10": "d4d8f6a96a0136e22486d01902bb4d13",
    "mined": "bfcfc3f6c115d5c9585c37e11334f56c",
    "texts of 8": "7891c0fcb569e019638ca76b068f28c2",
    "ranks": "120676228700e2c34e92bbfce812d77b",
    "inversions": "8409395d9b5fcee80b9bf1d143119b67",
}
CONTENTS = {
    "features": {"features": "torch.float32"},
    "texts": {"features": "torch.float32"},
    "mined": {
        "deviation": "torch.float32",
        "features": "torch.float32",
        "margin": "torch.float32",
        "words": "torch.uint8",
    },
    "ranks": {"rank": "torch.float32"},
    "inversions": {"keys": "torch.int64", "marks": "torch.uint8", "rows": "torch.float32"},
}


def steady(key):
    """A key with one word for the digests of features, whose last bits are the machine's."""
    if isinstance(key, dict):
        return {k: FEATURES if k in ("inter", "proxies") else steady(v) for k, v in key.items()}
    return [steady(part) for part in key] if isinstance(key, (list, tuple)) else key


def called(kind, key):
    if kind not in ("features", "texts"):
        return kind
    return f"images {key[0]['images']}" if kind == "features" else f"texts of {key[1]}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(names by what is in them, folders by kind) of a run of `interneg encode --invert`."""
    root = tmp_path_factory.mktemp("named")
    write_benchmark(root / "data", seed=1, train_per_class=3, test_per_class=2, near=10, far=6)
    (root / "words.txt").write_text("\n".join(WORDS))
    args = (
        *("--data-root", root / "data", "--backbone", "miniature", "--device", "cpu"),
        *("--corpus", root / "words.txt", "--images-per-class", 2, "--num-negatives", 6),
        *("--steps", 1, "--templates", "photo", "--invert", "--cache-dir", root / "cache", "-q"),
    )
    names, folders = {}, {}
    genuine = Store.folder

    def folder(self, kind, key):
        found = genuine(self, kind, key)
        assert found == root / "cache" / kind / digest([FORMAT, kind, key])
        names[called(kind, key)] = digest([FORMAT, kind, steady(key)])
        folders[kind] = found
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "folder", folder)
        patch.setattr(Backbone, "digest", MODEL)
        patch.setattr(ImageList, "digest", property(lambda self: self.name))
        patch.setattr(sys, "argv", ["interneg", "encode", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return names, folders


def test_names_of_entries_stay(run):
    assert run[0] == NAMES


def test_contents_of_entries_stay(run):
    found = {}
    for kind, folder in run[1].items():
        tensors, _ = read_tensors(min(folder.glob("*.safetensors")))
        found[kind] = {name: str(tensor.dtype) for name, tensor in sorted(tensors.items())}
    assert found == CONTENTS
