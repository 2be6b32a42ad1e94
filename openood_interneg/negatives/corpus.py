"""The words that negative texts are mined from."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Protocol

from openood_interneg.data.digests import bytes_digest
from openood_interneg.negatives.wordnet import nltk_entries
from openood_interneg.negatives.words import (
    ADJECTIVE,
    LEXNAMES,
    NOUN,
    CorpusError,
    WordEntry,
    normalize_text,
)
from openood_interneg.vlm.text_files import numbered_lines, read_bytes, read_text

KNOWN_CORPORA = ("wordnet", "nltk:wordnet", "nltk:wordnet31")

_PARTS_OF_SPEECH = {
    "noun": NOUN,
    "n": NOUN,
    "adjective": ADJECTIVE,
    "adj": ADJECTIVE,
    "a": ADJECTIVE,
    "s": ADJECTIVE,  # WordNet's satellite adjectives
}


@dataclass(frozen=True)
class Corpus:
    """Candidate words for negative texts.

    Attributes:
        name: what reports call it.
        nouns: distinct nouns, in the source's order.
        adjectives: distinct adjectives, in the source's order. A word may be in both.
        lexnames: the WordNet lexicographer files of each (word, "noun" or "adjective"), or None
            where the source does not name them.
    """

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...] = ()
    lexnames: Mapping[tuple[str, str], frozenset[str]] | None = field(
        default=None, hash=False, repr=False
    )

    def __post_init__(self) -> None:
        for kind in ("nouns", "adjectives"):
            words = getattr(self, kind)
            if isinstance(words, str):
                raise CorpusError(f"{kind} is a sequence of words, not the string {words!r}")
            object.__setattr__(self, kind, tuple(words))

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the words and their parts of speech, in order; a key for caches."""
        content = json.dumps([self.nouns, self.adjectives]).encode()
        return bytes_digest(content)

    def __len__(self) -> int:
        """Number of words; one that is both a noun and an adjective counts twice."""
        return len(self.nouns) + len(self.adjectives)

    def excluding(self, lexnames: Iterable[str]) -> Corpus:
        """Returns the corpus without the words that occur in the given lexicographer files only.

        CSP leaves out noun.person, noun.quantity, noun.group and adj.pert. A word that also
        occurs in another file stays, as it would if those files were deleted from the source;
        so does a word whose files are unknown.

        Raises:
            CorpusError: the corpus has no lexicographer files, or one of those given is neither
                in it nor in WordNet.
        """
        excluded = frozenset([lexnames] if isinstance(lexnames, str) else lexnames)
        lexnames_of = self.lexnames
        if lexnames_of is None:
            raise CorpusError(
                f"corpus {self.name!r} does not tell the lexicographer files of its words, so none "
                "can be left out: use the packaged corpus 'wordnet', or a CSV file with a column "
                "lexnames"
            )
        unknown = excluded - LEXNAMES - frozenset().union(*lexnames_of.values())
        if unknown:
            raise CorpusError(
                f"no lexicographer files of this corpus or of WordNet: "
                f"{', '.join(sorted(unknown))}; they are named like noun.person or adj.pert"
            )

        def stays(word: str, part_of_speech: str) -> bool:
            own = lexnames_of.get((word, part_of_speech))
            return not own or not own <= excluded

        return _narrowed(
            self,
            [noun for noun in self.nouns if stays(noun, NOUN)],
            [adjective for adjective in self.adjectives if stays(adjective, ADJECTIVE)],
        )


class CorpusSettings(Protocol):
    """Which corpus, and how its words are compared; `NegativeSettings` is one."""

    @property
    def corpus(self) -> str: ...

    @property
    def ignore_case(self) -> bool: ...


def load_corpus(source: str | Path) -> Corpus:
    """Loads the words to mine negative texts from.

    Args:
        source: one of

            - `"wordnet"`: the packaged list, made from WordNet 3.0 by the rule in
              `openood_interneg.negatives.wordnet`; nothing is downloaded;
            - `"nltk:wordnet"` or `"nltk:wordnet31"`: the same rule over the WordNet that the
              user has for NLTK (about 10 s); 3.1 is the release that the authors' own list seems
              to come from;
            - the path of a UTF-8 text file, one noun a line (empty lines and lines that start
              with `#` are skipped), or of a CSV file with the columns `word` and
              `part_of_speech` (noun, n, adjective, adj, a or s) and, if wanted, `lexnames`
              (joined with `;`). Either may be gzipped (`.gz`).

    Words keep the source's order and spelling; of duplicates within a part of speech the first
    stays.

    Raises:
        CorpusError: unknown source, NLTK or its data missing, or a file that is missing, empty,
            not UTF-8 or not of that form; the message names file, line and remedy.
    """
    if source == "wordnet":
        text = gzip.decompress(_packaged()).decode("utf-8")
        return _from_csv("wordnet", text, "the packaged WordNet list")
    if isinstance(source, str) and source.startswith("nltk:"):
        return _collect(source, nltk_entries(source), has_lexnames=True)
    if isinstance(source, str) and not os.path.exists(os.path.expanduser(source)):
        raise CorpusError(
            f"{source!r} is no known corpus ({', '.join(KNOWN_CORPORA)}) and no file: give one of "
            "these names, or the path of a text file (one word a line) or of a CSV file with the "
            "columns word,part_of_speech"
        )

    path = Path(os.path.expanduser(source))
    text = read_text(path, CorpusError)
    # A header with these columns is no word, whatever the file is called.
    header = text.lstrip()[:20].lower().startswith("word,part_of_speech")
    if header or path.name.lower().endswith((".csv", ".csv.gz")):
        return _from_csv(path.name, text, str(path))
    nouns: list[WordEntry] = [(line, NOUN, frozenset()) for _, line in numbered_lines(text) if line]
    if not nouns:
        raise CorpusError(f"{path}: no words in it; write one word a line")
    return _collect(path.name, nouns, has_lexnames=False)


