"""Words with their parts of speech: what the corpus and WordNet exchange."""

from __future__ import annotations

from openood_interneg.settings import InternegError

NOUN, ADJECTIVE = "noun", "adjective"

# WordNet's lexicographer files of nouns and adjectives, from its manual page lexnames(5WN).
LEXNAMES = frozenset(
    [f"adj.{name}" for name in ("all", "pert", "ppl")]
    + [
        f"noun.{name}"
        for name in (
            "Tops act animal artifact attribute body cognition communication event feeling food "
            "group location motive object person phenomenon plant possession process quantity "
            "relation shape state substance time"
        ).split()
    ]
)

WordEntry = tuple[str, str, frozenset[str]]  # word, part of speech, lexicographer files


class CorpusError(InternegError, ValueError):
    """A word list that cannot be used; the message names the remedy."""


def normalize_text(text: str) -> str:
    """A text without what CLIP's tokenizer ignores, case and spacing; `_` counts as a space."""
    return " ".join(text.replace("_", " ").casefold().split())
