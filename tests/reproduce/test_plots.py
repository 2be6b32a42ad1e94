"""Plots and their style."""

import numpy as np
import pytest

from openood_interneg.reproduce import panels, plots, style


@pytest.mark.slow
def test_plots_return_their_axis_and_leave_no_style():
    import matplotlib

    before = dict(matplotlib.rcParams)
    rng = np.random.default_rng(0)
    pair = rng.random(50), rng.random(40)
    colours = {"InterNeg": style.method_colour("interneg"), "MCM": style.method_colour("mcm")}
    with style.page_style():
        figure, axes = style.new_figure(2, 2)
        assert plots.score_histogram(axes[0][0], *pair) is axes[0][0]
        by = {"InterNeg": pair, "MCM": pair[::-1]}
        assert plots.roc_curves(axes[0][1], by, colours) is axes[0][1]
        assert plots.precision_recall_curves(axes[1][0], by, colours) is axes[1][0]
        plots.sweep_line(axes[1][1], [1, 2], {"MCM": [1, 2]}, colours, default=1)
        assert style.as_svg(figure, "x") == style.as_svg(figure, "x")
    after = {k: v for k, v in matplotlib.rcParams.items() if not k.startswith("backend")}
    assert after == {k: v for k, v in before.items() if not k.startswith("backend")}
    assert style.method_colour("interneg") == style.method_colour("interneg")
    styles = style.line_styles(
        list("abcdefgh"), dict.fromkeys("abcd", "x") | dict.fromkeys("efgh", "y")
    )
    assert len({(s["color"], s["linestyle"]) for s in styles}) == 8


@pytest.mark.slow
def test_shares_that_crowd_at_their_ends_are_drawn_by_their_log_odds():
    def drawn(own, ood, threshold):
        with style.page_style():
            (ax,) = panels.judged_histogram(own, ood, "near OOD", threshold).axes
        return ax.get_xlabel(), next(line.get_xdata()[0] for line in ax.lines)

    crowd, spread = np.float32([1e-9, 1e-7, 0, 1]), np.float32([0.4, 0.5, 0.6])
    assert drawn(spread, spread, 0.5) == ("score (high = ID)", 0.5)
    assert drawn(crowd - 3, spread, 0.5) == ("score (high = ID)", 0.5)
    label, at = drawn(crowd, spread, 1e-7)
    assert label == "log-odds of the score (high = ID)"
    assert at == pytest.approx(np.log(1e-7), rel=1e-4)
