"""Curves and metrics against scikit-learn's, and OpenOOD's figures, on scores with many ties."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from openood_interneg.evaluation.curves import area, precision_recall_points, roc_points
from openood_interneg.evaluation.metrics import ood_metrics

few = st.integers(-3, 3).map(float)  # ties between the sides
fine = st.floats(-1e6, 1e6, width=32)


@st.composite
def sides(draw):
    values = draw(st.sampled_from([few, fine]))
    counts = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return [draw(arrays(np.float64, n, elements=values)) for n in counts]


@settings(deadline=None)
@given(sides())
def test_points_are_scikit_learns(both):
    score = np.concatenate(both)
    truth = np.repeat([0, 1], [len(side) for side in both])
    fpr, tpr, _ = sk.roc_curve(truth, score)
    for ours, theirs in zip(roc_points(truth, score), (fpr, tpr), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    precision, recall, _ = sk.precision_recall_curve(truth, score)
    for ours, theirs in zip(
        precision_recall_points(truth, score), (precision, recall), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert area(fpr, tpr) == pytest.approx(sk.roc_auc_score(truth, score), abs=1e-12)
    assert area(recall, precision) == pytest.approx(sk.auc(recall, precision), abs=1e-12)


@pytest.mark.slow
def test_a_million_scores_are_counted_exactly():
    truth = np.random.default_rng(0).integers(0, 2, 1_000_000)
    score = np.random.default_rng(1).normal(size=1_000_000).astype(np.float32)
    for ours, theirs in zip(roc_points(truth, score), sk.roc_curve(truth, score), strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif("OPENOOD_SRC" not in os.environ, reason="set OPENOOD_SRC to a checkout")
@settings(deadline=None)
@given(sides())
def test_figures_are_openoods(both):
    path = Path(os.environ["OPENOOD_SRC"]) / "openood" / "evaluators" / "metrics.py"
    id_score, ood_score = both
    ours = ood_metrics(id_score, ood_score, np.zeros(len(id_score)), np.zeros(len(id_score)))
    label = np.concatenate([np.zeros(len(id_score)), -np.ones(len(ood_score))])
    theirs = runpy.run_path(str(path))["auc_and_fpr_recall"](np.concatenate(both), label, 0.95)
    names = ("AUROC", "AUPR_IN", "AUPR_OUT", "FPR@95")
    np.testing.assert_allclose([ours[name] / 100 for name in names], theirs, atol=1e-12)
