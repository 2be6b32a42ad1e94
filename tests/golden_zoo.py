"""Reads golden vectors of the relatives and computes ours for the same inputs.

A file's content says what it holds (tests/golden/zoo/README.md), so a folder of other files of the
same format, of any sizes, serves as well.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector
from openood_interneg.detectors.clipscope import closeness, reverse
from openood_interneg.detectors.eoe import outlier_labels
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.metrics import ood_metrics
from openood_interneg.negatives.csp import with_veto
from openood_interneg.negatives.fraction import Pool, mine_fraction
from openood_interneg.negatives.mining import intra_modal, mine, rank_chunks, select
from openood_interneg.negatives.raw_average import encode_ensemble
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.vlm.trained_prompts import learned_prompts

FOLDER = Path(os.environ.get("INTERNEG_GOLDEN_ZOO") or Path(__file__).parent / "golden" / "zoo")
ABSOLUTE, RELATIVE = 5e-6, 1e-4
METRICS = ("FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC", "FPR@95(ID+)")


class Golden:
    """One file. settings: of `expected_scores`. kind: scores, words, phrases, order, lists,
    metrics or prompts."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = dict(arrays)
        self.path = path
        self.settings = json.loads(str(self.arrays["settings"]))
        self.method = str(self.arrays["method"])
        marks = {
            "expected_scores": "scores",
            "expected_words": "words",
            "expected_noun_index": "phrases",
            "expected_order": "order",
            "expected_kept": "lists",
            "expected_metrics": "metrics",
        }
        found = [kind for key, kind in marks.items() if key in self.arrays]
        if any(key.startswith("ctx_") for key in self.arrays):
            found.append("prompts")
        assert len(found) == 1, f"{path.name} is of no known kind: {sorted(self.arrays)}"
        self.kind = found[0]

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[key]))

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def strings(self, key: str) -> list[str]:
        return [str(text) for text in self.arrays[key]]

    @property
    def variants(self) -> dict[str, dict]:
        """Key of expected scores -> its settings."""
        names = [key for key in self.arrays if key.startswith("expected_scores")]
        return {key: self.settings | self._changed(key) for key in names}

    def _changed(self, key: str) -> dict:
        """Settings in a key: expected_scores_beta_0_8_tau_0_02 -> beta 0.8, tau 0.02."""
        rest = key.removeprefix("expected_scores").removeprefix("_")
        known = [f.name for f in dataclasses.fields(get_method(self.method).settings)]
        out: dict[str, str] = {}
        while rest:
            name = max((n for n in known if rest.startswith(f"{n}_")), key=len, default="")
            if not name:  # the same settings by other code of the authors
                return {}
            rest = rest.removeprefix(f"{name}_")
            ends = [i for n in known if (i := rest.find(f"_{n}_")) >= 0]
            value, rest = (rest[: min(ends)], rest[min(ends) + 1 :]) if ends else (rest, "")
            out[name] = value
        return {name: _value(text) for name, text in out.items()}


def _value(text: str):
    return json.loads(text.replace("_", ".")) if text[0].isdigit() else text


def files() -> list[Path]:
    """All files of the folder; an empty one is a mistake, not a reason to skip."""
    found = sorted(FOLDER.glob("*.npz"))
    assert found, f"no golden vectors in {FOLDER}"
    return found


def close(ours, expected) -> bool:
    ours, expected = torch.as_tensor(ours).double(), torch.as_tensor(expected).double()
    if ours.shape != expected.shape or not bool(torch.isfinite(ours).all()):
        return False
    return bool(((ours - expected).abs() <= ABSOLUTE + RELATIVE * expected.abs()).all())


# ---- scores ----------------------------------------------------------------------------------


def space(golden: Golden) -> TextSpace:
    names = {"local_texts": "local", "no_texts": "no", "noise_features": "noise"}
    labels = golden["label_texts"]
    return TextSpace(
        labels=labels,
        logit_scale=float(golden["logit_scale"]) if "logit_scale" in golden else 100.0,
        negatives=golden["negative_texts"] if "negative_texts" in golden else labels[:0],
        extra={ours: golden[theirs] for theirs, ours in names.items() if theirs in golden},
    )


