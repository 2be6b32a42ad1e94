"""Benchmarks in OpenOOD's terms: ID training and test images, and OOD sets, near and far.

`data.benchmark_yaml` reads them from files; `data.image_lists` has their lists of images.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from openood_interneg.data.classnames import check_class_names
from openood_interneg.data.image_lists import (
    BenchmarkError,
    ImageList,
    check_images,
    join_lists,
)
from openood_interneg.settings import shown
from openood_interneg.vlm.text_files import text_value

MAX_NAME_BYTES = 100  # of a set's name: file names are made of it
RESERVED_SET_NAMES = (
    *("nearood", "farood", "near mean", "far mean", "average", "mean", "std"),
    *("id", "train", "test", "csid"),
)


@dataclass(frozen=True)
class Benchmark:
    """ID training and test images, and OOD sets, near and far.

    Attributes:
        name: as tables print it.
        class_names: C names in label order.
        train: labelled ID images for the proxies, or None.
        test: ID test images.
        near: OOD sets close to the ID classes.
        far: OOD sets far from them.
        csid: ID sets under covariate shift (OpenOOD's full spectrum). They are no sets of their
            own in the figures: `full_spectrum` counts them as ID.

    Raises:
        BenchmarkError: two sets of one name, or an OOD set with a name that tables need.
        ClassNameError: class names that `check_class_names` refuses.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageList | None
    test: ImageList
    near: tuple[ImageList, ...]
    far: tuple[ImageList, ...]
    csid: tuple[ImageList, ...] = ()

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        check_set_names((self.name, self.test.name), [images.name for images in self.ood])

    @property
    def ood(self) -> tuple[ImageList, ...]:
        """All OOD sets, near ones first."""
        return self.near + self.far

    def full_spectrum(self) -> Benchmark:
        """The benchmark as OpenOOD's full-spectrum evaluation takes it: ID is the test set and all
        covariate-shifted sets together.

        Raises:
            BenchmarkError: the benchmark has no covariate-shifted set.
        """
        if not self.csid:
            raise BenchmarkError(
                f"benchmark '{self.name}' has no covariate-shifted ID set (ood_dataset: csid), so "
                "there is no full spectrum to evaluate"
            )
        name = f"{self.name}-fsood"
        return replace(self, name=name, test=join_lists(name, (self.test, *self.csid)), csid=())

    def check(self, chosen_train: ImageList | None = None) -> None:
        """Checks that every image is there, before any work starts.

        Args:
            chosen_train: the training images that will be read (not all of them are).

        Raises:
            BenchmarkError: listing the first 10 missing files and how many there are.
        """
        sets = [self.test, *self.ood] + ([chosen_train] if chosen_train is not None else [])
        for images in sets:
            check_images(images)


def check_set_names(id_names: str | Iterable[str], ood_names: Iterable[str]) -> None:
    """Every OOD set of a benchmark has a name of its own: rows, means and files go by it.

    Upper and lower case are one, as some file systems take them.

    Args:
        id_names: the name, or names, of the ID set.
        ood_names: names of all OOD sets, near and far.

    Raises:
        BenchmarkError: a name that no file can have; two of one name, one named as the ID set, or
            as something that tables print.
    """
    id_names = [id_names] if isinstance(id_names, str) else list(id_names)
    ood_names = list(ood_names)
    for name in (*id_names, *ood_names):
        _check_spelling(name)
    taken = {_plain_name(name): f"the ID set '{name}'" for name in id_names}
    taken |= {name: f"'{name}', a name that tables and records need" for name in RESERVED_SET_NAMES}
    for name in ood_names:
        plain = _plain_name(name)
        if plain in taken:
            raise BenchmarkError(
                f"the OOD set '{name}' has the name of {taken[plain]}; their figures could not be "
                "told apart. Give every set a name of its own"
            )
        taken[plain] = f"another OOD set, '{name}'"


def _plain_name(name: str) -> str:
    return unicodedata.normalize("NFKC", str(name)).casefold().strip()


def _check_spelling(name: Any) -> None:
    """Files are named after a set, so that its name must not lead anywhere else."""
    text_value(name, "the name of a data set", BenchmarkError)
    wrong = None
    if not name.isprintable():
        wrong = "has a character that cannot be printed"
    elif any(sign in name for sign in "/\\"):
        wrong = "has a '/' or '\\'"
    elif name.strip(" .") != name:
        wrong = "begins or ends with a dot or a space"
    elif len(name.encode()) > MAX_NAME_BYTES:
        wrong = f"is longer than {MAX_NAME_BYTES} bytes"
    if wrong:
        raise BenchmarkError(
            f"the data set's name {shown(name)} {wrong}; files are named after it, so write a "
            "short plain name"
        )
