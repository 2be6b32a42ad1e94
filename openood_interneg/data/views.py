"""Views of an image: corrupted copies that are encoded beside the original (for CoVer)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from openood_interneg.data.corruptions import (
    CORRUPTIONS,
    ORIGINAL,
    SEVERITIES,
    ViewError,
    as_jpeg,
    corrupt,
    parse_view,
    to_array,
    to_image,
)
from openood_interneg.data.image_ids import image_id
from openood_interneg.data.images import ImageError, read_rgb

_RECOMMENDED = ("brightness", "fog", "saturate", "motion_blur", "defocus_blur", "gaussian_blur")


def view_names(name: str) -> tuple[str, ...]:
    """Names of the views of a set, the original first.

    `recommended13`: severities 1 and 2 of six corruptions, the set that CoVer's code comments
    recommend; `all91`: all 18 at all five severities. A view is named like "fog-2".

    Raises:
        ViewError: another name.
    """
    if name == "recommended13":
        kinds: tuple[str, ...] = _RECOMMENDED
        severities: tuple[int, ...] = (1, 2)
    elif name == "all91":
        kinds, severities = tuple(CORRUPTIONS), SEVERITIES
    else:
        raise ViewError(f"views is {name!r}; choose one of recommended13, all91")
    return (ORIGINAL, *(f"{kind}-{severity}" for kind in kinds for severity in severities))


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of an image; picklable, so data loader workers can do it.

    ImageNet-C's constants are for 224 pixels, so the corrupted copies are made of the image
    resized (short side, bilinear) and cropped to `size`, and written as JPEG of quality `jpeg`,
    as CoVer's files were. The original stays as it is.

    Attributes:
        names: views, as from `view_names(...)`.
        seed: of everything random.
        size: side of the corrupted copies in pixels; 0 keeps the image's own size.
        jpeg: JPEG quality of the corrupted copies; 0 keeps them uncompressed.
    """

    names: tuple[str, ...]
    seed: int = 0
    size: int = 224
    jpeg: int = 85

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for name in self.names:
            parse_view(name)

    def __call__(self, image: Image.Image, image_id: int) -> list[Image.Image]:
        """The views of an image, in the order of `names`.

        Args:
            image: PIL image of any mode.
            image_id: int64 id of the image.
        """
        image = image.convert("RGB")
        pixels = None
        made = []
        for name in self.names:
            if name == ORIGINAL:
                made.append(image)
                continue
            if pixels is None:
                pixels = to_array(_square(image, self.size) if self.size else image)
            view = to_image(corrupt(pixels, name, self.seed, image_id))
            made.append(as_jpeg(view, self.jpeg) if self.jpeg else view)
        return made


class ViewFiles(Dataset[tuple[Tensor, str]]):
    """Files -> ((V, 3, H, W) pixels, error text).

    Args:
        paths: image files.
        names: of the images; they decide the random corruptions.
        maker: of the views.
        transform: PIL RGB image -> (3, H, W) float tensor.
        size: side of the tensor, for the placeholder of an unreadable image.
    """

    def __init__(
        self,
        paths: list[Path],
        names: Sequence[str],
        maker: ViewMaker,
        transform: Callable[[Image.Image], Tensor],
        size: int,
    ):
        self.paths, self.names, self.maker = paths, names, maker
        self.transform, self.size = transform, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        try:
            image = read_rgb(self.paths[index])
        except ImageError as error:
            return torch.zeros(len(self.maker.names), 3, self.size, self.size), str(error)
        made = self.maker(image, image_id(self.names[index]))
        return torch.stack([self.transform(view) for view in made]), ""


def _square(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
