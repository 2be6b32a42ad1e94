"""Fast paths against plain ones, independence of batches, and runs over several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from openood_interneg.data.distributed import SharedStore, World
from openood_interneg.data.store import Store, read_tensors
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.negatives import inversion, space_builder, stored_texts
from openood_interneg.negatives.inversion import LiveInverter, draw, invert
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings, SettingsError, TextSpaceSettings
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.pseudo_prompts import pseudo_prompts
from openood_interneg.vlm.text_tower import FullLengthTextTower

ROOT = Path(__file__).resolve().parents[2]
# different prefixes, different rests, one with nothing before and one with nothing after
TEMPLATES = ("a photo of {}", "a {} in a video game.", "{}", "itap of my {}.", "the big {}")


def random_clip(precision="fp32", width=64, heads=2, layers=3, text=None, **options) -> Backbone:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
        text_cfg=dict(width=width, heads=heads, layers=layers, context_length=24) | (text or {}),
        **options,
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.12)
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    return Backbone(model, tokenizer, Preprocess(32), name="random", precision=precision)


def plain_prompts(backbone, templates, count):
    """The same prompts at full length, with autograd's own backward."""
    placeholder = int(backbone.tokenizer(["$"])[0, 1])
    slots = " ".join(["$"] * count)
    ids = backbone.tokenizer([t.replace("{}", f" {slots} ") for t in templates])
    tower = FullLengthTextTower(backbone.model.encode_text, backbone.model.token_embedding)
    return pseudo_prompts(tower, ids, count, placeholder)


def features_and_gradient(prompts, index, pseudo):
    v = pseudo.clone().requires_grad_(True)
    features = prompts.embed(index, v)
    target = torch.linspace(-1, 1, features.numel()).view_as(features)
    gradient = torch.autograd.grad((features * target).sum(), v)[0]
    return features.detach(), gradient / gradient.abs().max()


