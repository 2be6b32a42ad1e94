"""Methods with trained prompts or text towers: LoCoOp, LAPT, NegPrompt, Local-Prompt, SUPREME,
LSN, ID-Like and CLIPN.

Nothing is trained here. Each method is a recipe that turns its checkpoint into text features
(layouts: `vlm/trained_prompts.py`), and a scoring rule over them. LoCoOp and Local-Prompt look at
patches: they take features (1 + P, B, D), the image first, as `vlm.patches.encode_with_patches`
makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openood_interneg.data.encode import FeatureKind
from openood_interneg.detectors.base import Detector, DetectorError, Scores
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.neglabel import NegLabel, NegLabelSettings
from openood_interneg.detectors.neglabel import space as neglabel_space
from openood_interneg.detectors.scoring import logits, max_softmax
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.settings import MethodSettings, SettingsError, setting
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.trained_prompts import (
    NOT_GIVEN,
    learned_prompts,
    no_features,
    pick,
    read_checkpoint,
)

_CHECKPOINT_HELP = "file with the method's learned prompts; none for none given"
_POSITION_HELP = "where the class name stands among the learned vectors"
_TAU_HELP = "temperature T on the bare cosine"


@dataclass(frozen=True)
class TrainedSettings(MethodSettings):
    """What all of them share: a checkpoint, from which labels and negative texts come."""

    checkpoint: str = setting(NOT_GIVEN, _CHECKPOINT_HELP)
    class_position: Literal["end", "front"] = setting("end", _POSITION_HELP)


def _space(source: TextSource, labels: Tensor, negatives: Tensor | None = None, **extra: Tensor):
    return TextSpace(
        labels=labels,
        logit_scale=source.backbone.logit_scale,
        negatives=labels[:0] if negatives is None else negatives,
        class_names=source.class_names,
        extra=extra,
    )


def _split_views(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(1 + P, B, D) -> the images (B, D) and their patches (B, P, D)."""
    if features.dim() != 3 or len(features) < 2:
        raise DetectorError(
            f"{name} scores patches: it takes features (1 + P, B, D), the image first, as "
            f"encode_with_patches makes them; these have shape {tuple(features.shape)}"
        )
    return features[0], features[1:].transpose(0, 1)


# ---- LoCoOp --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoCoOpSettings(TrainedSettings):
    """Settings of LoCoOp."""

    tau: float = setting(1.0, _TAU_HELP, low=1e-6)
    score: Literal["glmcm", "mcm"] = setting("glmcm", "with patches (GL-MCM), or without (MCM)")


class LoCoOp(Detector):
    r"""GL-MCM over learned label prompts.

    .. math:: S = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T)
        + \max_{p, i} \operatorname{softmax}_i(\cos(h_p, e_i) / T)

    h_p are patch features. `score: mcm` leaves the second term out and takes features (B, D).
    Source: arXiv 2306.01293, Section 3; GL-MCM is arXiv 2304.04521.
    """

    def __init__(self, settings: LoCoOpSettings | None = None):
        self.settings = settings or LoCoOpSettings()

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        labels, tau = self.space.labels, self.settings.tau
        if self.settings.score == "mcm":
            cosine = features.reshape(-1, *features.shape[-2:])[0] @ labels.t()
            return Scores(cosine.argmax(dim=1), max_softmax(cosine / tau))
        images, patches = _split_views(features, "GL-MCM")
        cosine = images @ labels.t()
        local = (patches @ labels.t() / tau).flatten(0, 1)  # (B P, C)
        regions = max_softmax(local).view(patches.shape[:2])
        return Scores(cosine.argmax(dim=1), max_softmax(cosine / tau) + regions.amax(dim=1))


def locoop_input(settings: LoCoOpSettings) -> FeatureKind:
    """MCM looks at the image alone."""
    return "image" if settings.score == "mcm" else "patches"


def locoop_space(source: TextSource, settings: LoCoOpSettings) -> TextSpace:
    """Labels: learned context `ctx` and the class name."""
    context = pick(read_checkpoint(settings.checkpoint), "ctx")
    position = settings.class_position
    return _space(
        source, learned_prompts(source.backbone, context, source.class_names, position=position)
    )


