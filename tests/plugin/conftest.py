"""What the tests of the plugin share with the real OpenOOD: little data, a network, class names."""

import os

import pytest
from openood_standin import CLASSES, WORDS, write_cifar10  # puts OpenOOD on the path
from real_openood import QUICK


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A data root on which OpenOOD's benchmark `cifar10` runs, with names.txt and words.txt."""
    folder = write_cifar10(tmp_path_factory.mktemp("data"))
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.fixture(scope="module")
def net():
    from openood_interneg.plugin.network import ClipZeroShot

    return ClipZeroShot.load("miniature", CLASSES)


@pytest.fixture(scope="module")
def settings(root):
    """Settings that are quick."""
    return QUICK | {"corpus": str(root / "words.txt")}


@pytest.fixture(scope="module")
def cifar10_names(tmp_path_factory):
    """Drawn objects stand where CIFAR-10's classes do, and the cache is empty."""
    from openood_interneg.plugin import network
    from openood_interneg.plugin.register import register

    saved = os.environ.get("INTERNEG_CACHE")
    os.environ["INTERNEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    register()
    network.name_class_names("cifar10", CLASSES)
    yield
    network._named.pop("cifar10")
    os.environ.pop("INTERNEG_CACHE")
    if saved is not None:
        os.environ["INTERNEG_CACHE"] = saved


@pytest.fixture(scope="module")
def far_only(root):
    lists = "benchmark_imglist/cifar10"
    path = root / "far_only.yml"
    path.write_text(f"""
dataset:
  name: far_only
  class_names: names.txt
  train: {{data_dir: images_classic, imglist_pth: {lists}/train_cifar10.txt}}
  test: {{data_dir: ./data/images_classic, imglist_pth: ./data/{lists}/test_cifar10.txt}}
ood_dataset:
  farood:
    datasets: [mnist]
    mnist: {{data_dir: images_classic, imglist_pth: {lists}/test_mnist.txt}}
""")
    return path
