"""What a method needs in an application, said in one message before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openood_interneg.detectors.base import DetectorError
from openood_interneg.detectors.method import Method
from openood_interneg.detectors.registry import list_methods
from openood_interneg.settings import MethodSettings, SettingsError


def application_defaults(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by which a method learns image by image, where it has such and none of them is given
    otherwise: images come one by one, and scores do not depend on how calls are cut."""
    causal = {n: v for n, v in method.causal.items() if n in method.setting_names}
    return {} if any(given.get(n, v) != v for n, v in causal.items()) else causal


def check_method(method: Method, settings: MethodSettings, alpha: float | None = None) -> None:
    """Whether a method can be used in an application.

    Args:
        method: of the detector.
        settings: of the method.
        alpha: for its p-values, or None.

    Raises:
        SettingsError: alpha is given, and it has no p-values; it reads captions of image files by
            their names; a file that it needs is not named.
    """
    if alpha is not None and not method.detector.has_p:
        own = ", or settings={'alpha': ...} for its own" * hasattr(settings, "alpha")
        raise SettingsError(
            f"method '{method.name}' has no p-values for alpha; calibrate, or set gamma{own}"
        )
    if "captions" in method.needs:
        raise SettingsError(
            f"method '{method.name}' looks images up in a file of captions, which an image of an "
            f"application is not in; take another one, or run it with interneg eval"
        )
    if missing := method.missing_files(settings):
        names = " and ".join(f"{name}=PATH" for name in missing)
        raise SettingsError(
            f"method '{method.name}' needs a file of its authors; give {names}, or take a method "
            f"without: {', '.join(_names(id_images=True))}"
        )


def check_id_images(method: Method, settings: MethodSettings, given: bool) -> None:
    """Whether a method gets the ID images that it needs.

    Raises:
        DetectorError: it does not.
    """
    if settings.reads_id_images and not given:
        raise DetectorError(
            f"method '{method.name}' needs some ID images of every class, and there are no ID "
            "images; give fit(class_names, id_images), or take a method that needs class names "
            f"alone: {', '.join(_names(id_images=False))}"
        )


def _names(id_images: bool) -> list[str]:
    """Methods that need no file, and no ID images either unless those are there."""
    chosen = []
    for method in list_methods():
        settings = method.make_settings()
        if "captions" in method.needs or method.missing_files(settings):
            continue
        if id_images or not settings.reads_id_images:
            chosen.append(method.name)
    return chosen
