"""ZOC: zero-shot OOD detection with generated candidate words (Esmaeilpour et al., AAAI 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openood_interneg.detectors.base import Detector, Scores
from openood_interneg.detectors.caption_files import (
    NOT_GIVEN,
    caption_places,
    caption_tensors,
    need_captions,
    read_captions,
)
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.scoring import id_mass, logits
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.negatives.words import normalize_text
from openood_interneg.settings import LabelSettings, setting


@dataclass(frozen=True)
class ZOCSettings(LabelSettings):
    """Settings of ZOC."""

    label_prompt: str = setting("This is a photo of a {}", "template of labels and candidates")
    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    captions: str = setting(NOT_GIVEN, "file with the candidate words of each image")


class ZOC(Detector[ZOCSettings]):
    r"""Softmax mass of the ID labels against the words generated for this one image.

    .. math:: S(h) = \frac{\sum_i e^{s \cos(h, e_i)}}
        {\sum_i e^{s \cos(h, e_i)} + \sum_{w \in W(h)} e^{s \cos(h, e_w)}}

    W(h) are the candidates of the image without the labels themselves; with none of them S = 1.
    The paper generates them with a BERT decoder trained on captions.
    Source: arXiv 2109.02748, Section 3.
    """

    Settings = ZOCSettings

    def _fit(self, space: TextSpace) -> None:
        need_captions(space, "ZOC")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, extra, tau = self.space, self.space.extra, self.settings.tau
        id_logits = logits(features, space.labels, space.logit_scale, tau)
        place = caption_places(space, ids)
        offsets = extra["caption_offsets"]
        counts = offsets[place + 1] - offsets[place]
        owner = torch.arange(len(features), device=features.device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        within = torch.arange(len(owner), device=owner.device) - first[owner]
        texts = extra["caption_texts"][extra["caption_rows"][offsets[place][owner] + within]]
        values = (features[owner] * texts).sum(dim=1) * (space.logit_scale / tau)
        negative_lse = _segment_logsumexp(values, owner, len(features))
        return Scores(id_logits.argmax(dim=1), id_mass(id_logits.logsumexp(dim=1), negative_lse))


def _segment_logsumexp(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """logsumexp of the values of each owner, (count,); -inf for one without values."""
    top = values.new_full((count,), float("-inf")).scatter_reduce(0, owner, values, "amax")
    sums = values.new_zeros(count).index_add(0, owner, (values - top[owner]).exp())
    return top + sums.log()


def zoc_space(source: TextSource, settings: ZOCSettings) -> TextSpace:
    """Labels, and the file's candidates under the same template, without the labels."""
    taken = {normalize_text(name) for name in source.class_names}
    table = {
        image: [text for text in texts if normalize_text(text) not in taken]
        for image, texts in read_captions(settings.captions).items()
    }
    extra = caption_tensors(source.backbone, table, settings.label_prompt)
    labels = source.labels(settings.label_prompt)
    return TextSpace(
        labels=labels,
        logit_scale=source.backbone.logit_scale,
        negatives=labels[:0],
        class_names=source.class_names,
        extra=extra,
    )


METHOD = Method(
    name="zoc",
    title="ZOC",
    detector=ZOC,
    space=zoc_space,
    paper="2109.02748",
    year=2022,
    venue="AAAI",
    needs=("captions",),
    presets={"imagenet": {}, "cifar10": {}, "cifar100": {}},
)
