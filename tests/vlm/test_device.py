"""Which device is taken, and what is said where one lacks something."""

from types import SimpleNamespace

import pytest
import torch

from openood_interneg.detectors.scoring import exact
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.device import device_name, operators_of, pick_device


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_that_is_there(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(expected)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match="use the device 'cpu'"):
        pick_device("mps:7" if not torch.backends.mps.is_available() else "xpu")
    assert device_name("cpu") == "CPU" and device_name("mps") == "Apple GPU"


def test_an_operator_that_apples_gpu_lacks_is_an_error_for_people():
    with (
        pytest.raises(SettingsError, match=r"aten::x.*PYTORCH_ENABLE_MPS_FALLBACK=1"),
        operators_of(torch.device("mps")),
    ):
        raise NotImplementedError("The operator 'aten::x' is not implemented for the MPS device")
    with pytest.raises(NotImplementedError), operators_of(torch.device("cpu")):
        raise NotImplementedError("a bug")


def test_exact_values_of_a_device_without_float64_are_made_on_the_cpu():
    class OnApple:
        device = SimpleNamespace(type="mps")

        def double(self):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

        def cpu(self):
            return torch.ones(3)

    assert exact(OnApple()).dtype == exact(torch.ones(2)).dtype == torch.float64