# ---- LAPT ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LAPTSettings(NegLabelSettings):
    """Settings of LAPT: NegLabel's, and a checkpoint."""

    num_negatives: int = setting(10_000, "M, negative texts kept", low=0)
    groups: int = setting(100, "G, groups over which the score is averaged", low=1)
    checkpoint: str = setting(NOT_GIVEN, _CHECKPOINT_HELP)
    class_position: Literal["end", "front"] = setting("end", _POSITION_HELP)


class LAPT(NegLabel):
    r"""NegLabel's grouped score over learned prompts, one for labels and one for negatives.

    .. math:: S(h) = \operatorname{GRP}(s \cos(h, e_i), s \cos(h, n_j))

    Negative words are mined with the plain prompts, as NegLabel does, and encoded again behind
    the learned negative context. Source: arXiv 2407.08966.
    """

    def __init__(self, settings: LAPTSettings | None = None):
        super().__init__(settings or LAPTSettings())


def lapt_space(source: TextSource, settings: LAPTSettings) -> TextSpace:
    """Labels behind `ctx`, mined words behind `ood_ctx`."""
    tensors = read_checkpoint(settings.checkpoint)
    words = neglabel_space(source, settings).negative_words
    backbone, position = source.backbone, settings.class_position
    labels = learned_prompts(backbone, pick(tensors, "ctx"), source.class_names, position=position)
    negatives = labels[:0]
    if words:
        negatives = learned_prompts(backbone, pick(tensors, "ood_ctx"), words, position=position)
    return replace(_space(source, labels, negatives), negative_words=words)


# ---- NegPrompt -----------------------------------------------------------------------------


@dataclass(frozen=True)
class NegPromptSettings(TrainedSettings):
    """Settings of NegPrompt."""

    tau: float = setting(1.0, _TAU_HELP, low=1e-6)


class NegPrompt(Detector):
    r"""MCM with learned negative prompts in the denominator.

    .. math:: S(h) = \max_i \frac{e^{\cos(h, e_i) / T}}
        {\sum_i e^{\cos(h, e_i) / T} + \sum_j e^{\cos(h, n_j) / T}}

    Every class has k negative prompts, so there are C k of them. Source: arXiv 2404.03248.
    """

    def __init__(self, settings: NegPromptSettings | None = None):
        self.settings = settings or NegPromptSettings()

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, classes = self.space, len(self.space.labels)
        cosine = features @ torch.cat([space.labels, space.negatives]).t() / self.settings.tau
        own = cosine[:, :classes]
        return Scores(own.argmax(dim=1), (own.amax(dim=1) - cosine.logsumexp(dim=1)).exp())


def negprompt_space(source: TextSource, settings: NegPromptSettings) -> TextSpace:
    """Labels behind `ctx_positive`; negatives: every class name behind each `ctx_negative`."""
    tensors = read_checkpoint(settings.checkpoint)
    options = {"position": settings.class_position, "stop": ""}

    def encode(context: Tensor) -> Tensor:
        return learned_prompts(source.backbone, context, source.class_names, **options)

    # (k, n, w) shared by all classes, or (C, k, n, w): k prompts along the last axis but two.
    positive = pick(tensors, "ctx_positive").unbind(dim=-3)
    negative = pick(tensors, "ctx_negative").unbind(dim=-3)
    return _space(source, encode(positive[0]), torch.cat([encode(part) for part in negative]))


# ---- Local-Prompt --------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalPromptSettings(TrainedSettings):
    """Settings of Local-Prompt."""

    label_prompt: str = setting("simple", "prompt of the labels, which are not learned")
    tau: float = setting(1.0, _TAU_HELP, low=1e-6)
    top: int = setting(10, "pairs of a patch and a class that are averaged", low=1)