def source_digest(source: str | Path) -> str:
    """Digest of what `load_corpus` would read; a key for caches that needs no parsing.

    Raises:
        CorpusError: as `load_corpus`.
    """
    if source == "wordnet":
        content = _packaged()
    elif str(source).startswith("nltk:"):
        return load_corpus(source).digest
    else:
        path = Path(os.path.expanduser(source))
        if not path.is_file():
            return load_corpus(source).digest  # says what is wrong with it
        content = read_bytes(path, CorpusError, unpack=False)
    name = Path(source).name.lower()  # its ending decides how it is read
    return bytes_digest(name.encode() + b"\0" + content)


def _packaged() -> bytes:
    folder = resources.files("openood_interneg.negatives")
    return (folder / "data" / "wordnet30.csv.gz").read_bytes()


def deduplicate(corpus: Corpus, class_names: Sequence[str], *, ignore_case: bool = True) -> Corpus:
    """Removes words equal to a class name, adjectives that are also nouns, and duplicates.

    CLIP's tokenizer lower-cases its text and collapses its spaces, so words that differ in
    nothing else have one text feature. By default they count as equal, and so do an underscore
    and a space: the class "aquarium_fish" removes the noun "Aquarium fish".

    Args:
        corpus: the words.
        class_names: the in-distribution classes.
        ignore_case: False compares character by character, as the authors' code does (underscores
            too, so that its candidates are reproduced exactly).
    """
    if isinstance(class_names, str):
        raise CorpusError(f"class_names is a sequence of names, not the string {class_names!r}")
    key: Callable[[str], str] = normalize_text if ignore_case else str
    taken = {key(name) for name in class_names}
    taken_by_nouns = {key(noun) for noun in corpus.nouns}
    return _narrowed(
        corpus,
        _first_of_each(corpus.nouns, key, taken),
        _first_of_each(corpus.adjectives, key, taken | taken_by_nouns),
    )


def _first_of_each(words: Iterable[str], key: Callable[[str], str], taken: set[str]) -> list[str]:
    seen = set(taken)
    kept = []
    for word in words:
        form = key(word)
        if form not in seen:
            seen.add(form)
            kept.append(word)
    return kept


def _narrowed(corpus: Corpus, nouns: list[str], adjectives: list[str]) -> Corpus:
    lexnames = corpus.lexnames
    if lexnames is not None:
        kept = {(noun, NOUN) for noun in nouns} | {(word, ADJECTIVE) for word in adjectives}
        lexnames = {entry: files for entry, files in lexnames.items() if entry in kept}
    return replace(corpus, nouns=tuple(nouns), adjectives=tuple(adjectives), lexnames=lexnames)


def _collect(name: str, entries: Iterable[WordEntry], has_lexnames: bool) -> Corpus:
    """Builds a corpus; entries for the same word and part of speech become one."""
    files: dict[tuple[str, str], frozenset[str]] = {}
    for word, part_of_speech, lexnames in entries:
        entry = (word, part_of_speech)
        known = files.get(entry)
        files[entry] = lexnames if known is None else known | lexnames
    return Corpus(
        name=name,
        nouns=tuple(word for word, part_of_speech in files if part_of_speech == NOUN),
        adjectives=tuple(word for word, part_of_speech in files if part_of_speech == ADJECTIVE),
        lexnames=files if has_lexnames else None,
    )


def _from_csv(name: str, text: str, where: str) -> Corpus:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        missing = [column for column in ("word", "part_of_speech") if column not in header]
        if missing:
            raise CorpusError(
                f"{where}, line 1: no column {' and '.join(missing)}; the first line must be "
                "word,part_of_speech (a column lexnames may follow)"
            )
        names = ("word", "part_of_speech", "lexnames")
        columns = tuple(header.index(name) if name in header else -1 for name in names)
        width = len(header)
        entries = [_entry(row, width, columns, where, rows.line_num) for row in rows if any(row)]
    except csv.Error as failure:
        raise CorpusError(
            f"{where}, line {rows.line_num}: not sound CSV ({failure}); put a word that holds a "
            "comma or a quote in quotes and double the quotes in it"
        ) from None
    if not entries:
        raise CorpusError(f"{where}: no words below its header; write one word a line")
    return _collect(name, entries, has_lexnames="lexnames" in header)


def _entry(
    row: list[str], width: int, columns: tuple[int, ...], where: str, line: int
) -> WordEntry:
    if len(row) != width:
        raise CorpusError(
            f"{where}, line {line}: {len(row)} columns where the header has {width}; put a "
            "word that holds a comma in quotes"
        )
    at_word, at_part, at_lexnames = columns  # one by one: there are 70,000 rows
    word, part_of_speech = row[at_word].strip(), row[at_part].strip()
    lexnames = row[at_lexnames] if at_lexnames >= 0 else ""
    if not word:
        raise CorpusError(f"{where}, line {line}: the word is empty; write it or delete the line")
    kind = _PARTS_OF_SPEECH.get(part_of_speech.lower())
    if kind is None:
        raise CorpusError(
            f"{where}, line {line}: unknown part of speech {part_of_speech!r}; use noun (or n) or "
            "adjective (or adj, a, s)"
        )
    return word, kind, _split(lexnames)


@functools.lru_cache(maxsize=4096)  # few combinations, and many words with each
def _split(lexnames: str) -> frozenset[str]:
    return frozenset(file for file in map(str.strip, lexnames.split(";")) if file)
