"""The worked example of docs/adding_a_method.md runs as it stands."""

import re
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import yaml

from openood_interneg.detectors import registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_method.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def example():
    names = {"__name__": "margin"}
    code = "\n".join(blocks("python"))
    with mock.patch.dict(registry.TABLE):  # the row goes again
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
        yield names


def test_the_example_is_selectable_and_scores(example):
    method = registry.get_method("margin")
    assert method is example["METHOD"]
    assert example["score"].shape == (2,)


def test_the_examples_yaml_fits_its_settings(example):
    (page,) = blocks("yaml")
    block = yaml.safe_load(page)["postprocessor"]
    assert block["name"] == example["METHOD"].name
    settings = example["METHOD"].make_settings(block["postprocessor_args"])
    assert settings == example["MarginSettings"]()
    assert {name.removesuffix("_list") for name in block["postprocessor_sweep"]} == {"center"}


def test_the_examples_stream_does_not_depend_on_its_cut_and_can_be_continued(example):
    features = F.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    detector = example["Margin"]().fit(example["space"])
    whole = detector.step(features).score
    detector.reset()
    parts = [detector.step(features[:7]).score]
    other = example["Margin"]().fit(example["space"])
    other.load_state_dict(detector.state_dict())
    parts.append(other.step(features[7:]).score)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_page_names_what_exists():
    text = PAGE.read_text(encoding="utf-8")
    root = PAGE.parent.parent
    for file in re.findall(r"`(detectors/\w+\.py|openood_interneg/detectors/\w+\.py)`", text):
        path = file if file.startswith("openood") else f"openood_interneg/{file}"
        assert (root / path).is_file(), file
