"""OpenOOD's own postprocessors on a zero-shot CLIP: which of them run, with what arguments, and why
the others do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openood_interneg.settings import InternegError

Verdict = Literal["runs", "footnote", "refused"]


class BaselineError(InternegError, ValueError):
    """A method of OpenOOD's that cannot give a meaningful score here; the message says why."""


@dataclass(frozen=True)
class Baseline:
    """What is known of one of OpenOOD's postprocessors on a zero-shot CLIP.

    Attributes:
        name: in OpenOOD's evaluation API.
        verdict: "runs"; "footnote": it runs, but not as its authors meant it; "refused".
        note: the reason for the last two.
        args: OpenOOD's default arguments (cfood and nnguide: all images given, not a fraction of
            a large training set). No search over its sweep is made.
        fits: the splits that its setup reads.
        pixels: it needs gradients with respect to the image.
        wrapper: the network that OpenOOD puts around the net, in `openood.networks`.
        own_pred: whether its predictions are predictions (some return zeros).
        package: what must be installed besides.
    """

    name: str
    verdict: Verdict
    note: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    fits: tuple[str, ...] = ()
    pixels: bool = False
    wrapper: tuple[str, str] | None = None
    own_pred: bool = True
    package: str = ""


_SIGNED = (
    "made for activations after a ReLU; CLIP's features are signed unit vectors, so its threshold "
    "or scaling does not do what its paper describes"
)

_TRAINED = "needs a network trained for it (its own head, loss or checkpoint)"

_LAYERS = "looks at convolutional feature maps, which a CLIP does not offer"

_AUX = "scores the second, differently preprocessed image of a sample, which is not CLIP's input"

_RUNS = [
    Baseline("msp", "runs"),
    Baseline("mls", "runs"),
    Baseline("ebo", "runs", args={"temperature": 1.0}),
    Baseline("gen", "runs", args={"gamma": 0.1, "M": 100}),
    Baseline("temp_scaling", "runs", fits=("val",)),
    Baseline("klm", "runs", fits=("val",)),
    Baseline("odin", "runs", args={"temperature": 1000.0, "noise": 0.0014}, pixels=True),
    Baseline("iodin", "runs", args={"temperature": 1000.0, "noise": 0.0014}, pixels=True),
    Baseline("knn", "runs", args={"K": 50}, fits=("train",), package="faiss"),
    Baseline("nnguide", "runs", args={"K": 100, "alpha": 1.0}, fits=("train",), package="faiss"),
    Baseline("relation", "runs", args={"pow": 1}, fits=("train",)),
    Baseline("cfood", "runs", args={"alpha": 1.0, "k": 0.01, "avg_topk": False}, fits=("train",)),
    Baseline("mds", "runs", fits=("train",)),
    Baseline("rmds", "runs", fits=("train",)),
    Baseline("she", "runs", args={"metric": "inner_product"}, fits=("train",)),
    Baseline("vim", "runs", args={"dim": None}, fits=("train",)),
    Baseline("residual", "runs", args={"dim": None}, fits=("val", "test")),
    Baseline("gradnorm", "runs"),
    Baseline("fdbd", "runs", args={"distance_as_normalizer": True}, fits=("train",)),
]

_NOT_AS_INTENDED = [
    Baseline(
        "react", "footnote", _SIGNED, {"percentile": 90}, ("val",),
        wrapper=("react_net", "ReactNet"),
    ),
    Baseline("ash", "footnote", _SIGNED, {"percentile": 90}, wrapper=("ash_net", "ASHNet")),
    Baseline("scale", "footnote", _SIGNED, {"percentile": 85}, wrapper=("scale_net", "ScaleNet")),
    Baseline("vra", "footnote", _SIGNED, {"percentile_high": 90, "percentile_low": 10}, ("val",)),
    *(
        Baseline(
            name, "footnote", _SIGNED,
            {"num_samples": 5000, "percentile": [75, 85], "k1": 5, "k2": 1, "lmbda": 10, "o": 0.05},
            ("val",), pixels=True, wrapper=("adascale_net", net), package="statsmodels",
        )
        for name, net in (("adascale_a", "AdaScaleANet"), ("adascale_l", "AdaScaleLNet"))
    ),
    Baseline(
        "dice", "footnote",
        "keeps the weights with the largest mean contributions; with signed features a dropped "
        "weight may have counted for or against a class", {"p": 90}, ("train",),
    ),
    Baseline(
        "nci", "footnote",
        "its second term is the feature's norm, which tells ID from OOD in trained classifiers; "
        "CLIP's features are unit vectors", {"alpha": 0.0001}, ("train",),
    ),
    *(
        Baseline(
            name, "footnote", "without the training it comes with: kNN on CLIP's features",
            {"K": 50}, ("train",), own_pred=False, package="faiss",
        )
        for name in ("cider", "npos")
    ),
    Baseline(
        "reweightood", "footnote", "without the training it comes with: MDS on CLIP's features",
        fits=("train",), own_pred=False,
    ),
]  # fmt: skip

_REFUSED = {
    "dropout": "a CLIP has no dropout in evaluation mode: it would be MSP",
    "openmax": "needs libmr, which no longer builds, and a correct training prediction of every "
    "class, which a zero-shot network does not promise",
    "gram": _LAYERS,
    "rankfeat": _LAYERS,
    "grood": _LAYERS,
    "patchcore": _LAYERS,
    "mds_ensemble": _AUX,
    "gmm": _AUX,
    "ssd": "OpenOOD's class defines no score of its own: it would silently be MSP",
    "ensemble": "averages several trained networks",
    **dict.fromkeys(["conf_branch", "mcd", "rts", "rotpred", "godin", "t2fnorm"], _TRAINED),
    **dict.fromkeys(["mos", "cutpaste", "draem", "rd4ad", "dsvdd", "opengan"], _TRAINED),
}

_ROWS = (*_RUNS, *_NOT_AS_INTENDED, *(Baseline(n, "refused", r) for n, r in _REFUSED.items()))

BASELINES: dict[str, Baseline] = {row.name: row for row in _ROWS}


def is_baseline(name: str) -> bool:
    """Whether OpenOOD has a postprocessor of this name."""
    return name in BASELINES


def get_baseline(name: str) -> Baseline:
    """The row of a method that may be run.

    Raises:
        BaselineError: unknown to OpenOOD, or refused; the message has the reason.
    """
    if name not in BASELINES:
        raise BaselineError(f"OpenOOD has no postprocessor '{name}'")
    row = BASELINES[name]
    if row.verdict == "refused":
        raise BaselineError(f"OpenOOD's '{name}' is refused on a zero-shot CLIP: {row.note}")
    return row
