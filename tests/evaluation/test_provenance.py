"""A result says what it was made with."""

import subprocess
from dataclasses import replace

import numpy as np
from PIL import Image

from openood_interneg.data.benchmark import Benchmark
from openood_interneg.data.image_lists import ImageList
from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation import provenance
from openood_interneg.evaluation.evaluate import Evaluation
from openood_interneg.evaluation.provenance import run_record
from openood_interneg.negatives.corpus import load_corpus


def small_benchmark(folder) -> Benchmark:
    sets = []
    for name, colour, label in (("test", "red", 0), ("ood", "blue", -1)):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
        labels = np.array([label], dtype=np.int64)
        sets.append(ImageList("id" if label == 0 else "other", folder, (f"{name}.png",), labels))
    test = replace(sets[0], name="shapes")
    return Benchmark("shapes", ("circle",), None, test, (), (sets[1],))


def test_a_run_remembers_its_commit_and_its_corpus(tmp_path, monkeypatch, miniature):
    words = tmp_path / "words.txt"
    words.write_text("stone\nriver\n")
    evaluation = Evaluation(small_benchmark(tmp_path), miniature)
    plans = [
        (method, method.make_settings({"corpus": str(words)} if name != "mcm" else {}))
        for name in ("mcm", "neglabel", "clipscope")
        for method in [get_method(name)]
    ]
    monkeypatch.setattr(provenance, "git_commit", lambda: "0123abc")
    record = run_record(evaluation, plans, [0], "mixed", 256, "mine.yml", None)
    assert record["git_commit"] == "0123abc"
    expected = load_corpus(str(words))
    described = {"name": "words.txt", "words": 2, "digest": expected.digest}
    described["precision"] = "fp32"
    assert record["corpora"] == {"neglabel": described, "clipscope": described}
    assert record["benchmark"]["lists"]["other"]["images"] == 1
    assert record["versions"]["torch"] and record["device"]


def test_the_commit_is_that_of_the_checkout_or_none(tmp_path, monkeypatch):
    package = tmp_path / "openood_interneg" / "evaluation"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    provenance.git_commit.cache_clear()
    try:
        assert provenance.git_commit() is None
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*git, "init", "-q"], check=True)
        (tmp_path / "a").write_text("1")
        subprocess.run([*git, "add", "a"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
        provenance.git_commit.cache_clear()
        commit = provenance.git_commit()
        assert commit is not None and len(commit) == 40
        (tmp_path / "a").write_text("2")
        provenance.git_commit.cache_clear()
        assert provenance.git_commit() == commit + "+changes"
    finally:
        provenance.git_commit.cache_clear()
