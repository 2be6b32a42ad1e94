"""Packages whose init waits: a part asked for comes alone, the whole as it always came."""

import subprocess
import sys
import textwrap

import pytest

BEFORE = """
import sys
from openood_interneg.cli.bare_packages import defer_inits
defer_inits()
"""


def ran(code, before=BEFORE):
    code = before + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_clip_is_made_without_other_models():
    out = ran(
        """
        sys.modules["transformers"] = None  # as where it is not installed
        from open_clip.model import CLIP
        from open_clip.tokenizer import SimpleTokenizer
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode
        heavy = {"torch._dynamo.config", "timm.models", "torchvision.models.resnet", "sympy"}
        print(CLIP.__module__, *(heavy & set(sys.modules)))
        """
    )
    assert out == ["open_clip.model"]


@pytest.mark.parametrize(
    "use",
    [
        "import open_clip; print(len(open_clip.list_models()) > 50)",
        "from open_clip import create_model; print(callable(create_model))",
        "import open_clip; from open_clip.model import CLIP; print(open_clip.CLIP is CLIP)",
        "import torchvision; print(torchvision.__version__[0].isdigit())",
        "from torchvision.models import resnet18; print(callable(resnet18))",
        "import torchvision.ops as o; print(callable(o.nms))",
        "from torchvision.ops import misc, nms; print(callable(nms))",
        "import timm; print(len(timm.list_models()) > 50)",
        "import timm; print(not hasattr(timm, 'nonsense'))",
        "import timm; print(not hasattr(timm, '__warningregistry__'))",
    ],
)
@pytest.mark.slow
def test_the_whole_package_is_there_when_it_is_asked_for(use):
    assert ran(use) == ["True"]


@pytest.mark.slow
def test_the_operators_of_torchvision_work():
    out = ran(
        """
        import torch
        import torchvision.ops as ops
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
        print(*ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist())
        """
    )
    assert out == ["0", "2"]


def test_what_is_imported_already_stays():
    out = ran(
        """
        import json
        kept = json
        defer_inits(("json", "json.decoder", "no_such_package", "no_such_package.part", "ast"))
        print(sys.modules["json"] is kept, type(sys.modules["ast"]).__name__)
        """
    )
    assert out == ["True", "module"]  # ast is one file: nothing waits


def test_a_name_that_is_nowhere_is_an_attribute_error(tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "__init__.py").write_text("from late.part import X\nY = X + 1\n")
    (tmp_path / "late" / "part.py").write_text("import late\nX = 1 if hasattr(late, 'Y') else 2\n")
    out = ran(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        defer_inits(("late",))
        import late
        print("Y" in vars(late), late.Y, type(late).__name__, hasattr(late, "Z"))
        """
    )
    assert out == ["False", "3", "module", "False"]
