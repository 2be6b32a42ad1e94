"""Every hyper-parameter of the package, once: name, default, range, meaning.

The same dataclasses feed the YAML files, the command line and the Python interface, so a
setting has one name everywhere. Reading a mapping checks every key and value before any work
starts; the sources of the defaults are the paper's Section C and the authors' code.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import math
import re
import sys
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

__all__ = [
    "LARGEST",
    "IdImageSettings",
    "InterNegSettings",
    "InternegError",
    "LabelSettings",
    "MethodSettings",
    "MissingPackageError",
    "SettingsError",
    "TextSpaceSettings",
    "as_mapping",
    "checked",
    "first_line",
    "from_mapping",
    "merged",
    "printable",
    "require_package",
    "setting",
    "shown",
]


class InternegError(Exception):
    """Base of every error that is for people: its message names the thing and the remedy.

    The command line prints the message and nothing else; any other exception is a bug and shows
    its traceback.
    """


def shown(value: object, limit: int = 80) -> str:
    """`repr` of a value for a message, cut to `limit` characters."""
    try:
        text = repr(value)
    except Exception:  # a whole number of thousands of digits
        text = f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def first_line(error: BaseException, limit: int = 160) -> str:
    """What another library's error says, for a message of ours: its first line that tells
    something, shortened between words; the error's class where it says nothing.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # torch writes in bold
    lines = (line.strip() for line in plain.splitlines())
    # "Last error:" and the like only announce the line that follows.
    said = next((line for line in lines if line and not line.endswith(":")), "")
    said = said or type(error).__name__
    short = textwrap.shorten(said, limit, placeholder=" ...")
    return short if short != "..." else f"{said[: limit - 3]}..."


class MissingPackageError(InternegError, ImportError):
    """An optional package that is not installed, with the command that installs it."""


def require_package(name: str, install: str, why: str) -> None:
    """Asks for an optional package before any work that would need it at its end.

    Args:
        name: what is imported ("faiss"). install: what pip installs ("faiss-cpu").
        why: what needs it, the start of the message ("the method knn").

    Raises:
        MissingPackageError: it cannot be imported here.
    """
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # blocked, or put into sys.modules by hand without a spec
        found = sys.modules.get(name) is not None
    if not found:
        raise MissingPackageError(
            f"{why} needs the package {name}, which is not installed: pip install {install}"
        )


_CONTROL = dict.fromkeys((*range(32), *range(127, 160), *range(0x202A, 0x202F),
                         *range(0x2066, 0x206A)))  # fmt: skip
for _code in _CONTROL:
    _CONTROL[_code] = ascii(chr(_code))[1:-1]
_LINES = {code: text for code, text in _CONTROL.items() if chr(code) not in "\n\t"}


def printable(value: object, *, lines: bool = True) -> str:
    """Text in which no character steers the terminal: escape sequences are written out.

    Args:
        lines: whether line ends and tabs may stay as they are.
    """
    return str(value).translate(_LINES if lines else _CONTROL)


class SettingsError(InternegError, ValueError):
    """A setting that is unknown, of the wrong type, out of range or at odds with another."""


def setting(
    default: object, help: str, *, low: float | None = None, high: float | None = None
) -> Any:
    """A dataclass field with its documentation and its closed range [low, high]."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """Base of all settings: checks types and ranges when it is built.

    Raises:
        SettingsError: naming the setting, the value and what is allowed.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for f in dataclasses.fields(self):
            value = checked(f.name, getattr(self, f.name), hints[f.name], f.metadata)
            object.__setattr__(self, f.name, value)
        self.check()

    def check(self) -> None:
        """Hook for rules that concern several settings at once."""


@dataclass(frozen=True)
class MethodSettings(Settings):
    """Base of every method's settings.

    The classes below go by need: labels < ID images < negative texts. A method's settings derive
    from the one whose settings it uses, so that it has no setting without effect.
    """

    @property
    def reads_id_images(self) -> bool:
        """Whether a method with these settings looks at ID training images."""
        return False


@dataclass(frozen=True)
class LabelSettings(MethodSettings):
    """The ID labels, where they are encoded under a prompt."""

    label_prompt: str = setting("nice", "prompt set or template of the ID labels")


