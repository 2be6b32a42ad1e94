"""Prompt templates: named sets of them, and filling a name in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from openood_interneg.settings import InternegError
from openood_interneg.vlm.text_files import numbered_lines, read_text

SLOT = "{}"

_PROMPT_SETS: dict[str, tuple[str, ...]] = {
    "nice": ("The nice {}.",),
    "neglabel_nice": ("the nice {}",),
    "simple": ("a photo of a {}.",),
    "photo": ("a photo of {}",),
    "mcm": ("a photo of a {}",),
    "vanilla": ("{}",),
    "adjective": ("This is a {} photo.",),
    "neglabel_adjective": ("This is a {} photo",),
    "csp": (
        "a close-up photo of the nice {}.",
        "a photo with the nice {}.",
        "a good photo with the nice {}.",
        "a photo of the nice {}.",
        "{}",
        "the {}",
        "the good {}",
        "the nice {}",
    ),
    "csp_adjective": (
        "{}",
        "a nice photo of {}",
        "a good photo of {}",
        "a close-up photo of {}",
    ),
}

KNOWN_PROMPT_SETS = (*_PROMPT_SETS, "imagenet80")


class PromptError(InternegError, ValueError):
    """A prompt set or template that cannot be used; the message names the remedy."""


def prompt_set(name_or_templates: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Return prompt templates, each with exactly one ``{}`` where the name goes.

    Args:
        name_or_templates: one of

            - a known name: ``nice`` (labels and nouns, by the paper's implementation details) and
              ``adjective`` (by the authors' code), with full stops; ``neglabel_nice`` and
              ``neglabel_adjective``, the same prompts as NegLabel writes them; ``simple`` and
              ``mcm``, "a photo of a {}" with and without the full stop; ``vanilla``, the bare
              name; ``csp`` and ``csp_adjective``, CSP's 8 and 4; ``imagenet80``, OpenAI's 80 for
              ImageNet (from open_clip), which the authors' code inverts images with; ``photo``,
              the template of the paper's Eq. 12;
            - a literal template, that is, a string with a ``{}``;
            - a sequence of literal templates;
            - the path of a UTF-8 text file with one template a line (empty lines and lines that
              start with ``#`` are skipped).

    ``photo`` is exactly ``"a photo of {}"``: the paper concatenates "a photo of" and the
    pseudo-tokens, with no article and no full stop. The authors' code puts its placeholder in as
    ``template.format(" $ ")``; the extra spaces vanish in CLIP's tokenizer, so the tokens are the
    same as without them.

    Raises:
        PromptError: unknown name, a template without or with several ``{}``, no template at all,
            or an unreadable file.
        ImportError: ``imagenet80`` without open_clip installed.
    """
    if isinstance(name_or_templates, str):
        if name_or_templates in _PROMPT_SETS:
            return _PROMPT_SETS[name_or_templates]
        if name_or_templates == "imagenet80":
            return _imagenet80()
        if SLOT in name_or_templates:
            return (_checked(name_or_templates),)
        if not os.path.exists(os.path.expanduser(name_or_templates)):
            raise PromptError(
                f"{name_or_templates!r} is no known prompt set ({', '.join(KNOWN_PROMPT_SETS)}), "
                "no template (it has no {}) and no file: give a name from the list, or write a "
                "template such as 'a photo of a {}.'"
            )
    if isinstance(name_or_templates, (str, Path)):
        return _from_file(Path(os.path.expanduser(name_or_templates)))

    templates = tuple(_checked(template) for template in name_or_templates)
    if not templates:
        raise PromptError("the list of prompt templates is empty; give at least one")
    return templates


def fill(template: str, name: str) -> str:
    """Put a name where the template's ``{}`` is and leave every other character as it is.

    The text is never interpreted: names and templates may hold braces, quotes, ``%`` or any
    Unicode character.

    Raises:
        PromptError: the template has no ``{}`` or several.
    """
    return _checked(template).replace(SLOT, name)


def _checked(template: str, where: str = "") -> str:
    if not isinstance(template, str):
        raise PromptError(f"{where}a template is a string with one {{}}, not {template!r}")
    slots = template.count(SLOT)
    if slots != 1:
        raise PromptError(
            f"{where}template {template!r} has {slots or 'no'} {{}}; write exactly one, where the "
            "name goes"
        )
    return template


def _from_file(path: Path) -> tuple[str, ...]:
    templates = tuple(
        _checked(line, f"{path}, line {number}: ")
        for number, line in numbered_lines(read_text(path, PromptError))
        if line
    )
    if not templates:
        raise PromptError(f"{path}: no templates in it; write one a line, each with one {{}}")
    return templates


@lru_cache(maxsize=1)
def _imagenet80() -> tuple[str, ...]:
    try:
        import open_clip  # here, because it loads torch and torchvision
    except ImportError as missing:
        raise ImportError(
            "the imagenet80 templates come from open_clip: pip install open_clip_torch"
        ) from missing
    return tuple(_checked(template(SLOT)) for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
