"""Images in, a class name or "unknown" out: a method of the table for applications.

Below it are the same detectors, text spaces and inversions as in the benchmarks; this package adds
what an application needs: images of any origin, a threshold, explanations, and a state on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from openood_interneg.application.images import ImageEncoder
from openood_interneg.application.learning import Learner
from openood_interneg.application.needs import application_defaults, check_method
from openood_interneg.application.parameters import Parameters
from openood_interneg.application.threshold import Mode as ThresholdMode
from openood_interneg.application.threshold import Threshold
from openood_interneg.application.turns import Mode
from openood_interneg.data.any_image import ImageLimits
from openood_interneg.data.store import Store, default_root
from openood_interneg.detectors.protections import ProtectionSettings
from openood_interneg.detectors.registry import get_method
from openood_interneg.settings import SettingsError, checked, from_mapping, merged
from openood_interneg.vlm.backbones import Backbone, Precision

DEFAULT_METHOD = "rationeg"  # best in use: docs/streams.md
MOST_ROWS = 1_000_000
NO_ARGUMENTS = ("self", "settings", "more", "__class__")


class OODDetector(Learner, Parameters):
    """Zero-shot OOD detection with CLIP, by any method of the table, for class names.

    Args:
        backbone: a name for `load_backbone` (loaded when first needed), or a `Backbone`.
        method: name of the method (`interneg methods` lists them).
        pretrained: for the backbone's name.
        device: for the backbone's name; "auto" takes a GPU if there is one.
        precision: for the backbone's name.
        preprocess: "clip" (the model's own) or "openood_vlm".
        batch_size: images that are encoded, and with `update="batch"` scored, together.
        gamma: images that score below are unknown; leave it out to calibrate.
        threshold: what a calibrated gamma does as the method's memory grows: "follow" its
            calibration images, or stay "fixed".
        alpha: of methods with p-values: images with p <= alpha are unknown, and `fit` does not
            calibrate by itself. If left out it is 0.05, for where nothing is calibrated.
        threads: what to do with an update that comes while another call, or a stream that has not
            ended, is updating: "refuse" it, since scores would depend on who comes first, or
            "arrival", one after the other as they come. Calls that do not overlap are always
            accepted, whichever threads make them.
        protections: limits on what the stream may do to InterNeg's bank (`ProtectionSettings`).
        limits: limits and rules for images (`ImageLimits`).
        cache: keep text features on disk: True in the usual place, a folder, or False.
        settings: of the method, by name; for those that are named like an argument here.
        more: settings of the method, by name. Methods with a memory learn image by image here
            unless told otherwise (InterNeg: `update="sample"`, Algorithm 1 to the letter), so that
            scores do not depend on how calls are cut.

    Raises:
        SettingsError: unknown method, unknown or contradictory settings, a file that the method
            needs is not named.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone = "ViT-B/16",
        method: str = DEFAULT_METHOD,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        preprocess: str = "clip",
        batch_size: int = 32,
        gamma: float | None = None,
        threshold: ThresholdMode = "follow",
        alpha: float | None = None,
        threads: Mode = "refuse",
        protections: ProtectionSettings | Mapping[str, Any] | None = None,
        limits: ImageLimits | None = None,
        cache: bool | str | Path = True,
        settings: Mapping[str, Any] | None = None,
        **more: Any,
    ):
        self._arguments = {n: v for n, v in locals().items() if n not in NO_ARGUMENTS}
        row = get_method(method)
        self._given = merged(file=settings, given=more)
        defaults = application_defaults(row, self._given)
        self.settings = row.make_settings(merged(defaults=defaults, given=self._given))
        check_method(row, self.settings, alpha)
        if not isinstance(protections, ProtectionSettings):
            protections = from_mapping(ProtectionSettings, protections, "protections")
        self.protections = protections
        self.batch_size = checked("batch_size", batch_size, int, {"low": 1, "high": MOST_ROWS})
        checked("threads", threads, Mode, {})
        checked("preprocess", preprocess, Literal["clip", "openood_vlm"], {})
        self._check_protections(row.name)
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
            kind=row.features_of(self.settings),
        )
        super().__init__(row, encoder, Threshold(gamma, threshold, alpha), threads)
        self._digests = {}

    def _check_protections(self, method: str) -> None:
        if self.protections == ProtectionSettings():
            return
        if method != "interneg":
            raise SettingsError(f"protections are of InterNeg's bank; '{method}' has none of them")
        bank = getattr(self.settings, "bank", "none")
        if self.protections.of_bank and (
            bank == "none" or not getattr(self.settings, "bank_capacity", 0)
        ):
            raise SettingsError("protections protect the bank, and the settings have no bank")

    def _own_gamma(self) -> float | None:
        return self._threshold.given


class InterNegDetector(OODDetector):
    """`OODDetector` with method "interneg".

    Args:
        backbone: as for `OODDetector`.
        options: likewise, but for `method`.
    """

    only = "interneg"

    def __init__(self, backbone: str | Path | Backbone = "ViT-B/16", **options: Any):
        method = options.pop("method", self.only)
        if method != self.only:
            raise SettingsError(
                f"InterNegDetector is for method 'interneg'; '{method}' needs OODDetector"
            )
        super().__init__(backbone, method=self.only, **options)