class LocalPrompt(Detector):
    r"""MCM of the image plus the mean of its k best patches against learned local prompts.

    .. math:: S = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T) + \frac{1}{k}
        \operatorname{top}_k \frac{e^{\cos(h_p, l_i) / T}}
            {\sum_i e^{\cos(h_p, l_i) / T} + \sum_j e^{\cos(h_p, n_j) / T}}

    e_i are plain prompts of the labels, l_i learned local ones (`extra["local"]`, (C, D)), n_j
    learned negative ones; the top k are taken over patches and classes. The class comes from both
    kinds of prompts, the global cosine without a temperature, as in the authors' code:

    .. math:: \arg\max_i \; e^{\cos(h, e_i)} \cdot \frac{1}{k} \operatorname{top}_k
        e^{\cos(h_p, l_i) / T}, \quad \text{the top k over the patches of each class.}

    Source: arXiv 2409.04796.
    """

    def __init__(self, settings: LocalPromptSettings | None = None):
        self.settings = settings or LocalPromptSettings()

    def _fit(self, space: TextSpace) -> None:
        if "local" not in space.extra:
            raise DetectorError("Local-Prompt needs its local prompts as extra['local']")
        self._texts = torch.cat([space.extra["local"], space.negatives])

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings, classes = self.settings, len(self.space.labels)
        images, patches = _split_views(features, "Local-Prompt")
        cosine = images @ self.space.labels.t()
        local = patches @ self._texts.t() / settings.tau  # (B, P, C + k)
        mass = local.log_softmax(dim=2)[..., :classes].flatten(1)  # (B, P C)
        best = mass.topk(min(settings.top, mass.shape[1]), dim=1).values.exp().mean(dim=1)
        count = min(settings.top, local.shape[1])
        nearest = local[..., :classes].topk(count, dim=1).values  # (B, k, C), of each class
        pred = (cosine + nearest.logsumexp(dim=1)).argmax(dim=1)
        return Scores(pred, max_softmax(cosine / settings.tau) + best)


def local_prompt_space(source: TextSource, settings: LocalPromptSettings) -> TextSpace:
    """Labels under the plain prompt, `local_ctx` with class names, `neg_ctx` without."""
    tensors = read_checkpoint(settings.checkpoint)
    local, negative = pick(tensors, "local_ctx"), pick(tensors, "neg_ctx")
    backbone = source.backbone
    return _space(
        source,
        source.labels(settings.label_prompt),
        learned_prompts(backbone, negative, [""] * len(negative)),
        local=learned_prompts(
            backbone, local, source.class_names, position=settings.class_position
        ),
    )


# ---- LSN -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LSNSettings(TrainedSettings):
    """Settings of LSN."""

    tau: float = setting(1.0, _TAU_HELP, low=1e-6)
    negative_tau: float = setting(5.0, "temperature of the dissimilarities", low=1e-6)


class LSN(Detector):
    r"""MCM of a learned prompt, plus the same of dissimilarities to learned negative prompts.

    .. math:: S = \max_i \operatorname{softmax}_i(\cos(h, e_i) / T) + \frac{1}{K} \sum_k
        \max_i \operatorname{softmax}_i((1 - \cos(h, n_{ki})) / T')

    Every class has K negative prompts, "not i" (`extra["no"]`, (K, C, D)). T = 1, T' = 5 and
    K = 3 are the code's. Source: Nie et al., ICLR 2024.
    """

    def __init__(self, settings: LSNSettings | None = None):
        self.settings = settings or LSNSettings()

    def _fit(self, space: TextSpace) -> None:
        if "no" not in space.extra:
            raise DetectorError("LSN needs its negative prompts as extra['no']")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        settings, no = self.settings, self.space.extra["no"]
        cosine = features @ self.space.labels.t()
        unlike = (1 - features @ no.transpose(1, 2)) / settings.negative_tau  # (K, B, C)
        absent = max_softmax(unlike.flatten(0, 1)).view(unlike.shape[:2]).mean(dim=0)
        return Scores(cosine.argmax(dim=1), max_softmax(cosine / settings.tau) + absent)


def lsn_space(source: TextSource, settings: LSNSettings) -> TextSpace:
    """Labels behind `yes.ctx`, and class names behind `no1.ctx`, `no2.ctx`, ..."""
    tensors = read_checkpoint(settings.checkpoint)

    def encode(context: Tensor) -> Tensor:
        names, position = source.class_names, settings.class_position
        return learned_prompts(source.backbone, context, names, position=position)

    sets: list[Tensor] = []
    while True:  # no1 has to be there; the first number that is not ends the list
        context = pick(tensors, f"no{len(sets) + 1}.ctx", optional=bool(sets))
        if context is None:
            break
        sets.append(encode(context))
    return _space(source, encode(pick(tensors, "yes.ctx")), no=torch.stack(sets))


