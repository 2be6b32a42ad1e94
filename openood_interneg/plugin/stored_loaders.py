"""OpenOOD's loaders with features from the store in place of images.

What a loader's images are is known where its data set is OpenOOD's plain list of files, and the
transform is step by step one of the model's own. Then the features are those that `interneg eval`
keeps, in the same entries of the store: the key has every file's path, size and time, so a file
that changed is encoded anew. Everything else goes through the loader: subclasses, other
transforms, random steps, loaders with their own collation, networks over several GPUs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from openood_interneg.data.encode import Encoder
from openood_interneg.data.image_lists import ImageList, check_images
from openood_interneg.data.store import Store, StoreError, default_root
from openood_interneg.plugin.builders import ClipPreprocessor
from openood_interneg.plugin.loaders import LoaderImages, listed_images
from openood_interneg.plugin.network import ClipZeroShot
from openood_interneg.plugin.progress import TextBar
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.preprocess import Preprocess

_VARIANTS = ("clip", "openood_vlm")


def cache_root(given: str | Path | bool | None) -> Path | None:
    """The store's folder from an option `cache_dir`: None for False, the default for None, True."""
    if given is None or given is True:
        return default_root()
    return Path(given) if given else None


@dataclass(frozen=True)
class KnownImages:
    """The files behind a loader, and how their pixels are made."""

    images: ImageList
    preprocess: Preprocess

    def features(
        self, backbone: Backbone, root: Path, workers: int = 0, progress: bool = True
    ) -> Tensor:
        """(n, D) float32 unit rows on the CPU, from the store or encoded into it.

        Without a folder that can be written they are encoded all the same, with a warning.

        Raises:
            BenchmarkError: files that are not there. ImageError: one that cannot be read.
        """
        try:
            _ = self.images.digest  # looks at every file
        except OSError:
            check_images(self.images)
            raise
        # Loaders draw from torch's generator. A shuffled order must not depend on what is stored.
        with torch.random.fork_rng(devices=[]):
            try:
                return self._encoded(backbone, Store(root), workers, progress)
            except StoreError as error:
                warnings.warn(f"image features are not kept: {error}", stacklevel=2)
                return self._encoded(backbone, Store(None), workers, progress)

    def _encoded(self, backbone: Backbone, store: Store, workers: int, progress: bool) -> Tensor:
        encoder = Encoder(
            backbone,
            store,
            preprocess=self.preprocess,
            workers=workers,
            progress=TextBar() if progress else None,
        )
        return encoder.entry(self.images).read_all()["features"]


