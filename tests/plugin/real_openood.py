"""Helpers of the tests that need the real OpenOOD; their fixtures are in conftest."""

import yaml
from openood_standin import CLASSES
from torch.utils.data import DataLoader

QUICK = {"templates": "photo", "steps": 2, "num_negatives": 12, "images_per_class": 2, "beta": 1.0}
COLUMNS = ["FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC"]
INDEX = ["cifar100", "tin", "nearood", "mnist", "svhn", "texture", "places365", "farood"]


def evaluator_of(net, root, **options):
    """Our Evaluator over small batches; `id_name` is cifar10."""
    from openood_interneg.plugin.evaluator import Evaluator

    options = {"batch_size": 8, "num_workers": 0, "data_root": root and str(root)} | options
    return Evaluator(net, options.pop("id_name", "cifar10"), **options)


def image_loader(root, net, name="test_cifar10"):
    from openood.datasets.imglist_dataset import ImglistDataset

    transform = net.clip.preprocess.transform()
    dataset = ImglistDataset(
        name, str(root / f"benchmark_imglist/cifar10/{name}.txt"), str(root / "images_classic"),
        10, transform, transform,
    )  # fmt: skip
    return DataLoader(dataset, batch_size=8)


def own_yaml(root, name, **changed):
    """A YAML of one's own in the data root."""
    lists = "benchmark_imglist/cifar10"
    block = {"data_dir": "images_classic", "imglist_pth": f"{lists}/test_cifar10.txt"}
    ood = {"data_dir": "images_classic", "imglist_pth": f"{lists}/test_mnist.txt"}
    config = {
        "dataset": {"name": name, "class_names": list(CLASSES), "test": block},
        "ood_dataset": {"farood": {"datasets": ["weeds"], "weeds": ood}},
    }
    config["dataset"] |= changed
    path = root / f"{name}.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
