"""The example of docs/pytorch_ood.md runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pytorch_ood.md"


@pytest.mark.slow
def test_the_example_runs(capsys):
    pytest.importorskip("pytorch_ood")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), {})
    lines = capsys.readouterr().out.splitlines()
    rates = dict(re.findall(r"^(\w+) \{'AUROC': ([\d.]+)", "\n".join(lines), re.M))
    # higher for OOD, in both: the sign is right
    assert set(rates) == {"MCM", "KNN"} and all(float(rate) > 0.6 for rate in rates.values())
