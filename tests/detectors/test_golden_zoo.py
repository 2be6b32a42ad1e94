"""What the relatives' authors' code gives, file by file, and that a wrong setting is noticed.

The vectors are read from the folder named by INTERNEG_GOLDEN_ZOO, else from tests/golden/zoo.
"""

import golden_zoo as zoo
import pytest

from openood_interneg.detectors.base import DetectorError
from openood_interneg.vlm.factory import load_backbone

FILES = {path.stem: zoo.Golden(path) for path in zoo.files()}
SCORES = [name for name, golden in FILES.items() if golden.kind == "scores"]
SELECTIONS = [name for name, golden in FILES.items() if golden.kind in zoo.AGREE]
PROMPTS = [name for name, golden in FILES.items() if golden.kind == "prompts"]


@pytest.fixture(scope="module")
def backbones(shared):
    """Of a file's settings: the model its prompts were encoded with."""
    return lambda golden: load_backbone(shared / golden.settings["model"])


@pytest.mark.parametrize(
    "name, key", [(name, key) for name in SCORES for key in FILES[name].variants]
)
def test_scores_and_classes_are_the_authors(name, key):
    golden = FILES[name]
    pred, ours = zoo.score(golden, zoo.detector(golden, golden.variants[key]))
    off = (ours - golden[key]).abs().max()
    assert zoo.close(ours, golden[key]), f"off by up to {off:.2e}"
    if "expected_pred" in golden and key == "expected_scores":
        assert pred.tolist() == golden["expected_pred"].tolist()


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_and_figures_are_the_authors(name):
    golden = FILES[name]
    assert zoo.AGREE[golden.kind](golden, golden.settings)


@pytest.mark.parametrize("name", PROMPTS)
def test_learned_prompts_are_encoded_as_by_the_authors(name, backbones):
    assert zoo.prompts_agree(FILES[name], {}, backbones(FILES[name]))


# ---- a wrong setting is noticed --------------------------------------------------------------


def noticed(agree, golden, name, value) -> bool:
    """Whether some other value of a setting makes the comparison fail."""
    for other in zoo.other_values(golden, name, value):
        try:
            if not agree(golden.settings | {name: other}):
                return True
        except DetectorError:  # not legal for these inputs, so no evidence
            continue
    return False


@pytest.mark.parametrize(
    "name, setting", [(name, setting) for name in SCORES for setting in FILES[name].settings]
)
def test_a_wrong_setting_of_scores_is_noticed(name, setting):
    golden = FILES[name]
    value = golden.settings[setting]
    assert noticed(lambda s: zoo.scores_agree(golden, "expected_scores", s), golden, setting, value)


@pytest.mark.parametrize("name", [name for name in SCORES if not FILES[name].settings])
def test_scores_of_another_method_are_noticed(name):
    golden = FILES[name]
    other = "mcm" if golden.method != "mcm" else "energy"
    golden.method, own = other, golden.method
    try:
        assert not zoo.scores_agree(golden, "expected_scores", {})
    finally:
        golden.method = own


@pytest.mark.parametrize(
    "name, setting", [(name, setting) for name in SELECTIONS for setting in FILES[name].settings]
)
def test_a_wrong_setting_of_a_selection_is_noticed(name, setting):
    golden = FILES[name]
    agree = zoo.AGREE[golden.kind]
    assert noticed(lambda s: agree(golden, s), golden, setting, golden.settings[setting])


@pytest.mark.parametrize(
    "kind, wrong",
    [
        ("lists", {"drop_shared_tokens": False}),
        ("lists", {"drop_shared_tokens": True}),
        ("metrics", {"FPR@95": "FPR@95(ID+)"}),
        ("metrics", {"FPR@95(ID+)": "FPR@95"}),
        ("metrics", {"AUPR_IN": "AUPR_OUT"}),
    ],
)
def test_a_wrong_rule_or_convention_is_noticed(kind, wrong):
    for golden in (golden for golden in FILES.values() if golden.kind == kind):
        assert not zoo.AGREE[kind](golden, wrong)


@pytest.mark.parametrize("wrong", [{"position": "front"}, {"position": "end"}, {"stop": " ."}])
@pytest.mark.parametrize("name", PROMPTS)
def test_a_wrong_place_of_the_class_name_is_noticed(name, wrong, backbones):
    assert not zoo.prompts_agree(FILES[name], wrong, backbones(FILES[name]))


def test_every_file_of_the_repository_is_of_a_kind_that_is_compared():
    kinds = {"scores", *zoo.AGREE, "prompts"}
    assert {golden.kind for golden in FILES.values()} <= kinds


def test_an_empty_folder_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(AssertionError, match="no golden vectors"):
        zoo.files()
