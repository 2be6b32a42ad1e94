"""Plots and their style."""

import numpy as np
import pytest

from openood_interneg.reproduce import plots, style


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
