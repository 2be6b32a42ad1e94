"""The door to pytorch-ood, which is imported when somebody goes through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openood_interneg.application.detector import OODDetector
from openood_interneg.settings import require_package

if TYPE_CHECKING:
    from openood_interneg.application.pytorch_ood_detector import PytorchOODDetector


def as_pytorch_ood(
    detector: OODDetector,
    class_names: Sequence[str] | str | Path | None = None,
    *,
    update: bool = False,
) -> PytorchOODDetector:
    """A detector of this package as a `pytorch_ood.api.Detector`: high scores are OOD there.

    Args:
        detector: any, fitted or not; it is used, not copied.
        class_names: as for `OODDetector.fit`; for a detector that is still to be fitted.
        update: let a method with a memory learn from what it scores.

    Raises:
        MissingPackageError: pytorch-ood is not installed.
        DetectorError: the detector is not fitted, and there are no class names.
    """
    require_package("pytorch_ood", "'openood-interneg[pytorch-ood]'", "as_pytorch_ood")
    from openood_interneg.application.pytorch_ood_detector import PytorchOODDetector

    return PytorchOODDetector(detector, class_names, update=update)
