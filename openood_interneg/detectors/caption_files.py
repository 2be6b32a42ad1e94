"""Captions of images, for methods that look at what a captioning model says of them (ZOC, ANTS).

No such model comes with this package. Captions come from a text file, one image a line, either

    iNaturalist/images/0001.jpg<TAB>a purple flower|a bee on a flower

or JSON, `{"image": "iNaturalist/images/0001.jpg", "captions": ["a purple flower"]}`; or from any
callable that takes an image's name and returns its captions (`collect_captions`). Images are
matched by the id that their name gives, the same that streams carry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openood_interneg.data.image_ids import image_id
from openood_interneg.detectors.base import DetectorError
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.text_files import read_text

NOT_GIVEN = "none"

Captioner = Callable[[str], Sequence[str]]  # name of an image -> what it may show
Table = Mapping[str, Sequence[str]]  # image or class -> texts


def read_captions(path: str, what: str = "captions") -> dict[str, tuple[str, ...]]:
    """Texts per image (or per class) from a file in either form of the module's text.

    Args:
        path: the file; "none" stands for none given.
        what: the setting, named in errors.

    Raises:
        SettingsError: no file given, or a line of neither form.
    """
    if path == NOT_GIVEN:
        raise SettingsError(
            f"{what} is 'none', and this method needs a file: one line a name, a tab and texts "
            "separated by '|', or one JSON object a line with 'image' and 'captions'"
        )
    table: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(
        read_text(Path(path).expanduser(), SettingsError).splitlines(), start=1
    ):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if line.lstrip().startswith("{"):
                row = json.loads(line)
                name, texts = row["image"], row["captions"]
                if isinstance(texts, str):
                    raise TypeError("captions is a list")
            else:
                name, tab, rest = line.partition("\t")
                if not tab:
                    raise ValueError("there is no tab")
                texts = rest.split("|")
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{what}: {path}, line {number}: neither 'name<TAB>text|text' nor JSON with "
                f"'image' and 'captions' ({error})"
            ) from None
        table[str(name)] = tuple(text.strip() for text in texts if text.strip())
    if not table:
        raise SettingsError(f"{what}: {path} has no line with texts")
    return table


def collect_captions(names: Iterable[str], captioner: Captioner) -> dict[str, tuple[str, ...]]:
    """What a captioner says of every image, as `read_captions` would return it."""
    return {name: tuple(captioner(name)) for name in names}


def caption_tensors(backbone: Backbone, table: Table, template: str) -> dict[str, Tensor]:
    """Captions as tensors for `TextSpace.extra`.

    Returns:
        `caption_keys` (n,) int64 ascending; `caption_offsets` (n + 1,) and `caption_rows`: the
        captions of image k are rows[offsets[k]:offsets[k + 1]] of `caption_texts` (N, D), which
        has each distinct text once.
    """
    by_id = sorted((image_id(name), texts) for name, texts in table.items())
    texts, offsets, rows = ragged([texts for _, texts in by_id], backbone, template)
    ids = torch.tensor([image for image, _ in by_id], dtype=torch.int64, device=backbone.device)
    return {
        "caption_keys": ids,
        "caption_offsets": offsets,
        "caption_rows": rows,
        "caption_texts": texts,
    }


def ragged(
    lists: Sequence[Sequence[str]], backbone: Backbone, template: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) features of the distinct texts, (n + 1,) offsets, rows into the features."""
    number: dict[str, int] = {}
    rows = [[number.setdefault(t, len(number)) for t in dict.fromkeys(ts)] for ts in lists]
    ends = np.cumsum([0] + [len(row) for row in rows])
    device = backbone.device
    return (
        backbone.encode_prompts(list(number), (template,)),
        torch.as_tensor(ends, device=device),
        torch.tensor([i for row in rows for i in row], dtype=torch.int64, device=device),
    )


def caption_places(space: TextSpace, ids: Tensor) -> Tensor:
    """Places of images in `caption_keys`, (B,).

    Raises:
        DetectorError: an image without captions.
    """
    known, ids = space.extra["caption_keys"], ids.to(space.device)
    place = torch.searchsorted(known, ids).clamp_max(len(known) - 1)
    missing = int((known[place] != ids).sum())
    if missing:
        raise DetectorError(
            f"{missing} of {len(ids)} images have no line in the caption file; its names must "
            "be those of the image lists"
        )
    return place


def need_captions(space: TextSpace, name: str) -> None:
    lacking = [
        part
        for part in ("caption_keys", "caption_offsets", "caption_rows", "caption_texts")
        if part not in space.extra
    ]
    if lacking:
        raise DetectorError(f"{name} needs extra['{lacking[0]}'] (see caption_tensors)")
