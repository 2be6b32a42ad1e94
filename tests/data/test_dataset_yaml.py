"""Dataset YAMLs: one reader, one rule on paths."""

from pathlib import Path

import pytest

from openood_interneg.data.benchmark_files import data_folder, resolve_path
from openood_interneg.data.benchmark_yaml import load_benchmark
from openood_interneg.data.image_lists import BenchmarkError


def test_a_yaml_with_aliases_beyond_need_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "bomb.yml").write_text("\n".join(lines))
    with pytest.raises(BenchmarkError, match=r"bomb\.yml"):
        load_benchmark(tmp_path / "bomb.yml")


def test_the_rule_on_relative_paths(tmp_path):
    own = tmp_path / "fruits.yml"
    assert data_folder(own) == tmp_path and data_folder(own, "x") == Path("x")
    assert data_folder(tmp_path / "configs" / "datasets" / "cifar10" / "c.yml") == Path("data")
    assert resolve_path("./data/lists/a.txt", tmp_path) == resolve_path("lists/a.txt", tmp_path)
    assert resolve_path("/abs/a.txt", tmp_path) == Path("/abs/a.txt")
