"""Streams as an experiment: what a cell gives, and the experiment on the miniature."""

import dataclasses

import numpy as np
import pytest
import yaml

from openood_interneg.data.store import Store
from openood_interneg.detectors.registry import list_methods
from openood_interneg.reproduce.experiment_files import load_experiment
from openood_interneg.reproduce.run import Reproduction
from openood_interneg.reproduce.tables import EVERY, SHIFTED, build_table
from openood_interneg.reproduce.write import write_report, write_result
from openood_interneg.settings import SettingsError


def test_every_method_that_needs_no_file_is_on_the_streams():
    there = {variant.method for variant in load_experiment("streams").methods}
    for method in list_methods():
        needs_nothing = not method.missing_files(method.make_settings())
        assert (method.name in there) == (needs_nothing and method.name != "cover"), method.name


def test_causal_methods_judge_an_image_before_the_next_one():
    methods = {method.name: method for method in list_methods()}
    for variant in load_experiment("streams").methods:
        if variant.method == "tins":  # its groups make that too slow; the notes say so
            continue
        for name, value in methods[variant.method].causal.items():
            method = methods[variant.method]
            assert not method.takes(name, value) or variant.settings[name] == value, variant.label


@pytest.mark.parametrize(
    "change, message",
    [({"stream": "tide"}, "stream is 'tide'"), ({"shift": "fog-9"}, "unknown view 'fog-9'")],
)
def test_a_stream_that_does_not_exist_is_refused(tmp_path, block, change, message):
    path = tmp_path / "mine.yml"
    own = block("streams")
    own["points"][0] |= change
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    with pytest.raises(SettingsError, match=f"mine.yml: {message}"):
        load_experiment(path)


@pytest.fixture(scope="module")
def few(world, options, tmp_path_factory):
    """Three methods on all streams of the miniature; (experiment, options, folder, result)."""
    experiment = load_experiment("streams")
    methods = [v for v in experiment.methods if v.label in ("MCM", "InterNeg", "RatioNeg")]
    experiment = dataclasses.replace(experiment, methods=tuple(methods))
    out = tmp_path_factory.mktemp("streams")
    chosen = options(seeds=(0,), limit=40)
    run = Reproduction(chosen, Store(world / "store"), out, lambda line: None)
    return experiment, run, out, run.run(experiment)


@pytest.mark.slow
def test_a_method_without_memory_keeps_one_threshold(few):
    _, _, _, result = few
    for cell in result["cells"]:
        for name, figures in cell["sets"].items():
            if cell["method"] == "MCM":
                assert figures["False alarms"] == figures["False alarms, fixed"]
            assert ("False alarms, p" in figures) == (cell["method"] == "RatioNeg")
            assert 0 <= figures["OOD caught"] <= 100, (cell["point"], name)


@pytest.mark.slow
def test_rates_along_the_stream_make_the_rate_of_the_stream(few):
    for cell in few[3]["cells"]:
        for figures in cell["sets"].values():
            pieces = [v for v in figures["along"]["False alarms"] if v is not None]
            assert min(pieces) - 1e-3 <= figures["False alarms"] <= max(pieces) + 1e-3
    first = next(c for c in few[3]["cells"] if c["point"] == "OOD first")
    along = next(iter(first["sets"].values()))["along"]
    assert along["False alarms"][0] is None and along["OOD caught"][-1] is None


@pytest.mark.slow
def test_the_report_has_the_means_over_the_streams_and_a_figure_of_each(few):
    experiment, _, out, result = few
    table = build_table(experiment, result)
    for label in ("MCM", "InterNeg", "RatioNeg"):
        for row, shifted in ((EVERY, False), (SHIFTED, True)):
            own = [
                table.at((point.label, label), "Near-OOD", "OOD caught").mean
                for point in experiment.points
                if bool(point.shift) == shifted
            ]
            value = table.at((row, label), "Near-OOD", "OOD caught")
            assert len(own) == (3 if shifted else 9) and value.mean == pytest.approx(np.mean(own))
    text = (load_experiment("streams")).text
    write_result(out, dataclasses.replace(experiment, text=text), result)
    write_report(out)
    drawn = sorted(path.stem for path in (out / "figures").glob("*.png"))
    assert len(drawn) == 1 + len(experiment.points)


@pytest.mark.slow
def test_finished_streams_are_found_again(few):
    experiment, run, _, result = few
    again = run.run(experiment)
    assert again["computed"] == 0 and again["cells"] == result["cells"]
