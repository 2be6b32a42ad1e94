"""The settings of methods and the base of every expected error; imports nothing of the package."""

from openood_interneg.settings.errors import (
    InternegError,
    MissingPackageError,
    SettingsError,
    first_line,
    printable,
    require_package,
    shown,
)
from openood_interneg.settings.fields import (
    LARGEST,
    Settings,
    as_mapping,
    checked,
    from_mapping,
    merged,
    setting,
)
from openood_interneg.settings.methods import (
    IdImageSettings,
    InterNegSettings,
    InversionSettings,
    LabelSettings,
    MethodSettings,
    NegativeSettings,
)
from openood_interneg.settings.shipped import docs_page, shipped_folder

__all__ = [
    "LARGEST",
    "IdImageSettings",
    "InterNegSettings",
    "InternegError",
    "InversionSettings",
    "LabelSettings",
    "MethodSettings",
    "MissingPackageError",
    "NegativeSettings",
    "Settings",
    "SettingsError",
    "as_mapping",
    "checked",
    "docs_page",
    "first_line",
    "from_mapping",
    "merged",
    "printable",
    "require_package",
    "setting",
    "shipped_folder",
    "shown",
]
