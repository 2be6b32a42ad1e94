"""Which ID images are set apart for proxies, where nobody says it."""

from __future__ import annotations

import numpy as np

from openood_interneg.data.image_ids import image_id
from openood_interneg.data.image_lists import ImageList


def split_off(images: ImageList, per_class: int) -> tuple[ImageList | None, ImageList]:
    """Sets images of each class apart, the same ones whatever else is in the folder.

    Args:
        images: labelled.
        per_class: how many of each class, at most half of the class.

    Returns:
        The images set apart (None for none) and the others, both in the order of the list.
    """
    hashes = np.array([image_id(path) for path in images.paths], dtype=np.int64)
    apart: list[int] = []
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        count = min(per_class, len(members) // 2)
        apart += members[np.argsort(hashes[members], kind="stable")[:count]].tolist()
    rest = np.setdiff1d(np.arange(len(images)), apart)
    return (images.subset(sorted(apart)) if apart else None), images.subset(rest)
