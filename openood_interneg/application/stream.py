"""A stream of images: where it stands, and what it says of each image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openood_interneg.application.images import Found
from openood_interneg.application.inputs import UNKNOWN
from openood_interneg.application.judgement import Judgement
from openood_interneg.application.state import StateError
from openood_interneg.data.digests import extend_digest
from openood_interneg.data.image_entries import Deferred
from openood_interneg.detectors.base import Scores


class _Pair(NamedTuple):
    name: str
    score: float


class Prediction(_Pair):
    """What is said of an image; unpacks as the pair (name, score).

    Attributes:
        name: of the class, or "unknown".
        score: high = ID.
        label: the nearest class.
        gamma: the threshold of its moment; None where p-values tell.
        p: its p-value; None for methods that have none.
    """

    label: str
    gamma: float | None
    p: float | None

    def __new__(
        cls, name: str, score: float, label: str, gamma: float | None, p: float | None
    ) -> Prediction:
        """See the class."""
        made = super().__new__(cls, name, score)
        made.label, made.gamma, made.p = label, gamma, p
        return made


@dataclass(frozen=True)
class Scored:
    """What a stream says of one image.

    Attributes:
        position: place in the stream, from 0.
        name: its path, or "#position".
        label: the nearest class.
        prediction: the same or "unknown"; None where nothing tells unknown images.
        score: high = ID.
        gamma: the threshold of its moment; None where p-values tell, or nothing.
        p: its p-value; None for methods that have none.
        error: why the image could not be read; then label, prediction and score are None.
    """

    position: int
    name: str
    label: str | None = None
    prediction: str | None = None
    score: float | None = None
    gamma: float | None = None
    p: float | None = None
    error: str | None = None

    @property
    def unknown(self) -> bool | None:
        """Whether the image is of no class."""
        return None if self.prediction is None else self.prediction == UNKNOWN


@dataclass
class StreamRecord:
    """Where a stream stands; a state on disk holds it.

    Attributes:
        position: images that the stream has brought, unreadable ones included.
        failed: unreadable ones.
        begun: position at which the present input began.
        names: digest of the names of the present input so far.
        note: what a caller keeps in the state.
    """

    position: int = 0
    failed: int = 0
    begun: int = 0
    names: str = ""
    note: dict[str, Any] = field(default_factory=dict)

    def begin_input(self) -> None:
        """Another input begins where the stream stands."""
        self.begun, self.names = self.position, ""

    def skip(self, images: Iterator[Any]) -> None:
        """Takes the images of the present input that were scored.

        Raises:
            StateError: they are others than those that were scored, or too few.
        """
        count = self.position - self.begun
        digest = ""
        for place in range(count):
            try:
                digest = extend_digest(digest, image_name(next(images), self.begun + place))
            except StopIteration:
                raise StateError(
                    f"the state stands after {count} images, the input has only {place}; it is "
                    "not the stream that was interrupted"
                ) from None
        if digest != self.names:
            raise StateError(
                f"the first {count} images of the input are not those that were scored; give the "
                "same input again, or start a new state"
            )

    def add(self, names: Sequence[str], failed: int) -> None:
        """Keeps the names of a batch and how many of it were unreadable."""
        self.failed += failed
        for name in names:
            self.names = extend_digest(self.names, name)


def image_name(source: Any, position: int) -> str:
    """A path, or what its data set calls an image, or its place in the stream."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return (source.name if isinstance(source, Deferred) else "") or f"#{position}"


def readable_ids(found: Sequence[Found]) -> Tensor:
    """Ids (n,) int64 of the images that could be read."""
    return torch.tensor([e for e in found if not isinstance(e, str)], dtype=torch.int64)


def results(
    names: Sequence[str],
    found: Sequence[Found],
    predictions: Sequence[Prediction],
    *,
    begin: int,
    judged: bool,
) -> list[Scored]:
    """The results of a batch.

    Args:
        names: of its images.
        found: the id of each, or what is wrong with it.
        predictions: of the readable ones.
        begin: position of the first image.
        judged: whether anything tells unknown images.
    """
    rows = iter(predictions)
    out = []
    for at, (name, entry) in enumerate(zip(names, found, strict=True), begin):
        if isinstance(entry, str):
            out.append(Scored(at, name, error=entry))
            continue
        row = next(rows)
        said = row.name if judged else None
        out.append(Scored(at, name, row.label, said, row.score, row.gamma, row.p))
    return out


def predictions(
    scores: Scores, judgement: Judgement | None, classes: Sequence[str]
) -> list[Prediction]:
    """What is said of images; the nearest class where nothing tells unknown ones.

    Args:
        scores: of the images.
        judgement: which of them are known.
        classes: names of the classes.
    """
    count = len(scores.score)
    known = [True] * count if judgement is None else judgement.known.tolist()
    of_each = None if judgement is None else judgement.gamma
    gamma: list[float | None] = [None] * count
    if isinstance(of_each, Tensor):
        gamma = of_each.tolist()
    elif of_each is not None:
        gamma = [of_each] * count
    p: list[float | None] = [None] * count if scores.p is None else scores.p.tolist()
    columns = zip(scores.pred.tolist(), scores.score.tolist(), known, gamma, p, strict=True)
    return [
        Prediction(classes[label] if id_ else UNKNOWN, score, classes[label], its_gamma, value)
        for label, score, id_, its_gamma, value in columns
    ]
