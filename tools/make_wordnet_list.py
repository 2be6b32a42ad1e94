"""Make the list of words that negative texts are mined from, out of WordNet through NLTK.

    python tools/make_wordnet_list.py --out words.csv.gz

writes one row per word and part of speech, sorted, with the lexicographer files it comes from.
The rule is in openood_interneg/negatives/wordnet.py.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from openood_interneg.negatives.wordnet import NLTK_SOURCES, nltk_entries
from openood_interneg.negatives.words import ADJECTIVE, NOUN, CorpusError, WordEntry


def write_entries(entries: Sequence[WordEntry], path: Path) -> None:
    """Write entries as CSV, gzipped where the name ends in `.gz`; whole or not at all.

    The same entries give the same bytes: the archive holds no time and no file name.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["word", "part_of_speech", "lexnames"])
    rows.writerows([word, pos, ";".join(sorted(files))] for word, pos, files in entries)
    data = text.getvalue().encode()
    if path.suffix.lower() == ".gz":
        data = gzip.compress(data, mtime=0)

    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/make_wordnet_list.py",
        description="Make the list of candidate words for negative texts out of WordNet.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="CSV file to write (.csv, or .csv.gz)"
    )
    parser.add_argument(
        "--source", choices=NLTK_SOURCES, default=NLTK_SOURCES[0], help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    try:
        entries = nltk_entries(options.source)
        write_entries(entries, options.out)
    except CorpusError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"error: {options.out} cannot be written: {problem.strerror}", file=sys.stderr)
        return 1
    nouns = {word for word, part_of_speech, _ in entries if part_of_speech == NOUN}
    adjectives = {word for word, part_of_speech, _ in entries if part_of_speech == ADJECTIVE}
    print(
        f"{options.out}: {len(nouns)} nouns, {len(adjectives)} adjectives, "
        f"{len(nouns & adjectives)} in both, {len(nouns | adjectives)} in all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