# ---- ID-Like -------------------------------------------------------------------------------


@dataclass(frozen=True)
class IDLikeSettings(TrainedSettings):
    """Settings of ID-Like."""

    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    groups: int = setting(1, "G, groups over which the score is averaged", low=1)


class IDLike(NegLabel):
    r"""Softmax mass of the labels' learned prompts against learned OOD prompts.

    .. math:: S(h) = \frac{\sum_i e^{s \cos(h, e_i)}}
        {\sum_i e^{s \cos(h, e_i)} + \sum_j e^{s \cos(h, n_j)}}

    Source: arXiv 2311.15243.
    """

    def __init__(self, settings: IDLikeSettings | None = None):
        super().__init__(settings or IDLikeSettings())


def id_like_space(source: TextSource, settings: IDLikeSettings) -> TextSpace:
    """Labels behind the ID context; OOD prompts of context, and of learned class tokens."""
    tensors = read_checkpoint(settings.checkpoint)
    backbone, names = source.backbone, source.class_names
    context = pick(tensors, "ex_prompt_learner_state_dict.ctx")
    tokens = pick(tensors, "ex_prompt_learner_state_dict.cls", optional=True)
    if tokens is not None:
        tokens = tokens if tokens.dim() == 3 else tokens[:, None]
        context = context if context.dim() == 3 else context.expand(len(tokens), -1, -1)
        context = torch.cat([context, tokens], dim=1)
    if context.dim() == 2:
        context = context[None]
    own = pick(tensors, "prompt_learner_state_dict.ctx")
    return _space(
        source,
        learned_prompts(backbone, own, names, position=settings.class_position),
        learned_prompts(backbone, context, [""] * len(context)),
    )


# ---- SUPREME -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SupremeSettings(TrainedSettings):
    """Settings of SUPREME."""

    tau: float = setting(1.0, _TAU_HELP, low=1e-6)
    combine: Literal["max", "mean"] = setting("max", "of the uni- and cross-modal confidences")


class Supreme(Detector):
    r"""Uni- and cross-modal confidence over text and image prototypes of the classes.

    .. math:: S = \max_{g \in \{h, A h\}} \max_{P \in \{E, I\}}
        \max_i \operatorname{softmax}_i(\cos(g, P_i) / T)

    E are the labels' text prototypes, I image prototypes (`extra["image"]`, (C, D)), and A h the
    image feature mapped towards the texts (`extra["map"]`, (D, D); left out where there is
    none). **Not verified:** neither the paper's formula of its S_GMP nor its code was at hand;
    this follows its abstract, which speaks of uni- and cross-modal similarities to both kinds of
    prototypes. `combine: mean` averages instead. Do not report it as SUPREME without a check.
    Source: arXiv 2502.00662.
    """

    def __init__(self, settings: SupremeSettings | None = None):
        self.settings = settings or SupremeSettings()

    def _fit(self, space: TextSpace) -> None:
        if "image" not in space.extra:
            raise DetectorError("SUPREME needs image prototypes as extra['image']")

    def _step(self, features: Tensor, ids: Tensor) -> Scores:
        space, settings = self.space, self.settings
        queries = [features]
        if "map" in space.extra:
            queries.append(F.normalize(features @ space.extra["map"].t(), dim=-1))
        cosines = [q @ p.t() for q in queries for p in (space.labels, space.extra["image"])]
        every = torch.stack([max_softmax(cosine / settings.tau) for cosine in cosines])
        score = every.amax(dim=0) if settings.combine == "max" else every.mean(dim=0)
        return Scores(cosines[0].argmax(dim=1), score)


def supreme_space(source: TextSource, settings: SupremeSettings) -> TextSpace:
    """Prototypes as the file has them, normalised."""
    tensors, device = read_checkpoint(settings.checkpoint), source.backbone.device
    text = F.normalize(pick(tensors, "text_prototypes"), dim=-1).to(device)
    extra = {"image": F.normalize(pick(tensors, "image_prototypes"), dim=-1).to(device)}
    mapping = pick(tensors, "image_to_text", optional=True)
    if mapping is not None:
        extra["map"] = mapping.to(device)
    shape = (len(source.class_names), source.backbone.embed_dim)
    for name, found in (("text_prototypes", text), ("image_prototypes", extra["image"])):
        if found.shape != shape:
            raise SettingsError(
                f"checkpoint: {name} has shape {tuple(found.shape)}; expected {shape} for these "
                "classes and this backbone"
            )
    return _space(source, text, **extra)


