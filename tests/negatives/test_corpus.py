"""The word list: what the packaged one holds, what a user's file may be, what is removed."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openood_interneg.negatives.corpus import (
    Corpus,
    deduplicate,
    load_corpus,
)
from openood_interneg.negatives.words import LEXNAMES, CorpusError


@pytest.fixture(scope="module")
def packaged() -> Corpus:
    return load_corpus("wordnet")


# The packaged list


def test_packaged_list_has_the_counts_of_wordnet_30(packaged):
    nouns, adjectives = set(packaged.nouns), set(packaged.adjectives)
    assert (len(packaged.nouns), len(packaged.adjectives)) == (58_514, 14_006)
    assert (len(nouns & adjectives), len(nouns | adjectives)) == (1_726, 70_794)
    assert len(packaged) == 72_520


def test_packaged_words_are_lower_case_without_underscores(packaged):
    words = (*packaged.nouns, *packaged.adjectives)
    assert all(word == word.lower().strip() and "_" not in word for word in words)


def test_packaged_lexnames_are_wordnets_without_animals_and_food(packaged):
    files = frozenset().union(*packaged.lexnames.values())
    assert files == LEXNAMES - {"noun.animal", "noun.food"}
    assert packaged.lexnames["physicist", "noun"] == {"noun.person"}
    assert all(
        entry[1] == "adjective"
        for entry, own in packaged.lexnames.items()
        if any(file.startswith("adj.") for file in own)
    )


def test_packaged_list_holds_most_words_of_the_authors_list(packaged, realbench):
    theirs = load_corpus(realbench / "corpus" / "wordnet31.csv")
    nouns, adjectives = set(theirs.nouns), set(theirs.adjectives)
    assert (len(theirs.nouns), len(theirs.adjectives)) == (58_546, 13_091)
    assert (len(nouns & adjectives), len(nouns | adjectives)) == (1_637, 70_000)
    ours = set(packaged.nouns) | set(packaged.adjectives)
    assert len(ours & (nouns | adjectives)) / 70_000 > 0.99


def test_csps_exclusions(packaged):
    left = packaged.excluding(["noun.person", "noun.quantity", "noun.group", "adj.pert"])
    assert 46_500 < len(left.nouns) < 48_500 and 10_000 < len(left.adjectives) < 11_500
    assert "physicist" not in left.nouns
    # "bishop" is a person, but also a chess piece.
    assert "noun.artifact" in packaged.lexnames["bishop", "noun"] and "bishop" in left.nouns
    assert set(left.lexnames) == {(word, "noun") for word in left.nouns} | {
        (word, "adjective") for word in left.adjectives
    }


# Files of a user


def test_text_file_is_nouns_in_its_order_without_comments_and_duplicates(write):
    path = write("words.txt", "# things\nzebra\n\n  rocking chair \napple\nzebra\nsea_anemone\n")
    corpus = load_corpus(path)
    assert corpus.nouns == ("zebra", "rocking chair", "apple", "sea_anemone")
    assert corpus.adjectives == () and corpus.lexnames is None and corpus.name == "words.txt"
    assert load_corpus(str(path)) == corpus


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_mark_do_not_matter(write, newline):
    text = newline.join(["word,part_of_speech", "café,noun", "'hood,n", ""])
    corpus = load_corpus(write("words.csv", b"\xef\xbb\xbf" + text.encode()))
    assert corpus.nouns == ("café", "'hood")


def test_csv_file_with_every_way_to_write_a_part_of_speech(write):
    rows = "a,noun\nb,N\nc,adjective\nd,adj\ne,a\nf,s\na,adj\na,n\n"
    corpus = load_corpus(write("words.csv", "word,part_of_speech\n" + rows))
    assert corpus.nouns == ("a", "b")
    assert corpus.adjectives == ("c", "d", "e", "f", "a")
    assert corpus.lexnames is None


def test_csv_file_with_lexnames_and_columns_in_any_order(write):
    text = (
        "Lexnames,note,Word,Part_of_speech\n"
        'noun.act; noun.group,x,"salt, iodized",noun\n\nnoun.food,y,"salt, iodized",n\n,z,""""""\n'
    )
    broken = write("words.csv", text)
    with pytest.raises(CorpusError, match="line 5: 3 columns where the header has 4"):
        load_corpus(broken)
    corpus = load_corpus(write("words.csv", text.replace('""""""\n', '"""quoted""",a\n')))
    assert corpus.lexnames == {
        ("salt, iodized", "noun"): {"noun.act", "noun.group", "noun.food"},
        ('"quoted"', "adjective"): frozenset(),
    }


def test_gzipped_file_and_header_in_a_text_file(write):
    text = "word,part_of_speech\nloud,adj\n"
    for path in (write("a.csv.gz", gzip.compress(text.encode())), write("a.txt", text)):
        assert load_corpus(path).adjectives == ("loud",)


def test_a_file_may_be_called_like_a_known_corpus(write, monkeypatch):
    path = write("wordnet", "apple\n")
    monkeypatch.chdir(path.parent)
    assert load_corpus(Path("wordnet")).nouns == ("apple",)
    assert len(load_corpus("wordnet").nouns) == 58_514


HEADER = "word,part_of_speech\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "no words in it; write one word a line"),
        ("a.txt", "# only this\n\n", "no words in it"),
        ("a.txt", b"fine\nna\xefve\n", "line 2: not UTF-8; save the file as UTF-8"),
        ("a.txt", "apple\n".encode("utf-16-le"), "line 1: holds a NUL character"),
        ("a.txt.gz", b"apple\n", "not a sound gzip file"),
        ("a.txt.gz", gzip.compress(b"apple\n" * 99, mtime=0)[:-9], "not a sound gzip file"),
        ("a.csv", "", "line 1: no column word and part_of_speech"),
        ("a.csv", "word;part_of_speech\napple;noun\n", "line 1: no column word and"),
        ("a.csv", "word,pos\napple,noun\n", "line 1: no column part_of_speech"),
        ("a.csv", HEADER, "no words below its header"),
        ("a.csv", HEADER + "apple,noun\nrun,verb\n", "line 3: unknown part of speech 'verb'"),
        ("a.csv", HEADER + "apple\n", "line 2: 1 columns where the header has 2"),
        ("a.csv", HEADER + "Paris, France,noun\n", "line 2: 3 columns .* in quotes"),
        ("a.csv", HEADER + " ,noun\n", "line 2: the word is empty"),
        ("a.csv", HEADER + '"apple,noun\n', "line 2: not sound CSV"),
    ],
)
def test_bad_files_are_refused_with_file_line_and_remedy(write, name, content, message):
    path = write(name, content)
    with pytest.raises(CorpusError, match=message) as refusal:
        load_corpus(path)
    assert str(path) in str(refusal.value)


def test_missing_sources_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no known corpus.*wordnet, nltk:wordnet.*text file"):
        load_corpus("wordnet32")
    with pytest.raises(CorpusError, match="no known corpus"):
        load_corpus("")
    with pytest.raises(CorpusError, match="no such file"):
        load_corpus(tmp_path / "absent.txt")
    with pytest.raises(CorpusError, match="is a folder"):
        load_corpus(tmp_path)
    with pytest.raises(CorpusError, match="none of NLTK's WordNets known here"):
        load_corpus("nltk:brown")


# The corpus itself


def test_digest_depends_on_words_parts_of_speech_and_order_alone():
    digest = Corpus("a", ("x", "y"), ("z",)).digest
    assert int(digest, 16) and digest == Corpus("b", ["x", "y"], ["z"], {}).digest
    others = [
        Corpus("a", ("y", "x"), ("z",)),
        Corpus("a", ("x",), ("y", "z")),
        Corpus("a", ("x", "y", "z")),
        Corpus("a", ("x y",), ("z",)),
        Corpus("a", ("xy",), ("z",)),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


def test_corpus_can_be_hashed_and_refuses_a_string_of_words():
    assert len({Corpus("a", ["x"]), Corpus("a", ("x",))}) == 1
    with pytest.raises(CorpusError, match="nouns is a sequence of words"):
        Corpus("a", "apple")


def test_excluding_keeps_words_of_other_or_unknown_files():
    lexnames = {
        ("priest", "noun"): frozenset({"noun.person"}),
        ("bishop", "noun"): frozenset({"noun.person", "noun.artifact"}),
        ("gizmo", "noun"): frozenset(),
        ("priest", "adjective"): frozenset({"my.own"}),
    }
    corpus = Corpus("a", ("priest", "bishop", "gizmo"), ("priest",), lexnames)
    left = corpus.excluding(["noun.person"])
    assert left.nouns == ("bishop", "gizmo") and left.adjectives == ("priest",)
    assert corpus.excluding("noun.person") == left
    assert corpus.excluding(["my.own"]).adjectives == ()
    assert corpus.excluding(["noun.food"]) == corpus.excluding([]) == corpus


def test_excluding_refuses_a_misspelt_file_and_a_corpus_without_files():
    with pytest.raises(CorpusError, match="noun.persn; they are named like noun.person"):
        Corpus("a", ("x",), (), {("x", "noun"): frozenset()}).excluding(["noun.persn"])
    with pytest.raises(CorpusError, match="use the packaged corpus 'wordnet'"):
        Corpus("a", ("x",)).excluding(["noun.person"])


# De-duplication


def test_deduplicate_reproduces_the_authors_candidates(golden):
    mining = json.loads((golden / "mining.json").read_text(encoding="utf-8"))
    corpus = Corpus("golden", mining["nouns"], mining["adjectives"])
    left = deduplicate(corpus, mining["id_classes"], ignore_case=False)
    assert set(left.nouns) == set(mining["expected"]["candidates_noun"])
    assert set(left.adjectives) == set(mining["expected"]["candidates_adjective"])
    assert len(left) == len(set(left.nouns) | set(left.adjectives))


def test_deduplicate_gives_the_authors_pool_for_imagenet(realbench):
    open_clip = pytest.importorskip("open_clip")
    corpus = load_corpus(realbench / "corpus" / "wordnet31.csv")
    left = deduplicate(corpus, open_clip.IMAGENET_CLASSNAMES, ignore_case=False)
    assert (len(left.nouns), len(left.adjectives)) == (58_101, 11_453)


def test_deduplicate_ignores_case_underscores_and_spacing_unless_told():
    corpus = Corpus("a", ("Apple", "apple", "Aquarium  fish", "pear", "orange"), ("Pear", "ripe"))
    classes = ["ORANGE", "aquarium_fish"]
    left = deduplicate(corpus, classes)
    assert left.nouns == ("Apple", "pear") and left.adjectives == ("ripe",)
    assert deduplicate(corpus, classes, ignore_case=False) == corpus


def test_deduplicate_removes_repeated_words_and_their_files():
    lexnames = {("x", "noun"): frozenset({"noun.act"}), ("x", "adjective"): frozenset({"adj.all"})}
    left = deduplicate(Corpus("a", ("x", "x"), ("x", "y", "y"), lexnames), [])
    assert left.nouns == ("x",) and left.adjectives == ("y",)
    assert left.lexnames == {("x", "noun"): {"noun.act"}}


def test_deduplicate_refuses_one_string_for_the_classes():
    with pytest.raises(CorpusError, match="sequence of names"):
        deduplicate(Corpus("a", ("x",)), "cifar10")


words = st.lists(st.text("aAbB_ ", min_size=1, max_size=3), max_size=12)


@given(nouns=words, adjectives=words, classes=words, ignore_case=st.booleans())
def test_deduplicate_leaves_distinct_words_in_order_and_is_idempotent(
    nouns, adjectives, classes, ignore_case
):
    corpus = Corpus("a", nouns, adjectives)
    left = deduplicate(corpus, classes, ignore_case=ignore_case)
    remaining = [*left.nouns, *left.adjectives]
    assert len(set(remaining)) == len(remaining) and not set(remaining) & set(classes)
    assert list(left.nouns) == [noun for noun in dict.fromkeys(nouns) if noun in left.nouns]
    assert deduplicate(left, classes, ignore_case=ignore_case) == left
