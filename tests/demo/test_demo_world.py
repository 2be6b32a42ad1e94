"""The drawn benchmark: the same seed gives the same bytes, OpenOOD's layout, and a usable CLIP."""

import json
from pathlib import Path

import numpy as np
import pytest

from openood_interneg import vlm
from openood_interneg.demo import world
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.demo.shapes import SHAPES

FAR = [kind for kinds in world.FAR_KINDS.values() for kind in kinds]
ALL_KINDS = [*world.ID_KINDS, *world.NEAR_KINDS, *FAR]
SIZES = {"train_per_class": 2, "test_per_class": 3, "near": 60, "far": 10}
CHECKPOINT = Path(vlm.__file__).parent / "miniature" / "packed.safetensors"


def pixels(kind, index=0, seed=0, stream="test", size=64):
    return np.asarray(world.draw(kind, world.image_rng(seed, stream, index), size))


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "miniature"
    write_benchmark(root, seed=3, **SIZES)
    return root


def test_kinds():
    assert len(world.ID_KINDS) == 10 and len(world.NEAR_KINDS) >= 30
    assert set(world.ID_KINDS) | set(world.NEAR_KINDS) == set(SHAPES)
    assert set(world.HELD_OUT_KINDS) < set(world.NEAR_KINDS)
    assert len(world.HELD_OUT_KINDS) >= 6
    assert len(set(ALL_KINDS)) == len(ALL_KINDS)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_draws_a_picture(kind):
    image = pixels(kind)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert image.reshape(-1, 3).std(axis=0).max() > 2
    assert not np.array_equal(image, pixels(kind, index=1))


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_leaves_a_mark(kind):
    # Grain alone would make any picture non-constant, so look at the layer before the camera.
    layer = world._object_layer(kind, world.image_rng(0, "test", 0), 64, np.zeros(3))
    assert 0.02 < (np.asarray(layer)[..., 3] > 127).mean() < 0.9


def test_same_rng_same_picture_whatever_the_global_state():
    np.random.seed(1)
    first = pixels("star", seed=7)
    np.random.seed(2)
    assert np.array_equal(first, pixels("star", seed=7))
    assert pixels("star", size=96).shape == (96, 96, 3)


def test_seed_stream_and_index_all_matter():
    reference = pixels("key", 5, seed=1, stream="test")
    for other in (
        pixels("key", 6, seed=1, stream="test"),
        pixels("key", 5, seed=2, stream="test"),
        pixels("key", 5, seed=1, stream="pool"),
    ):
        assert not np.array_equal(reference, other)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unicorn"):
        pixels("unicorn")


def test_layout_and_label_counts(benchmark):
    lists = benchmark / "benchmark_imglist" / "miniature"
    expected = {
        "train_shapes": 20,
        "test_shapes": 30,
        "test_othershapes": 60,
        "test_textures": 10,
        "test_letters": 10,
        "test_noise": 10,
    }
    assert {p.stem for p in lists.iterdir()} == set(expected)
    for name, count in expected.items():
        rows = [line.rsplit(" ", 1) for line in (lists / f"{name}.txt").read_text().splitlines()]
        assert len(rows) == len({path for path, _ in rows}) == count
        for path, label in rows:
            folder, split, kind, file = path.split("/")
            assert f"{split}_{folder}" == name and file.endswith(".png")
            assert (benchmark / "images_classic" / path).is_file()
            assert int(label) == (world.ID_KINDS.index(kind) if folder == "shapes" else -1)
    test_labels = [
        line.split()[-1] for line in (lists / "test_shapes.txt").read_text().splitlines()
    ]
    assert all(test_labels.count(str(label)) == 3 for label in range(10))


def test_same_seed_same_bytes(benchmark, tmp_path):
    seen = []
    write_benchmark(tmp_path / "again", seed=3, **SIZES, progress=lambda *step: seen.append(step))
    assert files(benchmark) == files(tmp_path / "again")
    assert seen[0] == (1, 140) and seen[-1] == (140, 140)
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_finished_benchmark_is_left_alone(benchmark):
    before = {p: p.stat().st_mtime_ns for p in benchmark.rglob("*")}
    write_benchmark(benchmark, seed=3, **SIZES)
    assert before == {p: p.stat().st_mtime_ns for p in benchmark.rglob("*")}


def test_other_parameters_replace_it_but_foreign_files_are_safe(tmp_path):
    small = {"train_per_class": 1, "test_per_class": 1, "near": 2, "far": 1}
    root = tmp_path / "miniature"
    write_benchmark(root, seed=0, **small)
    first = files(root)
    write_benchmark(root, seed=1, **small)
    second = files(root)
    assert first.keys() == second.keys() and first != second

    (root / "results.json").write_text("{}")
    with pytest.raises(FileExistsError):
        write_benchmark(root, seed=2, **small)
    assert len(files(root)) == len(second) + 1

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError):
        write_benchmark(tmp_path / "mine", **small)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_failure_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_benchmark(tmp_path / "miniature", **SIZES, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_shipped_checkpoint_is_small_loads_and_reads_pictures():
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    from open_clip.model import CLIP
    from safetensors.torch import load_file

    from openood_interneg.vlm.packed_weights import unpacked

    assert CHECKPOINT.stat().st_size <= 15_000_000
    config = json.loads((CHECKPOINT.parent / "clip.json").read_text())
    model = CLIP(
        config["embed_dim"],
        config["vision_cfg"],
        config["text_cfg"],
        quick_gelu=config["quick_gelu"],
    ).eval()
    model.load_state_dict(unpacked(load_file(CHECKPOINT)))

    preprocess = config["preprocess"]
    x = np.stack([pixels(kind, i) for kind in world.ID_KINDS for i in range(20)]) / 255.0
    x = (x - preprocess["mean"]) / preprocess["std"]
    tokens = open_clip.tokenize([f"The nice {kind}." for kind in world.ID_KINDS])
    with torch.no_grad():
        texts = model.encode_text(tokens, normalize=True)
        images = model.encode_image(torch.tensor(x).float().permute(0, 3, 1, 2), normalize=True)
    correct = (images @ texts.T).argmax(1) == torch.arange(10).repeat_interleave(20)
    assert correct.float().mean() > 0.7