def detector(golden: Golden, settings: dict) -> Detector:
    method = get_method(golden.method)
    return method.make(method.make_settings(settings)).fit(space(golden))


def score(golden: Golden, made: Detector) -> tuple[Tensor, Tensor]:
    """Classes and scores, aligned with the file's."""
    features = golden["features"]
    if "order" not in golden:
        return tuple(made.step(features))
    features, begin, parts = features[..., golden["order"], :], 0, []
    for size, fresh in zip(golden["batch_sizes"], golden["reset_before"], strict=True):
        if fresh:
            made.reset()
        parts.append(made.step(features[..., begin : begin + int(size), :]))
        begin += int(size)
    assert begin == features.shape[-2]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def scores_agree(golden: Golden, key: str, settings: dict) -> bool:
    pred, ours = score(golden, detector(golden, settings))
    agree = close(ours, golden[key])
    if "expected_pred" in golden and key == "expected_scores":
        agree = agree and pred.tolist() == golden["expected_pred"].tolist()
    return agree


# ---- selections ------------------------------------------------------------------------------


def words_agree(golden: Golden, settings: dict) -> bool:
    """NegLabel's selection (a fraction, nouns first) or OpenOOD-VLM's (M, adjectives first)."""
    labels = golden["label_texts"]
    nouns, adjectives = golden.strings("nouns"), golden.strings("adjectives")
    texts = golden["noun_texts"], golden["adjective_texts"]
    rule = intra_modal(labels, settings["intra_quantile"], settings["intra_quantile_rule"])
    if "fraction" in settings:
        pools = [
            Pool(words, rows.split(97))  # chunks of any size
            for words, rows in zip((nouns, adjectives), texts, strict=True)
        ]
        words, features = mine_fraction(pools, rule, settings["fraction"])
        first = golden["expected_texts"]
        return list(words) == golden.strings("expected_words") and close(
            features[: len(first)], first
        )
    zeros = torch.zeros_like(labels), torch.zeros(len(labels))
    agree = True
    for key, count in (
        ("expected_words", settings["num_negatives"]),
        ("expected_all_words", len(nouns) + len(adjectives)),
    ):
        chunks = [rank_chunks(part.split(97), rule) for part in texts]
        mined = mine(nouns, chunks[0], adjectives, chunks[1], count, *zeros)
        agree = agree and list(mined.words) == golden.strings(key)
        if key == "expected_words":
            adjective = mined.parts_of_speech.count("adjective")
            agree = agree and adjective == int(golden["expected_adjectives"])
    return agree


def phrases_agree(golden: Golden, settings: dict) -> bool:
    """CSP: averages of un-normalised features, the veto, and a share of nouns and phrases."""
    labels = _averaged(golden["label_raw"])
    agree = close(labels, golden["expected_label_texts"])
    rule = intra_modal(labels, settings["intra_quantile"], settings["intra_quantile_rule"])
    rule = with_veto(rule, labels, settings["veto"])
    pools = {kind: _averaged(golden[f"{kind}_raw"]) for kind in ("noun", "phrase")}
    for kind, texts in pools.items():
        vetoed = rule(texts)[1] == -1.0
        agree = agree and vetoed.tolist() == golden[f"expected_vetoed_{kind}s"].tolist()
    every = [Pool([f"{kind} {i}" for i in range(len(t))], t.split(17)) for kind, t in pools.items()]
    words, _ = mine_fraction(every, rule, settings["fraction"])
    expected = [f"{kind} {i}" for kind in pools for i in golden[f"expected_{kind}_index"].tolist()]
    return agree and list(words) == expected


def _averaged(raw: Tensor) -> Tensor:
    """(n, T, D) features as a text tower would give them -> our averages over T templates."""
    count, templates, size = raw.shape

    def tokenizer(texts: list[str]) -> Tensor:
        return torch.tensor([[1 + int(n) for n in text.split()] for text in texts])

    def encode_text(tokens: Tensor) -> Tensor:
        return raw[tokens[:, 1] - 1, tokens[:, 0] - 1]

    tower = SimpleNamespace(exact_truncation=False, encode_text=encode_text, device=raw.device)
    backbone = SimpleNamespace(
        tokenizer=tokenizer, text_tower=tower, embed_dim=size, device=raw.device
    )
    names = [str(i) for i in range(count)]
    return encode_ensemble(backbone, names, [f"{t} {{}}" for t in range(templates)])