class Odd(torch.nn.Module):
    """An activation that the tower has no closed form for."""

    def forward(self, x):
        return x * torch.tanh(x)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(quick_gelu=True),
        dict(layers=1),
        dict(width=96, heads=4, layers=2),
        dict(text=dict(ls_init_value=0.3)),
    ],
    ids=["gelu", "quick-gelu", "one-layer", "head-size-24", "layer-scale"],
)
def test_written_out_backward_equals_autograd(options, count):
    backbone = random_clip(**options)
    index = torch.tensor([0, 1, 2, 3, 4, 1, 1, 0, 2, 4])
    width = backbone.text_tower.width
    pseudo = torch.randn(len(index), count, width, generator=torch.Generator().manual_seed(1))
    for templates, which in ((TEMPLATES, index), (TEMPLATES[:1], index * 0)):
        fast = features_and_gradient(backbone.pseudo_prompts(templates, count), which, pseudo)
        slow = features_and_gradient(plain_prompts(backbone, templates, count), which, pseudo)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_any_activation():
    backbone = random_clip()
    for block in backbone.model.transformer.resblocks:
        block.mlp.gelu = Odd()
    index = torch.tensor([0, 1, 3])
    pseudo = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(1))
    fast = features_and_gradient(backbone.pseudo_prompts(TEMPLATES, 1), index, pseudo)
    slow = features_and_gradient(plain_prompts(backbone, TEMPLATES, 1), index, pseudo)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_steps_equal_full_length_steps():
    """From the same tokens, one AdamW step after another: rounding is not left to pile up."""
    backbone = random_clip(quick_gelu=True)
    h = F.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    fast, slow = backbone.pseudo_prompts(TEMPLATES, 1), plain_prompts(backbone, TEMPLATES, 1)
    tokens, schedule = draw(range(6), 0, 1, 64, len(TEMPLATES), 5)
    for step in schedule:
        a, b = (invert(prompts, h, tokens, step[None]) for prompts in (fast, slow))
        torch.testing.assert_close(a[1], b[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(a[2], b[2], atol=1e-5, rtol=0)
        tokens = b[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inversion_depends_on_neither_batch_nor_order_nor_chunk(precision, monkeypatch):
    backbone = random_clip(precision)
    h = F.normalize(torch.randn(11, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    keys = torch.arange(11) + 40
    prompts = backbone.pseudo_prompts(TEMPLATES, 1)
    steps = 3 if precision == "fp32" else 1  # AdamW's first steps amplify rounding
    tolerance = 2e-4 if precision == "fp32" else 5e-2
    live = LiveInverter(prompts, len(TEMPLATES), steps=steps, seed=2)
    whole = live(h, keys)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    shuffled = torch.empty_like(whole)
    shuffled[order] = live(h[order], keys[order])
    alone = torch.cat([live(h[i : i + 1], keys[i : i + 1]) for i in range(11)])
    monkeypatch.setattr(inversion, "CHUNK_BYTES", 3 * prompts.bytes_per_image)
    chunked = live(h, keys)
    for other in (shuffled, alone, chunked):
        torch.testing.assert_close(whole, other, atol=tolerance, rtol=0)


def test_nothing_gated_inverts_nothing():
    prompts = random_clip().pseudo_prompts(TEMPLATES, 1)
    out = LiveInverter(prompts, len(TEMPLATES))(torch.empty(0, 32), torch.empty(0).long())
    assert out.shape == (0, 32)


def test_imagenet_templates_in_one_batch():
    backbone = random_clip()
    templates = prompt_set("imagenet80")
    index = torch.arange(80)
    pseudo = torch.randn(80, 1, 64, generator=torch.Generator().manual_seed(1))
    fast = features_and_gradient(backbone.pseudo_prompts(templates, 1), index, pseudo)
    slow = features_and_gradient(plain_prompts(backbone, templates, 1), index, pseudo)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- the stream


def unit(count, seed, dim=16):
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=-1)


class PlainSamples(InterNeg):
    """Algorithm 1 with every text laid out and multiplied anew for every admission."""

    def _update_samples(self, features, keys, every, id_lse, score):
        final = score.clone()
        for i in range(len(features)):
            if final[i] < self.settings.beta:
                rows, good, deviation = self._candidates(features[i : i + 1], keys[i : i + 1])
                if self.bank.offer(rows[good], deviation[good], keys[i : i + 1][good]):
                    self.bank.settle()
                    self._bank_changed()
                    final[i:] = self._score(id_lse[i:], self._logits(features[i:])[1])
        return final


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("capacity", [3, 12, 500])
def test_incremental_scores_equal_full_products(groups, capacity):
    labels = unit(5, 1)
    proxies = F.normalize(labels + 0.4 * unit(5, 2), dim=-1)
    space = TextSpace(
        labels=labels,
        logit_scale=10.0,
        negatives=unit(21, 3),
        proxies=proxies,
        base=(labels * proxies).sum(1),
    )
    settings = InterNegSettings(
        beta=0.6, bank_capacity=capacity, groups=groups, update="sample", seed=0
    )
    turn = torch.linalg.qr(unit(16, 9))[0]
    scores, banks = [], []
    for kind in (InterNeg, PlainSamples):
        detector = kind(settings, lambda h, keys: h @ turn).fit(space)
        features = unit(200, 4)
        parts = [detector.step(part).score for part in features.split(64)]
        scores.append(torch.cat(parts))
        banks.append(detector.bank)
    torch.testing.assert_close(scores[0], scores[1], atol=2e-6, rtol=0)
    torch.testing.assert_close(banks[0].features, banks[1].features, atol=1e-6, rtol=0)
    assert len(banks[0]) > 2 and banks[0].offered == banks[1].offered


# ---------------------------------------------------------------- several processes


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_benchmark(root / "data", seed=1, train_per_class=4, test_per_class=4, near=20, far=12)
    words = "dog river engine cloud ladder red happy star mug theory".split()
    (root / "words.txt").write_text("\n".join(words), encoding="utf-8")
    return root


def command(world, cache, *args, processes=1):
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [
        *(*launcher, "openood_interneg.cli", "encode", "--data-root", str(world / "data")),
        *("--backbone", "miniature", "--corpus", str(world / "words.txt"), "--device", "cpu"),
        *("--images-per-class", "4", "--encode-batch", "4", "--shard-size", "8"),
        *("--cache-dir", str(cache), *args),
    ]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def encode(world, cache, *args, processes=1):
    done = subprocess.run(
        command(world, cache, *args, processes=processes),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def contents(cache, kinds=("features", "texts", "ranks", "mined")):
    """File -> tensors of a store."""
    files = [p for kind in kinds for p in sorted((cache / kind).glob("*/*.safetensors"))]
    return {str(p.relative_to(cache)): read_tensors(p)[0] for p in files}


def assert_equal(a, b):
    assert a.keys() == b.keys() and len(a) > 0
    for name, tensors in a.items():
        assert all(torch.equal(tensor, b[name][key]) for key, tensor in tensors.items()), name


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    cache = tmp_path_factory.mktemp("alone")
    encode(world, cache, "--invert", "--templates", "photo")
    return cache


def inversions(cache):
    rows = {}
    for tensors in contents(cache, ("inversions",)).values():
        for key, row in zip(tensors["keys"].tolist(), tensors["rows"], strict=True):
            rows[key] = row
    return rows


def test_two_processes_write_what_one_writes(world, alone, tmp_path):
    said = encode(world, tmp_path, "--invert", "--templates", "photo", processes=2)
    counts = [int(line.split()[-2]) for line in said.splitlines() if " encoded " in line]
    assert len(counts) == 2 and min(counts) > 0
    assert_equal(contents(alone), contents(tmp_path))
    manifests = [
        sorted(p.parent.name for p in c.glob("*/*/manifest.json")) for c in (alone, tmp_path)
    ]
    assert manifests[0] == manifests[1]
    one, two = inversions(alone), inversions(tmp_path)
    assert one.keys() == two.keys() and all(torch.equal(row, two[key]) for key, row in one.items())


def first_worker(launcher: int) -> int | None:
    """Process number of the first process that a launcher has started (Linux)."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return next(map(int, children.read_text().split()), None)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_is_resumed(world, alone, tmp_path, processes):
    """Killed after the first shards; finished shards stay untouched, the rest is computed.

    Of two workers one is killed; its launcher gives up, and says so.
    """
    if processes > 1 and not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc to find a worker")
    process = subprocess.Popen(
        command(world, tmp_path, processes=processes),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("features/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid if processes == 1 else first_worker(process.pid), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    # whatever the machine's speed, some work is left
    for path in sorted(tmp_path.glob("features/*/*.safetensors"))[2:]:
        path.unlink()
    for path in tmp_path.glob("*/*/manifest.json"):
        path.unlink()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("features/*/*.safetensors")}
    assert kept
    encode(world, tmp_path, processes=2)
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())
    assert_equal(contents(alone), contents(tmp_path))
    said = encode(world, tmp_path)
    assert "encoded 0 images" in said


def test_ranks_are_merged_from_any_shards(tmp_path, monkeypatch):
    """What is mined depends neither on how the corpus is cut nor on who ranked which shard."""
    backbone = random_clip()
    words = [f"{a} {b}" for a in "red old big wet".split() for b in "dog sea car hat tin".split()]
    (tmp_path / "words.txt").write_text("\n".join(words), encoding="utf-8")

    def mined(root):
        images = SimpleNamespace(labels=np.arange(3), features=lambda at: near[torch.tensor(at)])
        source = TextSpaceBuilder(backbone, ["ant", "bee", "cow"], images, Store(root))
        labels = source.labels("a photo of a {}")
        near = F.normalize(labels + 0.05 * torch.eye(*labels.shape), dim=1)
        settings = TextSpaceSettings(
            corpus=str(tmp_path / "words.txt"),
            label_prompt="a photo of a {}",
            images_per_class=1,
            num_negatives=7,
        )
        return source.mined(settings)

    whole = mined(None)
    assert len(whole.words) > 0 and whole.passing["noun"] > 3
    monkeypatch.setattr(stored_texts, "TEXTS_PER_SHARD", 3)
    for turn in range(3):
        again = mined(tmp_path / "store")
        assert again.words == whole.words and again.passing == whole.passing
        torch.testing.assert_close(again.features, whole.features)
        shards = sorted((tmp_path / "store" / "ranks").glob("*/*.safetensors"))
        assert len(shards) == 7
        shards[turn].unlink()  # as if its process had been killed
        shards[-1].write_bytes(shards[-1].read_bytes()[:-5])
        (found,) = (tmp_path / "store" / "mined").glob("*/*.safetensors")
        found.unlink()


def test_mined_texts_are_kept_whole(tmp_path, monkeypatch):
    """The second time nothing is encoded, ranked or even read; a changed corpus is mined anew."""
    backbone = random_clip()
    words = tmp_path / "words.txt"
    words.write_text("\n".join("red dog,old sea,wet car,big hat,tin ant".split(",")))
    settings = TextSpaceSettings(
        corpus=str(words), num_negatives=3, negatives="intra", label_prompt="a photo of a {}"
    )

    def mined():
        return TextSpaceBuilder(backbone, ["ant", "bee"], None, Store(tmp_path / "store")).mined(
            settings
        )

    first = mined()
    assert len(first.words) == 3
    with monkeypatch.context() as patch:
        for module, name in ((space_builder, "load_corpus"), (Backbone, "encode_text")):
            patch.setattr(module, name, lambda *a, **k: pytest.fail("the work was done again"))
        again = mined()
    assert (again.words, again.parts_of_speech, again.passing) == (
        (first.words, first.parts_of_speech, first.passing)
    )
    for name in ("features", "deviation", "margin"):
        assert torch.equal(getattr(again, name), getattr(first, name))
    words.write_text("\n".join("red dog,old sea,wet car,big hat,tin bee".split(",")))
    assert set(mined().words) <= {"red dog", "old sea", "wet car", "big hat", "tin bee"}
    assert len(list((tmp_path / "store" / "mined").iterdir())) == 2


def test_inter_modal_negatives_without_id_images_are_refused():
    source = TextSpaceBuilder(random_clip(), ["ant", "bee"])
    with pytest.raises(SettingsError, match=r"need ID training images.*negatives: intra"):
        source.mined(TextSpaceSettings(negatives="inter"))


def test_shares_cover_everything_once(tmp_path):
    worlds = [World(rank, 3) for rank in range(3)]
    assert sorted(i for w in worlds for i in w.share(range(10))) == list(range(10))
    entry = SharedStore(tmp_path, World()).entry("x", {"a": 1}, 10, 4)
    assert entry.folder == Store(tmp_path).entry("x", {"a": 1}, 10, 4).folder
    entry.fill(lambda shards: iter([{"v": torch.full((n, 1), n)} for n in (4, 4, 2)]))
    assert Store(tmp_path).entry("x", {"a": 1}, 10, 4).read_all()["v"].flatten().tolist() == (
        [4] * 8 + [2] * 2
    )
