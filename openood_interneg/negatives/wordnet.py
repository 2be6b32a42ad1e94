"""The words of WordNet that negative texts are mined from, through NLTK.

The rule, which gives 99.7 % of the list that the authors of InterNeg use when it is applied to
WordNet 3.0: the lower-cased head lemma (the synset's first, underscores as spaces) of every noun
and adjective synset, without the lexicographer files noun.animal and noun.food.

The packaged list was written with it by `tools/make_wordnet_list.py`.
"""

from __future__ import annotations

from typing import Any

from openood_interneg.negatives.words import ADJECTIVE, NOUN, CorpusError, WordEntry

LEFT_OUT = frozenset({"noun.animal", "noun.food"})

# WordNet keeps the satellites of an adjective cluster under a part of speech of their own.
_PARTS_OF_SPEECH = (("n", NOUN), ("a", ADJECTIVE), ("s", ADJECTIVE))

NLTK_SOURCES = ("nltk:wordnet", "nltk:wordnet31")


def word_entries(reader: Any) -> list[WordEntry]:
    """Apply the rule to a WordNet.

    Args:
        reader: an NLTK WordNet reader, or anything whose `all_synsets(pos)` yields objects with
            `lexname()` and `lemma_names()`.

    Returns:
        (word, "noun" or "adjective", its lexicographer files) for each word and part of speech,
        sorted.
    """
    files: dict[tuple[str, str], set[str]] = {}
    for pos, part_of_speech in _PARTS_OF_SPEECH:
        for synset in reader.all_synsets(pos):
            lexname = synset.lexname()
            if lexname in LEFT_OUT:
                continue
            word = synset.lemma_names()[0].replace("_", " ").lower()
            files.setdefault((word, part_of_speech), set()).add(lexname)
    return [(*entry, frozenset(files[entry])) for entry in sorted(files)]


def nltk_entries(source: str) -> list[WordEntry]:
    """Apply the rule to the WordNet that NLTK finds on this machine.

    Args:
        source: `"nltk:wordnet"` (release 3.0) or `"nltk:wordnet31"`.

    Raises:
        CorpusError: another source, or NLTK or its WordNet missing or unreadable.
    """
    if source not in NLTK_SOURCES:
        raise CorpusError(
            f"{source!r} is none of NLTK's WordNets known here: {', '.join(NLTK_SOURCES)}"
        )
    name = source.removeprefix("nltk:")
    packaged = "or use the packaged list, corpus 'wordnet', which needs neither NLTK nor a download"
    try:
        import nltk.corpus
    except ImportError:
        raise CorpusError(f"{source} needs NLTK: pip install nltk, {packaged}") from None
    try:
        return word_entries(getattr(nltk.corpus, name))
    except LookupError:
        raise CorpusError(
            f"NLTK finds no {name} on this machine: run python -m nltk.downloader {name}, "
            f"{packaged}"
        ) from None
    except OSError as refusal:
        raise CorpusError(
            f"NLTK's {name} cannot be read ({refusal}): run python -m nltk.downloader --force "
            f"{name}, {packaged}"
        ) from None
