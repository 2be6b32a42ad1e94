"""A drawn world for the application's tests: classes, ID images, a stream, words."""

import atexit
import functools
import hashlib
import importlib.util
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from openood_interneg import vlm
from openood_interneg.application.detector import InterNegDetector
from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS, draw, image_rng
from openood_interneg.vlm.factory import load_backbone
from openood_interneg.vlm.packed_weights import unpacked

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ID_KINDS[:4]
WORDS = (
    "dog river engine cloud ladder noise stripes checks dots texture pattern letter bird train "
    "whale wrench gear barn banana knife chair table bottle lamp phone boat plane bridge"
).split()
OPTIONS = {"images_per_class": 6, "num_negatives": 20, "steps": 3}
# Between cuts of the stream; fp32 sums differ in their last bits, and log-sums at scale 100 too.
TOLERANCE = 1e-4


@functools.lru_cache
def world() -> Path:
    """A folder with id/<class>/*.png, test/*.png, words.txt and classes.txt."""
    root = Path(tempfile.mkdtemp(prefix="interneg-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for label, kind in enumerate(CLASSES):
        (root / "id" / kind).mkdir(parents=True)
        for i in range(14):
            draw(kind, image_rng(0, "train", 100 * label + i)).save(
                root / "id" / kind / f"{i:02d}.png"
            )
    (root / "test").mkdir()
    other = FAR_KINDS["textures"] + NEAR_KINDS
    for i in range(48):
        kind = CLASSES[i // 2 % 4] if i % 2 else other[i % len(other)]
        draw(kind, image_rng(0, "test", i)).save(root / "test" / f"{i:03d}.png")
    (root / "words.txt").write_text("\n".join(WORDS))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def stream_files() -> list[Path]:
    return sorted((world() / "test").iterdir())


@functools.lru_cache
def miniature():
    """The miniature; a batch of pixels that it has encoded is not encoded again."""
    backbone, known = load_backbone("miniature"), {}
    encode = backbone.encode_image

    def encode_once(images):
        key = hashlib.blake2b(images.numpy().tobytes()).digest()
        if key not in known:
            known[key] = encode(images)
        return known[key].clone()

    backbone.encode_image = encode_once
    return backbone


def plain(**values) -> InterNegDetector:
    # texts are encoded and mined once in a process
    places = {"corpus": str(world() / "words.txt"), "cache": world() / "store"}
    return InterNegDetector(miniature(), **(places | OPTIONS | values))


def fitted(**values) -> InterNegDetector:
    detector = plain(**({"gamma": 0.5} | values))
    return detector.fit(CLASSES, world() / "id", calibrate=False)


@functools.lru_cache
def reference() -> np.ndarray:
    return fitted().score(stream_files())


def plain_miniature(folder: Path) -> None:
    """The miniature's CLIP as a checkpoint like others: clip.safetensors and clip.json."""
    miniature = Path(vlm.__file__).parent / "miniature"
    save_file(unpacked(load_file(miniature / "packed.safetensors")), folder / "clip.safetensors")
    shutil.copy(miniature / "clip.json", folder / "clip.json")


def example(name: str):
    """A script of `examples/` as a module."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_threads(jobs):
    errors = []

    def run(job):
        try:
            job()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
