"""Reports: the same bytes twice, self-contained, readable in a browser; comparing two of them."""

import json
import re
import shutil
import subprocess

import pytest

from openood_interneg.evaluation.compare import differences
from openood_interneg.reproduce.experiment_files import (
    list_experiments,
)
from openood_interneg.reproduce.write import write_report

CHROMIUM = next(
    (p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None
)


@pytest.mark.slow
def test_a_report_is_the_same_bytes_twice(everything, tmp_path):
    out, _, _ = everything
    copies = [tmp_path / name for name in ("one", "two")]
    for copy in copies:
        shutil.copytree(out / "cells", copy / "cells")
        (copy / "experiments").mkdir()
        for path in (out / "experiments").iterdir():
            if path.stem in ("table2", "table3", "figure3"):
                shutil.copy(path, copy / "experiments")
        write_report(copy)
    names = [p.relative_to(copies[0]) for p in sorted(copies[0].rglob("*")) if p.is_file()]
    assert len([name for name in names if name.suffix in (".svg", ".png")]) > 20
    for name in names:
        assert (copies[0] / name).read_bytes() == (copies[1] / name).read_bytes(), name
        if name.parts[0] in ("figures", "tables"):
            assert (copies[0] / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.slow
def test_the_page_is_self_contained_and_its_links_lead_somewhere(everything):
    out, _, _ = everything
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "figures are not comparable with the published column" in page
    assert "found, missed and falsely accused" in page and "nearest to them" in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="([^"]+)"', page):
        if target.startswith("#"):
            assert target[1:] in ids, target
        elif not target.startswith("data:"):
            assert (out / target).is_file(), target
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert page.count("<svg") > 30
    for name in list_experiments():
        text = (out / "tables" / f"{name}.tex").read_text(encoding="utf-8")
        assert r"\toprule" in text and text.count("{") == text.count("}")
        assert (out / "tables" / f"{name}.csv").read_text(encoding="utf-8").startswith("experiment")
    assert "| InterNeg |" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_every_figure(everything, tmp_path, width):
    out, _, _ = everything
    page = (out / "report.html").read_text(encoding="utf-8")
    probe = """<script>addEventListener('load', () => {
      const images = [...document.images], plots = [...document.querySelectorAll('.plots svg')];
      const links = [...document.querySelectorAll('a[href^="#"]')];
      document.querySelectorAll('details').forEach(d => d.open = true);
      document.title = JSON.stringify({
        images: images.length, broken: images.filter(i => !i.complete || !i.naturalWidth).length,
        plots: plots.length, flat: plots.filter(p => p.getBoundingClientRect().height < 50).length,
        dead: links.filter(a => !document.querySelector(a.getAttribute('href'))).length,
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth})
    })</script></body>"""
    probed = tmp_path / "page.html"
    probed.write_text(page.replace("</body>", probe), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --virtual-time-budget=9000"
    )
    done = subprocess.run(
        [
            *(CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--window-size={width},900", "--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1])
    assert found["images"] > 20 and found["plots"] > 30
    assert not any(found[k] for k in ("broken", "flat", "dead")) and found["wide"] <= 0, found


@pytest.mark.slow
def test_compare_says_what_differs(everything, tmp_path):
    out, _, _ = everything
    a = json.loads((out / "experiments" / "table3.json").read_text())
    assert not list(differences(a, a))
    b = json.loads(json.dumps(a))
    b["provenance"]["settings"]["Average · Intra SNT"]["beta"] = 0.5
    b["figures"][0]["ours"] += 1
    found = dict((where, (x, y)) for where, x, y in differences(a, b))
    assert found["provenance.settings.Average · Intra SNT.beta"] == (0.35, 0.5)
    assert len(found) == 2
