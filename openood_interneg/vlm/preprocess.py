"""Preprocessing of images for the image tower."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from openood_interneg.settings import InternegError, SettingsError, shown

if TYPE_CHECKING:  # both take a while to import
    from PIL.Image import Image
    from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_SIDE = 2048  # pixels; the largest image tower in use takes 518

_INTERPOLATIONS = ("bicubic", "bilinear")
_RESIZE_MODES = ("shortest", "longest", "squash")
# open_clip's names of the fields below.
_OPEN_CLIP = {
    "interpolation": "interpolation",
    "mean": "mean",
    "std": "std",
    "resize_mode": "resize_mode",
    "fill_color": "fill",
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop the centre, scale to [0, 1], normalise; open_clip's transform of evaluation.

    Attributes:
        size: side of the square that the image tower takes, in pixels, 1 to 2048.
        resize: length of the side that `resize_mode` speaks of; CLIP's own is `size`.
        interpolation: "bicubic" (CLIP's) or "bilinear".
        mean, std: per channel, of values in [0, 1].
        resize_mode: "shortest" (CLIP's): the short side becomes `resize`, the rest of the long
            one is cut off; "longest": the long side does, and the short one is padded with
            `fill`; "squash" (SigLIP's): both do, whatever the image's proportions.
        fill: grey level of the padding, 0 to 255.

    Raises:
        SettingsError: a value out of its range.
    """

    size: int
    resize: int | None = None
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resize_mode: str = "shortest"
    fill: int = 0

    def __post_init__(self) -> None:
        for name, known in (("interpolation", _INTERPOLATIONS), ("resize_mode", _RESIZE_MODES)):
            value = getattr(self, name)
            if value not in known:
                raise SettingsError(f"{name} is {shown(value)}; choose one of {', '.join(known)}")
        for name, low, high in (
            ("size", 1, MAX_SIDE),
            ("resize", 1, 2 * MAX_SIDE),
            ("fill", 0, 255),
        ):
            value = getattr(self, name)
            if name == "resize" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise SettingsError(
                    f"preprocess: {name} is {shown(value)}; it is a whole number from {low} to "
                    f"{high}"
                )
        for name, positive in (("mean", False), ("std", True)):
            value = getattr(self, name)
            if not _three_numbers(value) or (positive and min(value) <= 0):
                raise SettingsError(
                    f"preprocess: {name} is {shown(value)}; it is three numbers"
                    f"{' above 0' if positive else ''}, one per channel"
                )
            object.__setattr__(self, name, tuple(float(v) for v in value))

    @classmethod
    def from_open_clip(
        cls, config: Mapping[str, Any], size: Any, source: str, error: type[InternegError]
    ) -> Preprocess:
        """The preprocessing of open_clip's `preprocess_cfg`; what it leaves out is CLIP's.

        Args:
            config: `size`, `interpolation`, `mean`, `std`, `resize_mode`, `fill_color`, `mode`,
                and `resize`, which open_clip has not.
            size: of the images that the image tower takes, a number or (height, width).
            source: named in errors.
            error: what is raised.

        Raises:
            error: unknown keys, values out of range, a size that is not the image tower's, images
                that are not square or not RGB.
        """
        if not isinstance(config, Mapping):
            raise error(f"{source}: the preprocessing is {shown(config)}; it maps names to values")
        known = ("size", "mode", "resize", "fill", *_OPEN_CLIP)
        unknown = [str(key) for key in config if key not in known]
        if unknown:
            raise error(
                f"{source}: unknown preprocessing {shown(unknown[0])}; known: {', '.join(known)}"
            )
        given = {key: value for key, value in config.items() if value is not None}
        if given.pop("mode", "RGB") != "RGB":
            raise error(f"{source}: mode is {shown(config['mode'])}; only RGB images are encoded")
        sides = [_side(value) for value in (given.pop("size", size), size)]
        if sides[0] is None or sides[1] is None:
            raise error(
                f"{source}: the size is {shown(config.get('size', size))}; images that are "
                "not square are not supported"
            )
        if sides[0] != sides[1]:
            raise error(
                f"{source}: the size is {shown(sides[0])} and the image tower takes {sides[1]}; "
                "correct the file"
            )
        kept = {_OPEN_CLIP.get(key, key): value for key, value in given.items()}
        if kept.get("interpolation") == "random":  # of training; in evaluation bicubic
            kept["interpolation"] = "bicubic"
        for name in ("mean", "std"):
            if name in kept and not isinstance(kept[name], Sequence):
                kept[name] = (kept[name],) * 3
        try:
            return cls(size=sides[1], **kept)
        except SettingsError as refusal:
            raise error(f"{source}: {refusal}") from None

    def variant(self, name: str) -> Preprocess:
        """`clip`: this one. `openood_vlm`: short side 256/224 of the crop, as in the code of
        InterNeg and OpenOOD-VLM for ImageNet (resize 256, crop 224).

        Raises:
            SettingsError: for another name.
        """
        if name == "clip":
            return self
        if name == "openood_vlm":
            return replace(self, resize=round(self.size * 256 / 224))
        raise SettingsError(f"preprocess is {name!r}; choose one of clip, openood_vlm")

    def transform(self) -> Callable[[Image], Tensor]:
        """torchvision Compose, PIL image -> (3, size, size) float32; Normalize comes last."""
        from torchvision import transforms  # a second to import

        mode = transforms.InterpolationMode(self.interpolation)
        resize = self.resize or self.size
        if self.resize_mode == "longest":
            # open_clip's own, as torchvision has no such resizing; its import takes a second, too
            from open_clip.transform import CenterCropOrPad, ResizeKeepRatio

            shaped: list[Callable[[Image], Image]] = [
                ResizeKeepRatio(resize, interpolation=mode, longest=1),
                CenterCropOrPad(self.size, fill=self.fill),
            ]
        else:
            sides = (resize, resize) if self.resize_mode == "squash" else resize
            shaped = [
                transforms.Resize(sides, interpolation=mode),
                transforms.CenterCrop(self.size),
            ]
        return transforms.Compose(
            [
                *shaped,
                _to_rgb,
                transforms.ToTensor(),
                transforms.Normalize(self.mean, self.std),
            ]
        )

    def key(self) -> dict[str, Any]:
        """Everything that decides the pixels, for cache keys."""
        key = asdict(self)
        if self.resize_mode != "longest":
            del key["fill"]  # nothing is padded
        if self.resize_mode == "shortest":
            del key["resize_mode"]  # the keys of before there was another
        return key


def _side(size: Any) -> Any:
    """The side of a square from a number or (height, width); None where it is no square."""
    if isinstance(size, (list, tuple)):
        return size[0] if len(size) in (1, 2) and size[0] == size[-1] else None
    return size


def _three_numbers(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
        and all(math.isfinite(v) for v in value)
    )


def _to_rgb(image: Image) -> Image:
    return image.convert("RGB")