@dataclass(frozen=True)
class IdImageSettings(LabelSettings):
    """Labels, and which ID training images are looked at."""

    images_per_class: int = setting(16, "N, ID images per class (per image proxy, Eq. 7)", low=1)
    proxy_select: Literal["random", "first"] = setting(
        "random", "which N images of a class: drawn with proxy_seed, or the first of the list"
    )
    proxy_seed: int = setting(0, "seed of the draw of the ID images", low=0)

    @property
    def reads_id_images(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class TextSpaceSettings(IdImageSettings):
    """Labels, ID images (as image proxies) and mined negative texts."""

    noun_prompt: str = setting("nice", "prompt set or template of the nouns of the corpus")
    adjective_prompt: str = setting("adjective", "prompt set or template of the adjectives")
    corpus: str = setting(
        "wordnet", "where words come from: wordnet, nltk:wordnet31, a text or CSV file"
    )
    negatives: Literal["inter", "intra", "none"] = setting(
        "inter", "negative texts by the inter-modal criterion (Eq. 9), NegLabel's, or none"
    )
    num_negatives: int = setting(2000, "M, negative texts kept (Section C)", low=0)
    intra_quantile: float = setting(
        0.95, "quantile of a word's cosines with the labels (NegLabel)", low=0.0, high=1.0
    )
    intra_quantile_rule: Literal["index", "linear"] = setting(
        "index", "quantile as the sorted value at int(q C), or interpolated"
    )
    ignore_case: bool = setting(True, "compare words with class names without regard to case")

    @property
    def reads_id_images(self) -> bool:
        """Only for the inter-modal criterion: the texts rank by image proxies."""
        return self.negatives == "inter"


@dataclass(frozen=True)
class InterNegSettings(TextSpaceSettings):
    """InterNeg (CVPR 2026) with the switches of its ablation (Table 3)."""

    tau: float = setting(1.0, "temperature: logits are logit_scale * cosine / tau", low=1e-6)
    groups: int = setting(1, "G, groups over which the score is averaged", low=1)
    beta: float = setting(0.35, "an image that scores below is high-confidence OOD", low=0, high=1)
    bank: Literal["inter", "intra", "image", "none"] = setting(
        "inter",
        "extra negatives: inversions filtered by their distance (inter) or by their image's "
        "(intra), image features (image), or none",
    )
    bank_capacity: int = setting(
        2000, "K, largest number of extra negatives", low=0, high=1_000_000
    )
    update: Literal["batch", "sample"] = setting(
        "batch", "bank update per batch (authors' code) or per image (Algorithm 1)"
    )
    num_tokens: int = setting(1, "T, pseudo-tokens per image", low=1, high=16)
    steps: int = setting(10, "S, optimisation steps of an inversion (Algorithm 2)", low=1)
    lr: float = setting(2e-2, "learning rate of AdamW", low=0.0)
    weight_decay: float = setting(0.01, "weight decay of AdamW", low=0.0)
    templates: str = setting(
        "imagenet80", "prompts around the pseudo-token: imagenet80, photo, or a template"
    )
    seed: int = setting(0, "seed of the pseudo-tokens and of the drawn templates", low=0)

    @property
    def inverts(self) -> bool:
        """Whether the bank is made of inversions, so that an inverter is needed."""
        return self.bank in ("inter", "intra") and self.bank_capacity > 0

    @property
    def reads_id_images(self) -> bool:
        """Always: what enters the bank is judged by the image proxies, too."""
        return True


S = TypeVar("S", bound=Settings)


def merged(
    *,
    defaults: Mapping[str, Any] | None = None,
    preset: Mapping[str, Any] | None = None,
    file: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The one order of precedence: defaults < preset < file < given, whatever asks.

    Args:
        defaults: of a command or class, where they differ from the method's own.
        preset: a method's official settings. file: of the user. given: options or arguments.
    """
    layers = (defaults, preset, file, given)
    return {name: value for layer in layers for name, value in dict(layer or {}).items()}


def from_mapping(cls: type[S], mapping: Mapping[str, Any] | None, source: str = "") -> S:
    """Builds settings from a mapping such as a YAML block.

    Args:
        cls: a settings dataclass.
        mapping: setting name -> value; None or empty means all defaults.
        source: file or option the mapping came from, named in errors.

    Raises:
        SettingsError: unknown key (with the nearest known one), wrong type, out of range.
    """
    mapping = dict(mapping or {})
    known = [f.name for f in dataclasses.fields(cls)]
    where = f" in {source}" if source else ""
    for key in mapping:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown setting '{key}'{where}; {hint}")
    try:
        return cls(**mapping)
    except SettingsError as error:
        raise SettingsError(f"{error}{where}") from None


def as_mapping(settings: Settings) -> dict[str, Any]:
    """Plain values by name, ready for YAML or JSON."""
    return dataclasses.asdict(settings)


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


LARGEST = 2**63 - 1  # of whole numbers: what random generators and files hold
WITHIN = " of at most 63 bits"


def checked(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """A value of the type that its hint says, within `metadata`'s low and high.

    Raises:
        SettingsError: naming the value and what is allowed.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise SettingsError(f"{name} is {shown(value)}; choose one of {', '.join(choices)}")
        return value
    if hint is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{name} is {shown(value)}; it takes true or false")
        return value
    if hint is str:
        if not isinstance(value, str) or not value:
            raise SettingsError(f"{name} is {shown(value)}; it takes a non-empty string")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        # PyYAML reads 1e-4 as a string: the most likely way to get here.
        hint_text = " (in YAML write 1.0e-4, with a dot)" if isinstance(value, str) else ""
        raise SettingsError(f"{name} is {shown(value)}; it takes a number{hint_text}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise SettingsError(f"{name} is {shown(value)}; it takes a number{WITHIN}")
    if not math.isfinite(value):
        raise SettingsError(f"{name} is {shown(value)}; it takes a finite number")
    if hint is int:
        if int(value) != value or abs(value) > LARGEST:
            raise SettingsError(f"{name} is {shown(value)}; it takes a whole number{WITHIN}")
        value = int(value)
    else:
        value = float(value)
    low, high = metadata.get("low"), metadata.get("high")
    if low is not None and value < low:
        raise SettingsError(f"{name} is {shown(value)}; it must be at least {low}")
    if high is not None and value > high:
        raise SettingsError(f"{name} is {shown(value)}; it must be at most {high}")
    return value
