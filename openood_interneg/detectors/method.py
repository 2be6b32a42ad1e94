"""What the table of methods says of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from openood_interneg.data.encode import FeatureKind
from openood_interneg.detectors.base import Detector
from openood_interneg.negatives.inversion import Inverter
from openood_interneg.negatives.stored_inversion import Inversion, pseudo_token_inversion
from openood_interneg.negatives.text_space import TextSource, TextSpace
from openood_interneg.negatives.token_start import word_started_inversion
from openood_interneg.settings import (
    InversionSettings,
    MethodSettings,
    SettingsError,
    from_mapping,
)


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        name: by which it is selected.
        title: how tables print it.
        detector: its class, which names the class of its settings.
        fixed: settings that make this row what it is (an ablation of another method).
        without: settings that have no effect under what is fixed, and so are not the row's.
        paper: arXiv number or DOI.
        year: of publication.
        venue: of publication.
        needs: what it needs besides labels: "negatives", "ID images", "extra file".
        state: what it remembers of a stream; empty for nothing.
        transductive: a score may depend on later images of the same batch.
        order_dependent: a score may depend on what came before.
        presets: settings by benchmark family, from the paper or its code.
        space: recipe (source, settings) -> TextSpace where the common one (labels, mined
            negatives, proxies) is not enough; `source` is an `negatives.text_space.TextSource`.
        fpr: which FPR@95 the paper's figures are: "ood" (OpenOOD's, OOD is the positive class)
            or "id" (ID is the positive class).
        input: what the detector's features are of: "image" (B, D), `Views` (V, B, D) of an image
            and its corrupted copies, or "patches" (1 + P, B, D) of an image and its patches; or a
            function of the settings that says which. Read it with `features_of`.
        inverts: whether the detector takes an inverter as its second argument.
        inversion: (source, settings, space) -> how it inverts; the paper's, as the settings
            describe it, unless given.
        causal: settings under which an image's score depends on earlier images only, not on how
            the stream is cut into batches; empty where that is always so.
    """

    name: str
    title: str
    detector: type[Detector[Any]]
    paper: str
    year: int
    venue: str
    needs: tuple[str, ...] = ()
    state: str = ""
    transductive: bool = False
    order_dependent: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    space: Callable[[Any, Any], TextSpace] | None = None
    fpr: str = "id"
    inverts: bool = False
    inversion: Callable[[Any, Any, TextSpace], Inversion] | None = None
    causal: Mapping[str, Any] = field(default_factory=dict)
    input: FeatureKind | Callable[[Any], FeatureKind] = "image"

    @property
    def settings(self) -> type[MethodSettings]:
        """The class of its settings."""
        return self.detector.Settings

    def make_settings(
        self, values: Mapping[str, Any] | None = None, source: str = ""
    ) -> MethodSettings:
        """Settings from values; what the row fixes cannot be set.

        Raises:
            SettingsError: unknown, ill-typed or fixed settings; where other methods have a
                setting that this one has not, they are named.
        """
        values = dict(values or {})
        unset = {f.name: f.default for f in fields(self.settings) if f.name in self.without}
        for name, value in values.items():
            if name in unset and value == unset[name]:
                continue  # as a settings object gives it back
            if name not in self.setting_names and (others := ", ".join(methods_with(name))):
                where = f" (in {source})" if source and f"'{self.name}'" not in source else ""
                raise SettingsError(
                    f"method '{self.name}' has no setting '{name}'{where}; these have: {others}"
                )
        for name in self.fixed:
            if name in values and values[name] != self.fixed[name]:
                raise SettingsError(
                    f"method '{self.name}' fixes {name} = {self.fixed[name]}; leave it out"
                )
        return from_mapping(self.settings, values | dict(self.fixed), source)

    @property
    def setting_names(self) -> tuple[str, ...]:
        """What can be set, in the order of the fields."""
        return tuple(f.name for f in fields(self.settings) if f.name not in self.without)

    def takes(self, name: str, value: Any) -> bool:
        """Whether a setting has an effect here, or is what the row fixes anyway."""
        return name in self.setting_names and self.fixed.get(name, value) == value

    def features_of(self, settings: MethodSettings) -> FeatureKind:
        """What the detector's features are of under these settings."""
        return self.input(settings) if callable(self.input) else self.input

    def missing_files(self, settings: MethodSettings) -> list[str]:
        """Settings that must name a file and do not: the row cannot run without them."""
        names = ("checkpoint", "captions", "lookalikes")
        return [name for name in names if getattr(settings, name, "") == "none"]

    def inversion_of(
        self, source: TextSource, settings: MethodSettings, space: TextSpace
    ) -> Inversion | None:
        """How images are inverted under the settings; None where none is.

        Raises:
            SettingsError: the settings do not say how.
        """
        if not (self.inverts and settings.inverts):
            return None
        if self.inversion is not None:
            return self.inversion(source, settings, space)
        if not isinstance(settings, InversionSettings):
            raise SettingsError(
                f"method '{self.name}' inverts images, and its settings are no InversionSettings"
            )
        if settings.init == "words":
            return word_started_inversion(source, settings, space)
        return pseudo_token_inversion(source.backbone, settings)

    def fitted(
        self,
        settings: MethodSettings,
        source: TextSource,
        inverter_of: Callable[[Inversion], Inverter],
        space: TextSpace | None = None,
    ) -> Detector[Any]:
        """A detector that is fitted to the classes of a source, on its model's device.

        Args:
            settings: of this method.
            source: of its text space.
            inverter_of: makes the inverter where one is needed: `StoredInverters`, or
                `live` for one that keeps nothing.
            space: the text space, where it is there already.

        Raises:
            DetectorError: the space lacks what the method needs.
        """
        space = (space or source.space_for(self, settings)).to(source.backbone.device)
        inversion = self.inversion_of(source, settings, space)
        inverter = None if inversion is None else inverter_of(inversion)
        return self.make(settings, inverter).fit(space)

    def make(self, settings: MethodSettings, inverter: Inverter | None = None) -> Detector[Any]:
        """A detector with these settings; the inverter goes to methods that invert."""
        if not self.inverts:
            return self.detector(settings)
        inverting: Callable[..., Detector[Any]] = self.detector
        return inverting(settings, inverter)


def live(inversion: Inversion) -> Inverter:
    """What computes every inversion anew."""
    return inversion.make()


# All rows by name, in the order of the table; `registry` fills and reads it.
TABLE: dict[str, Method] = {}


def methods_with(setting: str) -> list[str]:
    """Names of the methods that have a setting, in the order of the table."""
    return [method.name for method in TABLE.values() if setting in method.setting_names]
