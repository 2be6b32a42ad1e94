"""InterNeg for applications: images in, a class name or "unknown" out.

Below it is the same detector, text space and inversion as in the benchmarks; this package adds what
an application needs: images of any origin, a threshold, explanations, and a state on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from openood_interneg.application import saving
from openood_interneg.application.fitting import (
    fit_pairs,
    fit_space,
    make_detector,
    warn_of_equal_texts,
)
from openood_interneg.application.images import ImageEncoder
from openood_interneg.application.inputs import checked_names, labelled_images
from openood_interneg.application.loading import Load, Loadable
from openood_interneg.application.progress import progress_log
from openood_interneg.application.saving import SavedDetector, Setup
from openood_interneg.application.scorer import Scorer
from openood_interneg.application.state import StateError
from openood_interneg.application.turns import Mode
from openood_interneg.data.any_image import ImageLimits
from openood_interneg.data.encode import Progress
from openood_interneg.data.store import Store, default_root
from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.protections import ProtectionSettings
from openood_interneg.settings import (
    InterNegSettings,
    SettingsError,
    as_mapping,
    checked,
    from_mapping,
    merged,
)
from openood_interneg.vlm.backbones import Backbone, Precision
from openood_interneg.vlm.factory import OPENAI_BACKBONES

APPLICATION_DEFAULTS = {"update": "sample"}  # images come one by one, not in a paper's batches
MOST_ROWS = 1_000_000


class InterNegDetector(Scorer, Loadable):
    """Zero-shot OOD detection with CLIP for class names and a few images of each class.

    Args:
        backbone: a name for `load_backbone` (loaded when first needed), or a `Backbone`.
        pretrained: for the backbone's name.
        device: for the backbone's name; "auto" takes a GPU if there is one.
        precision: for the backbone's name.
        preprocess: "clip" (the model's own) or "openood_vlm".
        batch_size: images that are encoded, and with `update="batch"` scored, together.
        gamma: images that score below are unknown; or call `calibrate`.
        threads: what to do with an update that comes while another call, or a stream that has not
            ended, is updating: "refuse" it, since scores would depend on who comes first, or
            "arrival", one after the other as they come. Calls that do not overlap are always
            accepted, whichever threads make them.
        protections: limits on what the stream may do to the bank (`ProtectionSettings`).
        limits: limits and rules for images (`ImageLimits`).
        cache: keep text features on disk: True in the usual place, a folder, or False.
        settings: hyper-parameters (`InterNegSettings`). `update` is "sample" here unless given:
            Algorithm 1 to the letter, so that scores do not depend on how calls are cut.

    Raises:
        SettingsError: unknown or contradictory settings.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone = "ViT-B/16",
        *,
        pretrained: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        preprocess: str = "clip",
        batch_size: int = 32,
        gamma: float | None = None,
        threads: Mode = "refuse",
        protections: ProtectionSettings | Mapping[str, Any] | None = None,
        limits: ImageLimits | None = None,
        cache: bool | str | Path = True,
        **settings: Any,
    ):
        self.settings = from_mapping(
            InterNegSettings, merged(defaults=APPLICATION_DEFAULTS, given=settings)
        )
        if not isinstance(protections, ProtectionSettings):
            protections = from_mapping(ProtectionSettings, protections, "protections")
        self.protections = protections
        self.batch_size = checked("batch_size", batch_size, int, {"low": 1, "high": MOST_ROWS})
        checked("threads", threads, Mode, {})
        checked("preprocess", preprocess, Literal["clip", "openood_vlm"], {})
        if protections.of_bank and (
            self.settings.bank == "none" or not self.settings.bank_capacity
        ):
            raise SettingsError("protections protect the bank, and the settings have no bank")
        self.limits = limits or ImageLimits()
        self._store = Store(
            None if cache is False else default_root() if cache is True else Path(cache)
        )
        encoder = ImageEncoder(
            backbone,
            pretrained=pretrained,
            device=device,
            precision=precision,
            preprocess=preprocess,
            limits=self.limits,
            batch_size=self.batch_size,
        )
        super().__init__(encoder, gamma, threads)
        self._digests: dict[str, str] = {}

    def fit(
        self,
        class_names: Sequence[str] | str | Path,
        id_images: Any,
        *,
        progress: Progress | bool | None = None,
    ) -> InterNegDetector:
        """Learns the classes and mines the negative texts; starts a fresh stream.

        Args:
            class_names: names, a text file with one a line, or a known set ("cifar100").
            id_images: some images of every class: a folder with one subfolder per class, a
                mapping class -> images, or a sequence of (image, class); a class is a name or its
                number. `images_per_class` of each are read.
            progress: told of the model, images and texts: a function of (what, finished since the
                last call, total), True for bars on stderr, False for silence; by default bars
                where stderr is a terminal.

        Raises:
            ClassNameError: no names, empty or duplicate ones.
            DetectorError: classes that are not among the names.
            ProxyError: a class without images.
            ImageError: unreadable image.
        """
        names = checked_names(class_names)
        sources, labels = labelled_images(id_images, names)
        with progress_log(progress) as log:
            fit = fit_space(self._encoder, self.settings, self._store, names, sources, labels, log)
        warn_of_equal_texts(fit.space)
        detector = make_detector(self.backbone, self.settings, self.protections, fit.space)
        with self._lock:
            self._digests = fit.digests
            self._start(detector, fit.proxy_ids)
        return self

    # ---- the state on disk -------------------------------------------------------------------

    load = Load()

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file, atomically; see `state`.

        While another thread scores, the file holds the moment between two of its batches.

        Raises:
            DetectorError: before `fit`.
            StateError: the file cannot be written.
        """
        with self._lock:
            detector = self._fitted()
            saved = SavedDetector(
                setup=self._setup(),
                space=detector.space,
                memory=dict(detector.state_dict()),
                digests=self._digests,
                proxy_ids=self._proxy_ids,
                guard=self._threshold.guard,
                gamma=self.gamma,
                tpr=self.tpr,
                record=replace(self._record),
            )
        saving.write(saved, path)

    def _setup(self) -> Setup:
        return Setup(
            settings=as_mapping(self.settings),
            protections=as_mapping(self.protections),
            limits=asdict(self.limits),
            batch_size=self.batch_size,
            backbone=self._encoder.identity(),
            preprocess=self._encoder.preprocess_key(),
        )

    @classmethod
    def _from_state(
        cls,
        path: str | Path,
        backbone: str | Path | Backbone | None = None,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        threads: Mode = "refuse",
    ) -> InterNegDetector:
        """A detector as it was saved; neither ID images nor corpus are needed.

        Args:
            path: file of `save`.
            backbone: needed where the state names none that this package knows by name; a state
                never decides which file is opened.
            pretrained: for the backbone's name.
            device: for the backbone's name.
            threads: as for the class.

        Raises:
            StateError: damaged file, or weights other than the state's.
        """
        saved = saving.read(path)
        setup = saved.setup
        if backbone is None:
            name = setup.backbone.get("name")
            if name not in (*OPENAI_BACKBONES, "miniature"):
                raise StateError(
                    f"{path} was made with {saving.described(setup.backbone)}; pass it as "
                    "backbone= (a state does not decide which file is opened)"
                )
            backbone = str(name)
        options: dict[str, Any] = {
            "precision": setup.backbone.get("precision"),
            "preprocess": setup.preprocess.get("variant"),
            "batch_size": setup.batch_size,
            "protections": setup.protections,
        }
        try:
            limits = ImageLimits(**setup.limits)
            options |= {"limits": limits, "pretrained": pretrained, "device": device}
            detector = cls(backbone, threads=threads, **options, **setup.settings)
        except (SettingsError, TypeError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        detector._take(path, saved)
        return detector

    def _continue(
        self, path: str | Path, *, class_names: Any = None, id_images: Any = None
    ) -> InterNegDetector:
        """Continues the stream of a state in this detector.

        Args:
            path: file of `save`, by a detector with the same model, labels and settings.
            class_names: what `fit` would get, where this detector was not fitted; compared with
                what the state was fitted to, and the state's text space is used.
            id_images: likewise.

        Raises:
            StateError: damaged file, or one of another model, label set or setting; every
                difference is named.
        """
        saved = saving.read(path)
        pairs = saving.setup_pairs(saved.setup, self._setup())
        fitted = None if self._detector is None else self.space
        pairs |= fit_pairs(saved, fitted, class_names, id_images, self.settings)
        saving.refuse_other(path, saved.setup, pairs)
        self._take(path, saved)
        return self

    def _take(self, path: str | Path, saved: SavedDetector) -> None:
        saving.refuse_other(path, saved.setup, saving.model_pairs(saved.setup, self._setup()))
        device = self.backbone.device
        if saved.space.labels.shape[1] != self.backbone.embed_dim:
            raise StateError(f"{path} is damaged: its features do not have the model's size")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when the state's detector was fitted
            space = saved.space.to(device)
            fresh = make_detector(self.backbone, self.settings, self.protections, space)
        try:
            fresh.load_state_dict({n: t.to(device) for n, t in saved.memory.items()})
        except (DetectorError, RuntimeError, IndexError, KeyError, ValueError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        with self._lock:
            self._digests = {k: v for k, v in saved.digests.items() if k in saving.FIT_DIGESTS}
            self._start(fresh, saved.proxy_ids, saved.record)
            self._threshold.restore(fresh, saved.gamma, saved.tpr, saved.guard)

    def __getstate__(self) -> NoReturn:
        raise DetectorError(
            "a detector is not pickled; save(path) it and load(path) it in the other process"
        )
