"""Names in tables and files: no markup, no escape sequence, no formula, no LaTeX, no HTML."""

import csv
import io
import sys

import numpy as np
import pytest

from openood_interneg.cli.console import console, progress_bars, say
from openood_interneg.evaluation.metrics import METRICS
from openood_interneg.evaluation.results import (
    csv_cell,
    narrow_table,
    results_table,
    write_results,
)
from openood_interneg.evaluation.rows import Results

EVIL = "[/red]\x1b[2J\x9b31m"


def rows(dataset):
    common = {"benchmark": EVIL, "backbone": "[bold]b", "method": "=1+1", "protocol": "mixed"}
    return [common | {"seed": 0, "dataset": dataset} | dict.fromkeys(METRICS, -1.5)]


@pytest.mark.parametrize("table", [results_table, narrow_table])
def test_markup_and_escape_sequences_in_names_are_printed_as_they_are(table, capsys):
    console().print(table(rows(EVIL)))
    out = capsys.readouterr().out
    assert "[/red]" in out and "[bold]b" in out and r"\x1b[2J" in out
    assert "\x1b" not in out and "\x9b" not in out


def test_messages_and_progress_take_no_markup(capsys):
    say(f"results in {EVIL}")
    with progress_bars(False) as progress:
        progress(EVIL, 1, 2)
    err = capsys.readouterr().err
    assert "[/red]" in err and "\x9b" not in err and "\x1b[2J" not in err


def test_formulas_in_csv_are_text_and_numbers_stay_numbers(tmp_path):
    results = Results()
    results.rows = rows("@SUM(A1)")
    write_results(tmp_path, results, {})
    for name in ("results.csv", "summary.csv"):
        (row,) = csv.DictReader(io.StringIO((tmp_path / name).read_text()))
        assert row["dataset"] == "'@SUM(A1)" and row["method"] == "'=1+1"
        assert float(row["AUROC"]) == -1.5
    assert csv_cell("-0.5") == "-0.5" and csv_cell(-2) == -2 and csv_cell("a-b") == "a-b"
    assert np.isnan(csv_cell(float("nan")))


def test_texts_of_an_experiment_are_no_latex_and_no_html():
    from openood_interneg.reproduce.latex import latex_text
    from openood_interneg.reproduce.markdown import markdown_text

    evil = "a\n\\input{/etc/passwd} <script>x</script> | b"
    assert "\n" not in latex_text(evil) and r"\input" not in latex_text(evil)
    assert (
        "<" not in markdown_text(evil)
        and "\n" not in markdown_text(evil)
        and r"\|" in markdown_text(evil)
    )


def test_every_command_prints_through_the_plain_console():
    from pathlib import Path

    import openood_interneg.cli as cli

    sources = [p.read_text() for p in Path(sys.modules[cli.__name__].__file__).parent.glob("*.py")]
    assert not any("rich.markup" in text or "[/]" in text for text in sources)
