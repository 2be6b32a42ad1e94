"""CLIPN: a second text tower that says no (Wang et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import logits
from openood_interneg.detectors.trained_base import (
    TrainedSettings,
    trained_presets,
    trained_space,
)
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import setting
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.trained_prompts import (
    no_features,
    read_checkpoint,
)


@dataclass(frozen=True)
class CLIPNSettings(TrainedSettings):
    """Settings of CLIPN.

    The authors average the 128 lines of a prompt file, quote characters included; the file is not
    ours to ship, and `imagenet80` stands in for it (the cosine of the label features is .70 to
    .95). With their file at hand, `label_prompt` takes its path.
    """

    label_prompt: str = setting(
        "imagenet80",
        "prompt set, template or prompt file of both text towers (the authors': their 128 lines)",
    )
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    score: Literal["atd", "ctw"] = setting("atd", "agreeing to differ, or competing to win")


def clipn_scores(yes: Tensor, no: Tensor) -> tuple[Tensor, Tensor]:
    """CLIPN's two scores of logits (B, C) of its two text towers.

    q_i = sigmoid(yes_i - no_i) says whether the image is of class i at all. Competing to win
    takes q of the best class; agreeing to differ sums softmax(yes)_i q_i, one minus the mass of
    an extra "none of them" class.

    Returns:
        CTW and ATD, (B,) each.
    """
    q = torch.sigmoid(yes - no)
    winner = yes.argmax(dim=1, keepdim=True)
    return q.gather(1, winner)[:, 0], (yes.softmax(dim=1) * q).sum(dim=1)


class CLIPN(Detector[CLIPNSettings]):
    r"""A second text tower that says no (`extra["no"]`, (C, D)).

    .. math:: q_i = \sigma(s \cos(h, e_i) - s \cos(h, \bar e_i)), \quad
        S_{CTW} = q_{\arg\max_i \cos(h, e_i)}, \quad
        S_{ATD} = \sum_i \operatorname{softmax}_i(s \cos(h, e_i)) q_i

    Source: arXiv 2308.12213, Section 3.4.
    """

    Settings = CLIPNSettings

    def _fit(self, space: TextSpace) -> None:
        if "no" not in space.extra:
            raise DetectorError("CLIPN needs the features of its 'no' tower as extra['no']")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, tau = self.space, self.settings.tau
        yes = logits(features, space.labels, space.logit_scale, tau)
        no = logits(features, space.extra["no"], space.logit_scale, tau)
        ctw, atd = clipn_scores(yes, no)
        return Scores(yes.argmax(dim=1), ctw if self.settings.score == "ctw" else atd)


def clipn_space(source: TextSource, settings: CLIPNSettings) -> TextSpace:
    """Labels by the backbone's tower, and by the checkpoint's "no" tower."""
    tensors = read_checkpoint(settings.checkpoint)
    templates = prompt_set(settings.label_prompt)
    no = no_features(source.backbone, tensors, source.class_names, templates)
    return trained_space(source, source.labels(settings.label_prompt), no=no)


METHOD = Method(
    name="clipn",
    title="CLIPN",
    detector=CLIPN,
    space=clipn_space,
    paper="2308.12213",
    year=2023,
    venue="ICCV",
    needs=("extra file",),
    presets=trained_presets(label_prompt="imagenet80", score="atd"),
)
