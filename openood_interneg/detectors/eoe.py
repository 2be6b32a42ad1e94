"""EOE: envisioned outlier labels and a penalty on them (Cao et al., ICML 2024)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.negatives.words import normalize_text
from openood_interneg.settings import LabelSettings, SettingsError, setting
from openood_interneg.vlm.text_files import numbered_lines, read_text

SHIPPED = tuple(
    f"{benchmark}_{kind}"
    for benchmark in ("imagenet", "cifar10", "cifar100")
    for kind in ("far", "near", "fine")
)


@dataclass(frozen=True)
class EOESettings(LabelSettings):
    """Settings of EOE. Its negatives come from a list."""

    label_prompt: str = setting("mcm", "prompt set or template of the ID labels")
    noun_prompt: str = setting("mcm", "prompt set or template of the outlier labels")
    labels: str = setting(
        "imagenet_far", "outlier labels: a shipped list or the path of a text file, one per line"
    )
    drop_shared_tokens: bool = setting(
        False, "leave out outlier labels that share a word with a class name (EOE's near-OOD)"
    )
    beta: float = setting(0.25, "weight of the penalty", low=0.0)
    tau: float = setting(1.0, "temperature T on the bare cosine", low=1e-6)


# ---- labels ----------------------------------------------------------------------------------


def read_labels(source: str) -> list[str]:
    """The labels of a shipped list, or of a UTF-8 file with one label per line (`#`: a comment).

    Raises:
        SettingsError: neither a shipped list nor a readable file, or a file without labels.
    """
    if source in SHIPPED:
        folder = resources.files("openood_interneg.detectors") / "data"
        text = (folder / f"eoe_{source}.txt").read_text(encoding="utf-8")
    else:
        path = Path(os.path.expanduser(source))
        if not path.exists():
            raise SettingsError(
                f"labels {source!r} is no shipped list ({', '.join(SHIPPED)}) and no file; give "
                "one of these names, or the path of a text file with one outlier label per line"
            )
        text = read_text(path, SettingsError)
    labels = [line for _, line in numbered_lines(text) if line]
    if not labels:
        raise SettingsError(f"labels {source!r}: no outlier labels in it; write one per line")
    return labels


def outlier_labels(
    labels: Iterable[str], class_names: Sequence[str], drop_shared_tokens: bool = False
) -> tuple[str, ...]:
    """Distinct lower-cased labels that are no class name, in their order.

    Args:
        drop_shared_tokens: leave out, too, what shares a word with a class name. The authors'
            code compares with the class names as they are written; here case is ignored.
    """
    names = {normalize_text(name) for name in class_names}
    tokens = {token for name in names for token in name.split()} if drop_shared_tokens else set()
    distinct = dict.fromkeys(normalize_text(label) for label in labels)
    return tuple(x for x in distinct if x not in names and tokens.isdisjoint(x.split()))


def space(source: TextSource, settings: EOESettings) -> TextSpace:
    """The common text space with the outlier labels as negatives.

    Raises:
        SettingsError: no usable list, or one of class names only.
    """
    words = outlier_labels(
        read_labels(settings.labels), source.class_names, settings.drop_shared_tokens
    )
    if not words:
        raise SettingsError(f"labels {settings.labels!r} holds class names only; use another list")
    features = torch.cat(list(source.texts(words, settings.noun_prompt, "outlier labels")))
    common = source.build(settings)
    return replace(common, negatives=features, negative_words=words)


# ---- score -----------------------------------------------------------------------------------


def eoe_score(id_cosine: Tensor, outlier_cosine: Tensor, beta: float, tau: float) -> Tensor:
    """max over ID minus beta max over outliers of the joint softmax: (B, C), (B, K) -> (B,)."""
    joint = torch.cat([id_cosine, outlier_cosine], dim=1).div(tau).softmax(dim=1)
    classes = id_cosine.shape[1]
    return joint[:, :classes].amax(dim=1) - beta * joint[:, classes:].amax(dim=1)


class EOE(Detector[EOESettings]):
    r"""Largest ID probability minus a share of the largest outlier probability.

    .. math:: S(h) = \max_{i \le C} p_i - \beta \max_{C < j \le C+K} p_j, \quad
        p = \operatorname{softmax}(\cos(h, [e_1..e_C, e^-_1..e^-_K]) / T)

    on bare cosines, T = 1, without CLIP's logit scale. The paper asks a language model for the
    outlier labels; the lists shipped here are made by rule from WordNet (see
    detectors/data/README.txt), so published figures are not those of these lists.
    Source: arXiv 2406.00806, Section 3.3.
    """

    Settings = EOESettings

    def _fit(self, space: TextSpace) -> None:
        if not len(space.negatives):
            raise DetectorError("EOE needs outlier labels; the text space has no negatives")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, settings = self.space, self.settings
        cosine = features @ space.labels.t()
        outlier = features @ space.negatives.t()
        score = eoe_score(cosine, outlier, settings.beta, settings.tau)
        return Scores(cosine.argmax(dim=1), score)


def _preset(labels: str, **more: Any) -> dict[str, Any]:
    return {"labels": labels, "beta": 0.25, "tau": 1.0, **more}


METHOD = Method(
    name="eoe",
    title="EOE",
    detector=EOE,
    paper="2406.00806",
    year=2024,
    venue="ICML",
    needs=("extra file",),
    space=space,
    # beta and T are the authors' for every task; the lists are ours.
    presets={
        benchmark: _preset(f"{benchmark}_far") for benchmark in ("imagenet", "cifar10", "cifar100")
    }
    | {name: _preset(name, drop_shared_tokens=True) for name in SHIPPED if name.endswith("_near")}
    | {name: _preset(name) for name in SHIPPED if name.endswith("_fine")},
)
