"""The files of experiments: what they publish, and which of them are refused."""

import numpy as np
import pytest
import yaml
from published import COUNTS, MEANS, SPOTS

from openood_interneg.reproduce.experiment_files import (
    experiments_root,
    load_experiment,
)
from openood_interneg.settings import SettingsError


def published(name):
    return {row.row: row for row in load_experiment(name).published}


@pytest.mark.parametrize("name, row, column, figures", SPOTS)
def test_spot_rows_of_the_paper(name, row, column, figures):
    assert dict(published(name)[row].values[column]) == figures


@pytest.mark.parametrize("name", list(COUNTS))
def test_every_number_of_a_table_is_there(name):
    numbers = [
        number
        for row in load_experiment(name).published
        for figures in row.values.values()
        for number in figures.values()
    ]
    assert sum(number is not None for number in numbers) == COUNTS[name]


@pytest.mark.parametrize("name", list(MEANS))
def test_published_means_are_the_means_of_their_columns(name):
    mean, parts = MEANS[name]
    for row in load_experiment(name).published:
        for metric, figure in row.values[mean].items():
            own = np.mean([row.values[part][metric] for part in parts])
            # The paper rounds, and three of its means are off by up to 0.06.
            assert abs(own - figure) < 0.07, (row.row, metric, own)


def test_the_tables_agree_with_each_other():
    one, ten = published("table1"), published("table10")
    assert one["InterNeg",].values == ten["ViT-B/16", "InterNeg"].values
    assert one["NegLabel",].values == ten["ViT-B/16", "NegLabel"].values
    two, four = published("table2")["InterNeg",], published("table4")["InterNeg",]
    assert two.values["Near-OOD"] == four.values["Near mean"]
    assert two.values["Far-OOD"] == four.values["Far mean"]
    newer = published("newer_imagenet")["InterNeg",].values
    assert newer["Average"] == one["InterNeg",].values["Average"]
    assert newer["Near-OOD"] == two.values["Near-OOD"]
    seven = published("table7")["InterNeg",].values
    assert published("newer_cifar10")["InterNeg",].values == seven


def test_the_rate_of_tins_is_of_the_other_convention():
    """6.72 and InterNeg's 14.04 are two different quantities."""
    rows = published("newer_imagenet")
    assert (rows["TINS",].fpr, rows["InterNeg",].fpr) == ("id", "ood")


def test_refusals_name_the_place(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'table3'"):
        load_experiment("tabel3")
    block = yaml.safe_load((experiments_root() / "table3.yml").read_text())
    for change, message in (
        ({"kind": "tabel"}, "kind is 'tabel'"),
        ({"colour": "red"}, "colour"),
        ({"rows": ["methods"]}, "rows is 'methods'"),
        ({"methods": [{"label": "X", "method": "internge"}]}, "did you mean 'interneg'"),
    ):
        path = tmp_path / "mine.yml"
        path.write_text(yaml.safe_dump(block | change))
        with pytest.raises(SettingsError, match=message):
            load_experiment(path)


@pytest.mark.parametrize("fpr", [None, "openood"])
def test_a_published_rate_without_its_positive_class_is_refused(tmp_path, fpr, block):
    own = block("table3")
    for row in own["published"]:
        row.pop("fpr")
        row |= {"fpr": fpr} if fpr else {}
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    with pytest.raises(SettingsError, match="fpr: ood or fpr: id"):
        load_experiment(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("title: a\ntitle: b\n", "'title' stands twice"),
        ("- 1\n", "must map names to values"),
        ("title: [", "not valid YAML"),
        ("title: x\nmethods: 3\nparts: 4\n", "not an experiment"),
        ("", "no key 'parts'"),
    ],
)
def test_a_faulty_experiment_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.yml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        load_experiment(path)
    assert "mine.yml" in str(caught.value)


def test_an_experiment_with_an_alias_bomb_is_refused(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    path = tmp_path / "mine.yml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SettingsError, match="expands to more"):
        load_experiment(path)


def test_an_experiment_saved_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"\xef\xbb\xbf" + (experiments_root() / "table3.yml").read_bytes())
    assert load_experiment(path).title == load_experiment("table3").title
