"""What replaces OpenOOD's classes if OpenOOD is not installed."""

from __future__ import annotations

from typing import Any


class BasePostprocessor:
    """OpenOOD's interface, for use without OpenOOD."""

    def __init__(self, config: Any):
        self.config = config
