"""Prompt templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openood_interneg.vlm.prompts import KNOWN_PROMPT_SETS, PromptError, fill, prompt_set


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("nice", "The nice cat."),
        ("neglabel_nice", "the nice cat"),
        ("simple", "a photo of a cat."),
        ("photo", "a photo of cat"),
        ("mcm", "a photo of a cat"),
        ("vanilla", "cat"),
        ("adjective", "This is a cat photo."),
        ("neglabel_adjective", "This is a cat photo"),
    ],
)
def test_single_prompts(name, prompt):
    assert [fill(template, "cat") for template in prompt_set(name)] == [prompt]


def test_csps_prompts():
    assert len(set(prompt_set("csp"))) == 8 and len(set(prompt_set("csp_adjective"))) == 4
    assert fill(prompt_set("csp")[0], "cat") == "a close-up photo of the nice cat."
    assert fill(prompt_set("csp_adjective")[1], "red area") == "a nice photo of red area"


def test_imagenet80_is_open_clips_list_as_strings():
    open_clip = pytest.importorskip("open_clip")
    templates = prompt_set("imagenet80")
    assert len(set(templates)) == 80 and "itap of the {}." in templates
    prompts = [fill(template, "cat") for template in templates]
    assert prompts == [template("cat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


def test_every_known_prompt_set_has_one_slot_a_template():
    pytest.importorskip("open_clip")
    for name in KNOWN_PROMPT_SETS:
        assert all(template.count("{}") == 1 for template in prompt_set(name))


def test_literal_templates_lists_and_files(write):
    assert prompt_set("my {} {here}") == ("my {} {here}",)
    assert prompt_set(["a {}", "b {}"]) == ("a {}", "b {}")
    path = write("templates.txt", "# mine\n\na drawing of a {}\r\n  {} in café light\n")
    expected = ("a drawing of a {}", "{} in café light")
    assert prompt_set(path) == prompt_set(str(path)) == expected


@given(name=st.text())
def test_fill_never_interprets_the_name(name):
    assert fill("100% {0} {x} '{}'", name) == f"100% {{0}} {{x}} '{name}'"


@pytest.mark.parametrize("name", ["{}", "{0}", "%s", '"quoted"', "piñata 🪅", "\\1", "{{}}"])
def test_fill_keeps_awkward_names(name):
    assert fill("The nice {}.", name) == "The nice " + name + "."


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("nise", "no known prompt set .*nice, .*imagenet80"),
        ("", "no known prompt set"),
        ("x" * 5000, "no known prompt set"),
        ("{} and {}", "has 2 {}; write exactly one"),
        (["fine {}", "nothing"], "'nothing' has no {}"),
        (["fine {}", 3], "a template is a string"),
        ([], "list of prompt templates is empty"),
    ],
)
def test_bad_templates_are_refused(templates, message):
    with pytest.raises(PromptError, match=message):
        prompt_set(templates)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a {}\n\na photo\n", "line 3: template 'a photo' has no {}"),
        ("{} {}\n", "line 1: template '{} {}' has 2 {}"),
        ("# nothing\n", "no templates in it"),
        (b"a {}\n\xff{}\n", "line 2: not UTF-8"),
    ],
)
def test_bad_template_files_are_refused(write, content, message):
    path = write("templates.txt", content)
    with pytest.raises(PromptError, match=message) as refusal:
        prompt_set(path)
    assert str(path) in str(refusal.value)


def test_missing_template_file_and_folder_are_refused(tmp_path):
    with pytest.raises(PromptError, match="no such file"):
        prompt_set(tmp_path / "absent.txt")
    with pytest.raises(PromptError, match="is a folder"):
        prompt_set(str(tmp_path))


@pytest.mark.parametrize("template", ["no slot", "{} twice {}", "{0}"])
def test_fill_refuses_a_template_without_exactly_one_slot(template):
    with pytest.raises(PromptError, match="write exactly one"):
        fill(template, "cat")
