"""Settings: defaults, and what is refused with which words."""

import dataclasses
import typing

import pytest

from openood_interneg.detectors.registry import list_methods
from openood_interneg.settings import InterNegSettings, SettingsError, as_mapping, from_mapping


def test_defaults_are_the_papers():
    s = InterNegSettings()
    assert (s.images_per_class, s.num_negatives, s.bank_capacity) == (16, 2000, 2000)
    assert (s.tau, s.beta, s.groups, s.num_tokens, s.steps) == (1.0, 0.35, 1, 1, 10)
    assert (s.lr, s.weight_decay) == (2e-2, 0.01)


def test_round_trip():
    s = InterNegSettings(beta=0.2, templates="photo")
    assert from_mapping(InterNegSettings, as_mapping(s)) == s


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bta": 0.3}, "unknown setting 'bta'.*did you mean 'beta'"),
        ({"beta": "1e-4"}, "write 1.0e-4"),
        ({"beta": float("nan")}, "finite"),
        ({"beta": -0.1}, "at least 0"),
        ({"groups": 0}, "at least 1"),
        ({"num_negatives": 10.5}, "whole number"),
        ({"num_negatives": True}, "takes a number"),
        ({"ignore_case": "yes"}, "true or false"),
        ({"update": "never"}, "choose one of batch, sample"),
        ({"steps": 18_135_757_781}, "at most 1000"),
        ({"corpus": ""}, "non-empty"),
        ({"templates": None}, "non-empty"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(SettingsError, match=message):
        from_mapping(InterNegSettings, values)


def test_errors_name_their_source():
    with pytest.raises(SettingsError, match="in my.yml"):
        from_mapping(InterNegSettings, {"beta": 7}, "my.yml")


def test_every_setting_is_documented():
    assert all(f.metadata["help"] for f in dataclasses.fields(InterNegSettings))


@pytest.mark.parametrize("method", list_methods(), ids=lambda m: m.name)
def test_every_whole_number_has_a_largest_value(method):
    """A size without one, in a file that somebody made, takes all of the machine's memory."""
    cls = method.detector.Settings
    kinds = typing.get_type_hints(cls)
    whole = [f.name for f in dataclasses.fields(cls) if kinds[f.name] is int]
    for name in whole:
        if name.endswith("seed"):
            assert getattr(from_mapping(cls, {name: 2**63 - 1}), name) == 2**63 - 1
        else:
            with pytest.raises(SettingsError, match=f"{name} is 10000001; it must be at most"):
                from_mapping(cls, {name: 10_000_001})
