"""docs/openood.md: its snippets run as they are printed, and its table is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from openood_standin import REAL_MISSING, needs_openood

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def section():
    return (ROOT / "docs" / "openood.md").read_text(encoding="utf-8")


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


@pytest.mark.slow
@needs_openood
def test_snippets(section, tmp_path):
    import openood

    where = Path(openood.__file__).parent.parent
    paths = [str(ROOT), str(where), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "INTERNEG_CACHE": str(tmp_path / "cache"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }

    def run(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
        return done.stdout

    register, api, compare = blocks(section, "python")
    (main,) = blocks(section, "bash")
    out = run(sys.executable, "-c", register + api)
    assert "nearood" in out and "farood" in out and "AUROC" in out
    run("bash", "-c", main)
    (table,) = tmp_path.glob("results/miniature_*/s0/ood.csv")
    assert table.read_text().startswith("dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC\nothershapes,")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("### OpenOOD", 1)[1]
    out = run(sys.executable, "-c", blocks(readme, "python")[0])
    assert "nearood" in out and "AUROC" in out
    out = run(sys.executable, "-c", compare)
    assert out.count("farood") == 4 and "'dropout' is refused" in out


@pytest.mark.skipif(REAL_MISSING is not None, reason=REAL_MISSING or "")
def test_table_names_every_method_with_its_verdict(section):
    from openood_interneg.plugin.baseline_table import BASELINES

    rows = dict(
        re.findall(r"^\| ([a-z_0-9, ]+) \| ((?:runs|refused|the same).*) \|$", section, re.M)
    )
    said = {name: verdict for names, verdict in rows.items() for name in names.split(", ")}
    assert set(said) == set(BASELINES)
    for name, row in BASELINES.items():
        refused = said[name].startswith("refused")
        assert refused == (row.verdict == "refused"), name
        plain = re.fullmatch(r"runs(; needs `pip install [a-z-]+`)?", said[name]) is not None
        assert plain == (row.verdict == "runs"), name
