"""A detector to a file and back."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

from openood_interneg.application import saving
from openood_interneg.application.explaining import Explainer
from openood_interneg.application.fitting import fit_pairs, make_detector
from openood_interneg.application.loading import Load, Loadable
from openood_interneg.application.saving import SavedDetector, Setup
from openood_interneg.application.state import StateError
from openood_interneg.application.turns import Mode
from openood_interneg.data.any_image import ImageLimits
from openood_interneg.data.store import Store
from openood_interneg.detectors.base import Detector, DetectorError
from openood_interneg.detectors.protections import ProtectionSettings
from openood_interneg.negatives.space_builder import TextSpaceBuilder
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InternegError, MethodSettings, SettingsError, as_mapping
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import OPENAI_BACKBONES


class Restorable(Explainer, Loadable):
    """A detector that is saved and loaded.

    Attributes:
        settings: of the method.
        protections: of InterNeg's bank.
        limits: of images.
        batch_size: images that are encoded together.
    """

    only: ClassVar[str | None] = None  # the one method that the class is for
    settings: MethodSettings
    protections: ProtectionSettings
    limits: ImageLimits
    batch_size: int
    _store: Store
    _digests: dict[str, str]

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
                threshold=self._threshold.saved(),
                record=replace(self._record),
            )
        saving.write(saved, path)

    def _setup(self) -> Setup:
        return Setup(
            method=self.method.name,
            settings={n: getattr(self.settings, n) for n in self.method.setting_names},
            protections=as_mapping(self.protections),
            limits=self.limits.kept(),
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
    ) -> Any:
        """A detector as it was saved; neither ID images nor corpus are needed.

        Args:
            path: file of `save`.
            backbone: needed where the state names none that this package knows by name; a state
                never decides which file is opened.
            pretrained: for the backbone's name.
            device: for the backbone's name.
            threads: as for the class.

        Raises:
            StateError: damaged file, one of a method that the class is not for, or weights other
                than the state's.
        """
        saved = saving.read(path)
        setup = saved.setup
        if cls.only not in (None, setup.method):
            raise StateError(
                f"{path} holds a detector of method {setup.method!r}; load it with OODDetector.load"
            )
        if backbone is None:
            name = setup.backbone.get("name")
            if name not in (*OPENAI_BACKBONES, "miniature"):
                raise StateError(
                    f"{path} was made with {saving.described(setup.backbone)}; pass it as "
                    "backbone= (a state does not decide which file is opened)"
                )
            backbone = str(name)
        options: dict[str, Any] = {
            "method": setup.method,
            "precision": setup.backbone.get("precision"),
            "preprocess": setup.preprocess.get("variant"),
            "batch_size": setup.batch_size,
            "protections": setup.protections,
        }
        try:
            limits = ImageLimits(**{k: v for k, v in setup.limits.items() if k != "urls"})
            options |= {"limits": limits, "pretrained": pretrained, "device": device}
            detector = cast(Any, cls)(backbone, threads=threads, **options, settings=setup.settings)
        except (SettingsError, TypeError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        detector._take(path, saved)
        return detector

    def _continue(self, path: str | Path, *, class_names: Any = None, id_images: Any = None) -> Any:
        """Continues the stream of a state in this detector.

        Args:
            path: file of `save`, by a detector with the same model, labels and settings.
            class_names: what `fit` would get, where this detector was not fitted; compared with
                what the state was fitted to, and the state's text space is used.
            id_images: likewise.

        Raises:
            StateError: damaged file, or one of another model, label set, method or setting; every
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
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it was said when the state's detector was fitted
                fresh = self._made(saved.space.to(device))
            if saved.memory:
                fresh.load_state_dict({n: t.to(device) for n, t in saved.memory.items()})
            elif fresh.state_dict():
                raise DetectorError("the stored memory is missing")
        except (InternegError, RuntimeError, LookupError, ValueError, TypeError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        with self._lock:
            self._digests = {k: v for k, v in saved.digests.items() if k in saving.FIT_DIGESTS}
            self._start(fresh, saved.proxy_ids, saved.record)
            self._threshold.restore(fresh, saved.threshold)

    def _source(self, class_names: Any, images: Any, log: Any) -> TextSpaceBuilder:
        return TextSpaceBuilder(self.backbone, class_names, images, self._store, log)

    def _made(self, space: TextSpace, source: TextSpaceBuilder | None = None) -> Detector[Any]:
        """A detector that is fitted to a space."""
        source = source or self._source(space.class_names, None, None)
        return make_detector(self.method, self.settings, self.protections, source, space)

    def __getstate__(self) -> NoReturn:
        raise DetectorError(
            "a detector is not pickled; save(path) it and load(path) it in the other process"
        )