class StoredImages(Dataset[dict[str, Any]]):
    """Samples of OpenOOD's data set of an image list, with features in place of pixels.

    Everything that is no sample is that of the data set itself.

    Args:
        files: OpenOOD's data set.
        known: its files.
        backbone: encodes those that are not in the store.
        root: the store's folder.
        workers: processes that read and decode.
        progress: whether encoding has a bar.
    """

    def __init__(
        self,
        files: Any,
        known: KnownImages,
        backbone: Backbone,
        root: Path,
        workers: int = 0,
        progress: bool = True,
    ):
        self.files, self.known = files, known
        self._source = (backbone, root, workers, progress)

    @cached_property
    def rows(self) -> Tensor:
        """(n, D) float32 unit rows; files are looked at when the first is asked for."""
        return self.known.features(*self._source)

    def __getattr__(self, name: str) -> Any:
        if name == "files":  # of an object that is still being made
            raise AttributeError(name)
        return getattr(self.files, name)

    def __len__(self) -> int:
        return len(self.known.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        label = int(self.known.images.labels[index])
        classes = self.files.num_classes
        soft = torch.full((classes,), 1.0 / classes if label < 0 else 0.0)
        if label >= 0:
            soft[label] = 1.0
        return {
            "image_name": self.known.images.paths[index],
            "data": self.rows[index],
            "data_aux": torch.empty(0),
            "label": label,
            "soft_label": soft,
            "index": index,
            "pseudo": 0,
        }


class StoredLoaderImages(LoaderImages):
    """ID training images behind a loader, encoded once; only those asked for are read."""

    def __init__(self, loader: DataLoader, clip: ClipZeroShot, known: KnownImages, root: Path):
        super().__init__(loader, clip)
        self.known, self.root = known, root

    def features(self, indices: np.ndarray) -> Tensor:
        """(len(indices), D) float32 unit image features."""
        some = KnownImages(self.known.images.subset(indices), self.known.preprocess)
        rows = some.features(self.clip.clip, self.root, self.loader.num_workers)
        return rows.to(self.clip.clip.device)


def id_images(loader: DataLoader, clip: ClipZeroShot, root: Path | None) -> LoaderImages:
    """ID training images behind a loader, through the store where they are known."""
    known = None if root is None else known_images(loader, clip.clip)
    if root is None or known is None:
        return LoaderImages(loader, clip)
    return StoredLoaderImages(loader, clip, known, root)


def stored_loader(loader: Any, backbone: Backbone, root: Path | None, progress: bool = True) -> Any:
    """A loader of the same batches with features (B, D) as `data`; else the loader itself.

    Args:
        loader: of OpenOOD's.
        backbone: the model whose features they are.
        root: the store's folder; None changes nothing.
        progress: whether encoding has a bar.
    """
    known = None if root is None else known_images(loader, backbone)
    if root is None or known is None:
        return loader
    files = StoredImages(loader.dataset, known, backbone, root, loader.num_workers, progress)
    return DataLoader(
        files, batch_size=loader.batch_size, sampler=loader.sampler, drop_last=loader.drop_last
    )


def stored_loaders(loaders: Any, backbone: Backbone, root: Path | None) -> Any:
    """`stored_loader` of every loader in nested dictionaries."""
    if isinstance(loaders, Mapping):
        return {name: stored_loaders(inner, backbone, root) for name, inner in loaders.items()}
    return stored_loader(loaders, backbone, root)


def known_images(loader: Any, backbone: Backbone) -> KnownImages | None:
    """The files of a loader whose pixels are certainly the model's own; else None."""
    dataset: Any = getattr(loader, "dataset", None)
    module = sys.modules.get("openood.datasets.imglist_dataset")
    if module is None or type(dataset) is not module.ImglistDataset:
        return None
    if type(loader) is not DataLoader or loader.collate_fn is not default_collate:
        return None
    if loader.batch_size is None or dataset.skip_broken or dataset.dummy_size is not None:
        return None
    images = listed_images(dataset)
    preprocess = _own(dataset.transform_image, backbone)
    if images is None or not len(images) or preprocess is None:
        return None
    return KnownImages(images, preprocess)


def spread(net: nn.Module) -> bool:
    """Whether a network, or a part of it, encodes on several GPUs."""
    return any(isinstance(part, nn.DataParallel) for part in net.modules())


def _own(transform: Any, backbone: Backbone) -> Preprocess | None:
    """The model's preprocessing, or a variant of it, that a transform is."""
    if type(transform) is ClipPreprocessor:  # a subclass might do more
        transform = transform.transform
    for name in _VARIANTS:
        preprocess = backbone.preprocess.variant(name)
        if same_transform(transform, preprocess.transform()):
            return preprocess
    return None


def same_transform(one: Any, other: Any) -> bool:
    """Whether two transforms are of the same steps with the same settings.

    Steps are compared by class and attributes, functions by identity; what cannot be compared is
    different.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    try:
        mine, theirs = dict(vars(one)), dict(vars(other))
        steps = [list(found.pop("transforms", ())) for found in (mine, theirs)]
        if len(steps[0]) != len(steps[1]) or bool(mine != theirs):
            return False
    except (TypeError, ValueError, RuntimeError):
        return False
    return all(same_transform(a, b) for a, b in zip(*steps, strict=True))
