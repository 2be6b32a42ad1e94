"""A network whose classes are not those of the images, and what a method asks for before work."""

import copy
import warnings

import pytest
import torch
from openood_standin import CLASSES as ID_KINDS  # puts OpenOOD on the path before the plugin loads
from torch import nn
from torch.utils.data import DataLoader, Dataset

from openood_interneg.data.image_lists import BenchmarkError
from openood_interneg.plugin import network
from openood_interneg.plugin.classes import ClassesError
from openood_interneg.plugin.loaders import LoaderError
from openood_interneg.plugin.network import ClipZeroShot, as_clip, name_class_names
from openood_interneg.plugin.postprocessors import InterNegPostprocessor, MCMPostprocessor
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.preprocess import Preprocess


class Listed(Dataset):
    """OpenOOD's data set of an image list, whose images nobody may read."""

    def __init__(self, name, labels, folder="/nowhere", transform=None):
        self.name, self.num_classes, self.data_dir = name, 10, str(folder)
        self.imglist = [f"{i}.png {label}\n" for i, label in enumerate(labels)]
        self.preprocessor = transform

    def __len__(self):
        return len(self.imglist)

    def __getitem__(self, index):
        raise AssertionError("an image was read")


def loaders(**datasets):
    return {split: DataLoader(dataset) for split, dataset in datasets.items()}


def test_a_network_with_the_names_of_another_benchmark_is_refused(net):
    made = MCMPostprocessor()
    with pytest.raises(ClassesError, match="'star' for the network and 'airplane' in") as error:
        made.setup(net, loaders(test=Listed("cifar10_test", range(10))))
    assert "name_class_names('cifar10', net.class_names)" in str(error.value)


def test_own_words_for_the_classes_of_a_benchmark_can_be_said(net):
    known = loaders(test=Listed("cifar10_test", range(10)))
    name_class_names("cifar10", [name.upper() for name in ID_KINDS])
    try:
        MCMPostprocessor().setup(net, known)
    finally:
        network._named.pop("cifar10")


def test_names_in_another_order_are_refused():
    net = ClipZeroShot.load("miniature", network.resolve_class_names("cifar10")[::-1])
    with pytest.raises(ClassesError, match="in another order: class 0 is 'truck'"):
        MCMPostprocessor().setup(net, loaders(test=Listed("cifar10_test", range(10))))


def test_another_number_of_classes_is_refused(net):
    four = ClipZeroShot(net.clip, ID_KINDS[:4])
    with pytest.raises(ClassesError, match=r"4 classes .*'cifar10' has 10 \(airplane"):
        MCMPostprocessor().setup(four, loaders(test=Listed("cifar10_test", range(10))))
    unknown = Listed("mine_test", range(10))
    with pytest.raises(ClassesError, match="'mine' has 10"):
        MCMPostprocessor().setup(four, loaders(test=unknown))
    del unknown.num_classes
    with pytest.raises(ClassesError, match="labels from 0 to 9; with 4 class names"):
        MCMPostprocessor().setup(four, loaders(test=unknown))


def test_one_clip_serves_two_benchmarks(net):
    class Bare(nn.Module):  # as OpenOOD's CLIPZeroshot: a CLIP that does not know its classes
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(net.clip.model)

    bare = Bare()
    ten, four = (as_clip(bare, names) for names in (ID_KINDS, ID_KINDS[:4]))
    assert (ten.class_names, four.class_names) == (tuple(ID_KINDS), tuple(ID_KINDS[:4]))
    assert as_clip(bare, ID_KINDS) is ten and four.num_classes == 4


def test_a_sweep_without_validation_images_names_the_blocks(net):
    block = {"APS_mode": True, "postprocessor_sweep": {"tau_list": [0.5, 1.0]}}
    made = MCMPostprocessor({"postprocessor": block})
    test = loaders(test=Listed("mine_test", range(10)))
    with pytest.raises(LoaderError, match=r"no dataset\.val and no ood_dataset\.val; add to its"):
        made.setup(net, test, {})
    with pytest.raises(LoaderError, match=r"benchmark has no ood_dataset\.val; add"):
        made.setup(net, test | loaders(val=Listed("mine_val", range(10))), {})


def test_values_of_a_sweep_show_their_names():
    block = {"APS_mode": True, "postprocessor_sweep": {"tau_list": [0.5, 1.0]}}
    found = MCMPostprocessor({"postprocessor": block}).get_hyperparam()
    assert str(found) == "tau=1.0" and found == [1.0] and str(copy.copy(found)) == "tau=1.0"


def test_values_for_no_sweep_are_refused_in_words():
    with pytest.raises(SettingsError, match=r"got 1 values, \[0\.2\]; 'mcm' takes none: there is"):
        MCMPostprocessor().set_hyperparam([0.2])


def test_missing_training_images_are_named_before_work(net, tmp_path, monkeypatch):
    data = Listed("mine_train", list(range(10)) * 2, tmp_path)
    for i in range(19):
        (tmp_path / f"{i}.png").write_bytes(b"an image, if somebody read it")
    encoded = []
    monkeypatch.setattr(type(net.clip), "encode_prompts", lambda *a, **k: encoded.append(a))
    with pytest.raises(BenchmarkError, match=r"1 of 20 images of 'mine_train'[\s\S]*19\.png"):
        InterNegPostprocessor().setup(net, loaders(train=data))
    assert not encoded


def test_images_normalised_for_another_network_are_said(net, tmp_path):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = Preprocess(64, mean=mean, std=std).transform()
    made = MCMPostprocessor(cache_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"normalised with mean \(0\.485"):
        made.setup(net, loaders(test=Listed("mine_test", range(10), transform=theirs)))
    own = net.clip.preprocess.transform()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = Listed("mine_test", range(10), transform=own)
        MCMPostprocessor(cache_dir=tmp_path).setup(net, loaders(test=data))


def test_redirect_cuda_is_public():
    from openood_interneg.plugin import redirect_cuda

    with redirect_cuda("cpu"):
        assert torch.ones(1, device="cuda").device.type == "cpu"