def order_agrees(golden: Golden, settings: dict) -> bool:
    """CLIPScope: nouns by their rank_share-th largest cosine, farthest first."""
    texts = golden["noun_texts"]
    rule = reverse(closeness(golden["label_texts"], settings["rank_share"]))
    index, _, _ = select(texts.split(97), rule, len(texts))
    return index.tolist() == golden["expected_order"].tolist()


def lists_agree(golden: Golden, settings: dict) -> bool:
    """EOE: outlier labels that are no class names; near OOD: none that shares a word with one."""
    near = settings.get("drop_shared_tokens")
    expected = {False: "expected_kept", True: "expected_kept_near"}
    names, outliers = golden.strings("class_names"), golden.strings("outliers")
    return all(
        sorted(outlier_labels(outliers, names, drop if near is None else near))
        == golden.strings(key)
        for drop, key in expected.items()
    )


def metrics_agree(golden: Golden, settings: dict) -> bool:
    """Six figures of every case. settings: columns to exchange, for the test of the test."""
    ours = []
    for k in range(len(golden["expected_metrics"])):
        scores, labels = golden.arrays[f"score_{k}"], golden.arrays[f"label_{k}"]
        own = labels >= 0
        pred = golden.arrays[f"pred_{k}"][own]
        values = ood_metrics(scores[own], scores[~own], pred, labels[own])
        ours.append([values[settings.get(name, name)] / 100 for name in METRICS])
    return close(np.array(ours), golden["expected_metrics"])


def prompts_agree(golden: Golden, settings: dict, backbone) -> bool:
    """Learned contexts through our text tower; what every checkpoint of this layout goes through.

    Args:
        settings: position or stop that replace the method's own, for the test of the test.
    """
    names = golden.strings("class_names")

    def encode(context: Tensor, **own) -> Tensor:
        plain = own.pop("plain", False)
        texts = [""] * len(context) if plain else names
        return learned_prompts(backbone, context, texts, **(own | settings))

    agree = True
    for key in (k for k in golden.arrays if k.startswith("ctx_")):
        context, name = golden[key], key.removeprefix("ctx_")
        if name.startswith("locoop_front"):
            ours = encode(context, position="front")
        elif name in ("idlike_ood", "localprompt_neg"):
            ours = encode(context, plain=True)
        elif name.startswith("negprompt_pos"):
            ours = encode(context.unbind(dim=-3)[0], stop="")
        elif name.startswith("negprompt_neg"):
            ours = torch.stack([encode(part, stop="") for part in context.unbind(dim=-3)], dim=1)
        else:
            ours = encode(context)
        agree = agree and close(ours, golden[f"expected_{name}"])
    return agree


AGREE = {
    "words": words_agree,
    "phrases": phrases_agree,
    "order": order_agrees,
    "lists": lists_agree,
    "metrics": metrics_agree,
}


# ---- wrong settings --------------------------------------------------------------------------


def other_values(golden: Golden, name: str, value) -> list:
    """Values that a setting might be mistaken for, legal for the method."""
    method = get_method(golden.method.split(" / ")[0])
    field = next(f for f in dataclasses.fields(method.settings) if f.name == name)
    hint = typing.get_type_hints(method.settings)[name]
    if isinstance(value, bool):
        return [not value]
    if typing.get_origin(hint) is typing.Literal:
        return [choice for choice in typing.get_args(hint) if choice != value]
    low, high = field.metadata.get("low"), field.metadata.get("high")
    kind = int if hint is int else float
    found = [kind(v) for v in (value * 4, value / 4, value + 1, value - 0.4, 0.5)]
    return [
        v
        for v in dict.fromkeys(found)
        if v != value and (low is None or v >= low) and (high is None or v <= high)
    ]
