"""The rule that makes the word list out of WordNet, and the script that writes it."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from openood_interneg.negatives.corpus import load_corpus
from openood_interneg.negatives.wordnet import word_entries
from openood_interneg.negatives.words import CorpusError

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "make_wordnet_list.py"
spec = importlib.util.spec_from_file_location("make_wordnet_list", SCRIPT)
make_wordnet_list = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_wordnet_list)


def synset(lexname: str, *lemmas: str) -> SimpleNamespace:
    return SimpleNamespace(lexname=lambda: lexname, lemma_names=lambda: list(lemmas))


def small_wordnet() -> SimpleNamespace:
    synsets = {
        "n": [
            synset("noun.person", "Santa_Claus", "Father_Christmas"),
            synset("noun.animal", "bishop_bird"),
            synset("noun.food", "orange"),
            synset("noun.plant", "orange"),
            synset("noun.person", "bishop"),
            synset("noun.artifact", "bishop"),
        ],
        "a": [synset("adj.all", "Orange")],
        "s": [synset("adj.all", "gaudy"), synset("adj.ppl", "gaudy")],
    }
    return SimpleNamespace(all_synsets=synsets.__getitem__)


def test_rule_takes_lower_cased_head_lemmas_without_animals_and_food():
    assert word_entries(small_wordnet()) == [
        ("bishop", "noun", {"noun.artifact", "noun.person"}),
        ("gaudy", "adjective", {"adj.all", "adj.ppl"}),
        ("orange", "adjective", {"adj.all"}),
        ("orange", "noun", {"noun.plant"}),
        ("santa claus", "noun", {"noun.person"}),
    ]


@pytest.fixture
def nltk_corpus():
    return pytest.importorskip("nltk.corpus")


@pytest.mark.parametrize("name", ["words.csv", "words.csv.gz"])
def test_script_writes_what_load_corpus_reads(nltk_corpus, monkeypatch, tmp_path, capsys, name):
    monkeypatch.setattr(nltk_corpus, "wordnet31", small_wordnet())
    path = tmp_path / name
    arguments = ["--out", str(path), "--source", "nltk:wordnet31"]
    assert make_wordnet_list.main(arguments) == 0
    assert "3 nouns, 2 adjectives, 1 in both, 4 in all" in capsys.readouterr().out
    written = path.read_bytes()
    corpus = load_corpus(path)
    assert corpus.nouns == ("bishop", "orange", "santa claus")
    direct = load_corpus("nltk:wordnet31")
    assert (corpus.digest, corpus.lexnames) == (direct.digest, direct.lexnames)

    assert make_wordnet_list.main(arguments) == 0
    assert path.read_bytes() == written and [path] == list(tmp_path.iterdir())


def test_script_leaves_the_old_file_when_it_cannot_finish(nltk_corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(nltk_corpus, "wordnet", small_wordnet())
    path = tmp_path / "words.csv"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_wordnet_list.os, "replace", fail)
    assert make_wordnet_list.main(["--out", str(path)]) == 1
    assert path.read_text() == "old" and [path] == list(tmp_path.iterdir())


def test_script_says_what_is_wrong_with_its_target(nltk_corpus, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(nltk_corpus, "wordnet", small_wordnet())
    assert make_wordnet_list.main(["--out", str(tmp_path / "absent" / "words.csv")]) == 1
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_missing_wordnet_names_the_download_and_the_packaged_list(
    nltk_corpus, monkeypatch, tmp_path, capsys
):
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    # A fresh loader: one that has already found a WordNet would not look again.
    fresh = nltk_corpus.LazyCorpusLoader("wordnet31", WordNetCorpusReader, None)
    monkeypatch.setattr(nltk_corpus, "wordnet31", fresh)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(CorpusError, match="nltk.downloader wordnet31, or use the packaged list"):
        load_corpus("nltk:wordnet31")
    path = tmp_path / "words.csv"
    assert make_wordnet_list.main(["--out", str(path), "--source", "nltk:wordnet31"]) == 1
    assert "nltk.downloader wordnet31" in capsys.readouterr().err and not path.exists()


def test_missing_nltk_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(CorpusError, match="pip install nltk, or use the packaged list"):
        load_corpus("nltk:wordnet")
