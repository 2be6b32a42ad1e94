"""`interneg demo --open`: one page with the table and with images, opened in the browser."""

import sys

import pytest

from openood_interneg.cli import main
from openood_interneg.demo import ID_KINDS
from openood_interneg.demo.benchmark import write_benchmark


@pytest.mark.parametrize("browser", [True, False])
def test_the_page_is_written_and_opened(tmp_path, monkeypatch, capsys, browser):
    import openood_interneg.cli.workspace as module

    small = {"train_per_class": 2, "test_per_class": 1, "near": 4, "far": 3}
    monkeypatch.setattr(
        module, "write_benchmark", lambda root, progress: write_benchmark(root, **small)
    )
    seen = []
    monkeypatch.setattr("webbrowser.open", lambda uri: seen.append(uri) or browser)
    args = ["interneg", "demo", "--methods", "energy,mcm", "--seeds", "0,1", "--open"]
    args += ["--cache-dir", str(tmp_path)] + (["--out", str(tmp_path / "out")] if browser else [])
    monkeypatch.setattr(sys, "argv", args)
    with pytest.raises(SystemExit) as end:
        main()
    err = " ".join(capsys.readouterr().err.split())
    path = tmp_path / "out" / "demo.html" if browser else tmp_path / "demo.html"
    assert end.value.code in (0, None) and seen == [path.as_uri()]
    told = f"page at {path}" if browser else f"no browser could be opened; the page is {path}"
    assert told.replace(" ", "") in err.replace(" ", "")
    page = path.read_text("utf-8")
    assert "What MCM says" in page and "means over the seeds" in page and "far mean" in page
    # 10 ID images, 4 near and three sets of 3, each at both ends of its set where all fit
    assert page.count("data:image/png;base64,") == 2 * (8 + 4 + 3 * 3)
    assert page.count(f"{ID_KINDS[0]} → ") >= 1 and page.count(" → ") == 16
    assert "http" not in page
