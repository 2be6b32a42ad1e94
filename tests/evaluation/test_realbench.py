"""The authors' code on a small real CLIP and real photographs: the four reference settings."""

import json

import pandas as pd
import pytest

from openood_interneg.detectors.registry import get_method
from openood_interneg.evaluation.results import summary

pytestmark = pytest.mark.slow

METHODS = {
    "neglabel_intra_negatives": "neglabel",
    "interneg_negatives_only": "interneg_negatives_only",
    "interneg": "interneg",
}
# One of the reference's 28 rows lies at the edge of its own spread: over seeds 0-9 our FPR@95
# there has mean 23.0 and deviation 2.7 (reference: 23.3, stated as +- 0.54 over three shuffles).
UNSTABLE = {("realbench10/M=2000", "interneg", "imagenet_sample", "FPR@95"): 3.0}


@pytest.fixture(scope="module")
def reference(realbench):
    return json.loads((realbench / "reference.json").read_text())["benchmarks"]


@pytest.mark.parametrize("negatives", [2000, 70000])
class TestRealbench10:  # a class each: pytest's processes run them side by side
    def test_figures_of_the_authors_code(self, reference, evaluations, realbench, negatives):
        compare(reference, evaluations, realbench, "realbench10", negatives)


@pytest.mark.parametrize("negatives", [2000, 70000])
class TestRealbench100:
    def test_figures_of_the_authors_code(self, reference, evaluations, realbench, negatives):
        compare(reference, evaluations, realbench, "realbench100", negatives)


def test_the_banks_of_the_ablation_stand_in_the_published_order(evaluations, realbench):
    """No bank < intra-modal < inter-modal, as in Table 3; image features are worse than none."""
    evaluation, means = evaluations("realbench10"), {}
    for bank in ("none", "image", "intra", "inter"):
        settings = get_method("interneg").make_settings(
            {
                "corpus": str(realbench / "corpus" / "wordnet31.csv"),
                "proxy_select": "first",
                "negatives": "intra",
                "bank": bank,
            }
        )
        rows = evaluation.run("interneg", settings, seed=0)
        sets = [row["AUROC"] for row in rows if row["dataset"] not in ("nearood", "farood")]
        means[bank] = sum(sets) / len(sets)
    expected = {"none": 91.9, "image": 86.0, "intra": 93.3, "inter": 94.8}
    assert means == pytest.approx(expected, abs=0.3)


def compare(reference, evaluations, realbench, bench: str, negatives: int) -> None:
    """All methods and seeds of one setting against the reference."""
    case = f"{bench}/M={negatives}"
    expected = reference[case]
    evaluation = evaluations(bench)
    rows, seeds = [], {"neglabel": 1, "interneg_negatives_only": 1, "interneg": 3}
    for name in METHODS.values():
        method = get_method(name)
        settings = method.make_settings(
            {
                "corpus": str(realbench / "corpus" / "wordnet31.csv"),
                "proxy_select": "first",
                "num_negatives": negatives,
            }
        )
        for seed in range(seeds[name]):
            rows += evaluation.run(name, settings, seed=seed)
        if name == "interneg":
            mined = evaluation.source.mined(settings)
    kinds = pd.Series(mined.words).groupby(list(mined.parts_of_speech), sort=False)
    first = {kind: words.tolist() for kind, words in kinds}
    assert first["noun"][: len(expected["first_nouns"])] == expected["first_nouns"]
    count = len(expected["first_adjectives"])
    assert first["adjective"][:count] == expected["first_adjectives"]
    assert mined.passing["noun"] == expected["passing_nouns"]
    assert mined.passing["adjective"] == expected["passing_adjectives"]
    assert len(mined.words) == expected["negatives"]

    ours = summary(rows).set_index(["method", "dataset"])
    off = []
    for row in expected["rows"]:
        name = METHODS[row["method"]]
        for metric in ("AUROC", "FPR@95", "ACC"):
            tolerance = 0.05
            if name == "interneg":
                tolerance = max(1.0, 2 * row.get(f"{metric}_std", 0.0))
            tolerance = UNSTABLE.get((case, name, row["dataset"], metric), tolerance)
            value = ours.loc[(name, row["dataset"]), metric]
            if abs(value - row[metric]) > tolerance + 0.005:  # the reference is rounded
                off.append(f"{name} {row['dataset']} {metric}: {value:.2f}, theirs {row[metric]}")
    assert not off, off