# ---- CLIPN ---------------------------------------------------------------------------------


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


class CLIPN(Detector):
    r"""A second text tower that says no (`extra["no"]`, (C, D)).

    .. math:: q_i = \sigma(s \cos(h, e_i) - s \cos(h, \bar e_i)), \quad
        S_{CTW} = q_{\arg\max_i \cos(h, e_i)}, \quad
        S_{ATD} = \sum_i \operatorname{softmax}_i(s \cos(h, e_i)) q_i

    Source: arXiv 2308.12213, Section 3.4.
    """

    def __init__(self, settings: CLIPNSettings | None = None):
        self.settings = settings or CLIPNSettings()

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
    return _space(source, source.labels(settings.label_prompt), no=no)


# ---- the table -----------------------------------------------------------------------------


def _presets(**values: Any) -> dict[str, dict[str, Any]]:
    """The same for all: the papers' ImageNet settings, CIFAR has none of its own; CLIPN's
    prompts are a stand-in, see `CLIPNSettings`."""
    return {name: dict(values) for name in ("imagenet", "cifar10", "cifar100")}


LOCOOP = Method(
    name="locoop",
    title="LoCoOp",
    detector=LoCoOp,
    settings=LoCoOpSettings,
    space=locoop_space,
    paper="2306.01293",
    year=2023,
    venue="NeurIPS",
    needs=("extra file", "patches"),
    input=locoop_input,
    presets=_presets(tau=1.0, score="glmcm"),
)

LAPT_METHOD = Method(
    name="lapt",
    title="LAPT",
    detector=LAPT,
    settings=LAPTSettings,
    space=lapt_space,
    paper="2407.08966",
    year=2024,
    venue="ECCV",
    needs=("negatives", "extra file"),
    fpr="ood",
    presets=_presets(num_negatives=10_000, groups=100),
)

NEGPROMPT = Method(
    name="negprompt",
    title="NegPrompt",
    detector=NegPrompt,
    settings=NegPromptSettings,
    space=negprompt_space,
    paper="2404.03248",
    year=2024,
    venue="CVPR",
    needs=("extra file",),
    presets=_presets(tau=1.0),
)

LOCAL_PROMPT = Method(
    name="local_prompt",
    title="Local-Prompt",
    detector=LocalPrompt,
    settings=LocalPromptSettings,
    space=local_prompt_space,
    paper="2409.04796",
    year=2025,
    venue="ICLR",
    needs=("extra file", "patches"),
    input="patches",
    presets=_presets(tau=1.0, top=10),
)

SUPREME = Method(
    name="supreme",
    title="SUPREME (score not verified)",
    detector=Supreme,
    settings=SupremeSettings,
    space=supreme_space,
    paper="2502.00662",
    year=2025,
    venue="arXiv",
    needs=("extra file",),
    presets=_presets(tau=1.0),
)

LSN_METHOD = Method(
    name="lsn",
    title="LSN",
    detector=LSN,
    settings=LSNSettings,
    space=lsn_space,
    paper="openreview:nanyAujl6e",
    year=2024,
    venue="ICLR",
    needs=("extra file",),
    presets=_presets(tau=1.0, negative_tau=5.0),
)

ID_LIKE = Method(
    name="id_like",
    title="ID-Like",
    detector=IDLike,
    settings=IDLikeSettings,
    space=id_like_space,
    paper="2311.15243",
    year=2024,
    venue="CVPR",
    needs=("extra file",),
    presets=_presets(groups=1),
)

CLIPN_METHOD = Method(
    name="clipn",
    title="CLIPN",
    detector=CLIPN,
    settings=CLIPNSettings,
    space=clipn_space,
    paper="2308.12213",
    year=2023,
    venue="ICCV",
    needs=("extra file",),
    presets=_presets(label_prompt="imagenet80", score="atd"),
)

METHODS = (
    LOCOOP,
    LAPT_METHOD,
    NEGPROMPT,
    LOCAL_PROMPT,
    SUPREME,
    LSN_METHOD,
    ID_LIKE,
    CLIPN_METHOD,
)
