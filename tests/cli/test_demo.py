"""`interneg demo`: its page has the table, histograms, false alarms and images."""

import base64
import io
import re
import sys
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openood_interneg.cli import main
from openood_interneg.cli.demo_images import SHOWN, Shown, Streams, chosen
from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.evaluation.protocols import Run

SMALL = {"train_per_class": 2, "test_per_class": 2, "near": 6, "far": 4}


def run_demo(tmp_path, monkeypatch, *more, methods="energy,mcm"):
    """Exit code of the command, on a benchmark of a few images."""
    import openood_interneg.cli.workspace as module

    monkeypatch.setattr(
        module, "write_benchmark", lambda root, progress: write_benchmark(root, **SMALL)
    )
    args = ["interneg", "demo", "--methods", methods, "--seeds", "0,1"]
    monkeypatch.setattr(sys, "argv", [*args, "--cache-dir", str(tmp_path), *more])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """(page, scores by image, summary), as `--out` gives them."""
    out = tmp_path / "out"
    assert run_demo(tmp_path, monkeypatch, "--out", str(out)) == 0
    page = (out / "index.html").read_text("utf-8")
    return page, pd.read_csv(out / "scores.csv"), pd.read_csv(out / "summary.csv")


class Seen(HTMLParser):
    """Tags that are open, ids, addresses, and elements that a reader of text needs words for."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.addresses, self.words, self.tags = Counter(), [], [], Counter()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags[tag] += 1
        self.ids.update([values["id"]] if "id" in values else [])
        self.addresses += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag == "img" or values.get("role") == "img":
            self.words.append(values.get("alt") or values.get("aria-label"))


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(made):
    page = made[0]
    seen = Seen(page)
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert {"table", "scores", "along", "images", "next"} <= set(seen.ids)
    assert max(seen.ids.values()) == 1, seen.ids.most_common(3)
    assert all(a.startswith(("#", "data:")) for a in seen.addresses)
    assert {a[1:] for a in seen.addresses if a.startswith("#")} <= set(seen.ids)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page) and "@import" not in page
    assert seen.tags["script"] == seen.tags["link"] - 1 == 0  # the link is an empty icon
    assert seen.tags["svg"] == 2 * 2 + 2 and all(seen.words)  # two methods, near and far
    assert "interneg score PHOTOS --id-images CLASSES" in page


@pytest.mark.slow
def test_figures_are_those_of_the_results(made):
    page, scores, summary = made
    for row in summary.to_dict("records"):
        for metric in ("FPR@95", "AUROC"):
            assert f">{row[metric]:.2f}</span>" in page, (row["method"], row["dataset"], metric)
    first = scores[scores["seed"] == 0]
    for method in ("energy", "mcm"):
        near = first[(first["method"] == method) & (first["stream"] == "othershapes")]
        own = near[near["set"] == "id"]["score"]
        threshold = own.sort_values().iloc[len(own) // 20]
        caught = 100 * (near[near["set"] != "id"]["score"] < threshold).mean()
        said = f"{caught:.1f} % of the near OOD images are below the threshold, {threshold:.3g}"
        assert said in page, said


@pytest.mark.slow
def test_images_are_those_with_extreme_scores(made):
    page, scores, _ = made
    mcm = page[page.index("<summary>MCM</summary>") :]
    missed = mcm[mcm.index("<h4>Missed") : mcm.index("<h4>Falsely")]
    near = scores[(scores["method"] == "mcm") & (scores["seed"] == 0)]
    low = near[near["set"] == "id"]["score"].iloc[: 10 * SMALL["test_per_class"]].sort_values()
    near = near[(near["set"] == "othershapes") & (near["score"] >= low.iloc[len(low) // 20])]
    near = near.sort_values("score", ascending=False)
    names = [f"{f.split('/')[-2]} {f[-8:-4]} (othershapes)" for f in near["file"].head(SHOWN)]
    assert re.findall(r'alt="([^"]+)"', missed) == names
    assert missed.count('<tr class="labels">') == 5 * len(names) > 0 and "negatives" not in missed
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", missed).group(1)
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 72


def test_kinds_of_images_part_at_the_threshold():
    own = np.arange(1, 101, dtype=np.float32)
    once = Run(np.zeros(100), own, np.float32([200, 3, 6, 150, 2]), np.zeros(5))
    again = Run(np.zeros(100), own + 0.5, np.float32([1]), np.zeros(1))
    streams = Streams({"a": once, "b": again})
    low = streams.threshold
    assert (streams.id_score >= low).sum() == 190 > (streams.id_score > low).sum()
    kinds = chosen(streams)
    assert [(i.stream, i.place) for i in kinds["found"]] == [("b", 0), ("a", 4), ("a", 1)]
    assert [i.place for i in kinds["missed"]] == [0, 3, 2]
    assert kinds["accused"] == [Shown(float(1 + i), False, "a", i) for i in range(SHOWN)]
    assert streams.caught == pytest.approx(100 * 3 / 6)
    apart = chosen(Streams({"a": Run(np.zeros(9), own[:9] * 0 + 5, own[:2], np.zeros(2))}))
    assert [len(images) for images in apart.values()] == [2, 0, 0]


@pytest.mark.slow
def test_texts_are_shown_beside_remembered_images(tmp_path, monkeypatch):
    assert run_demo(tmp_path, monkeypatch, "--quiet", methods="interneg") == 0
    page = (tmp_path / "demo" / "index.html").read_text("utf-8")
    images = page.split('<figure class="example">')[1:]
    negatives = [re.findall(r'<tr class="negatives"><td title="([^"]+)"', i) for i in images]
    assert images and all(len(names) == 5 for names in negatives)
    remembered = [sum(n.startswith("inverted ") for n in names) for names in negatives]
    assert max(remembered) == 2
    assert "PHOTOS is a folder" in page


@pytest.mark.slow
@pytest.mark.parametrize("browser", [True, False])
def test_the_page_is_opened_and_its_path_is_told(tmp_path, monkeypatch, capsys, browser):
    seen = []
    monkeypatch.setattr("webbrowser.open", lambda uri: seen.append(uri) or browser)
    assert run_demo(tmp_path, monkeypatch, "--open") == 0
    err = capsys.readouterr().err
    path = tmp_path / "demo" / "index.html"
    assert path.is_file() and seen == [path.as_uri()] and f"page: {path}" in err
    assert ("open the page by hand" in err) is not browser
    assert [line.split(",")[0] for line in err.splitlines()[-2:]] == ["next", "next"]


@pytest.mark.slow
def test_quiet_writes_the_page_and_opens_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.open", lambda uri: pytest.fail("opened"))
    assert run_demo(tmp_path, monkeypatch, "--quiet") == 0
    assert (tmp_path / "demo" / "index.html").is_file() and not capsys.readouterr().err
