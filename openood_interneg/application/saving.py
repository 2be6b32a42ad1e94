"""A detector's state: written, read back in another process, continued in the same stream."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from openood_interneg.application.id_images import (
    checked_names,
    contents_digest,
    images_digest,
    labelled_images,
)
from openood_interneg.application.state import (
    StateError,
    differing_names,
    read_state,
    refuse_differences,
    tensor_digest,
    write_state,
)
from openood_interneg.data.any_image import ImageLimits
from openood_interneg.detectors.base import DetectorError
from openood_interneg.negatives.proxies import sample_per_class
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import SettingsError, as_mapping, shown
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.factory import OPENAI_BACKBONES

if TYPE_CHECKING:
    from openood_interneg.application.detector import InterNegDetector


class _Load:
    """`InterNegDetector.load(path)` makes a detector; `detector.load(path)` continues in it."""

    def __get__(self, instance, owner):
        return owner._from_state if instance is None else instance._continue


class Saved:
    """The part of `InterNegDetector` that deals with its state on disk."""

    load = _Load()

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file, atomically; see `state`.

        While another thread scores, the file holds the moment between two of its batches.
        """
        with self._lock:
            detector = self._fitted()
            tensors = dict(detector.state_dict())
            meta = self._meta()
            guard = self._guard
        space = detector.space
        optional = {
            "proxies": space.proxies,
            "base": space.base,
            "image_base": space.image_base,
            "guard.features": guard,
        }
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        tensors |= {
            "labels": space.labels,
            "negatives": space.negatives,
            "proxy_keys": torch.tensor(sorted(self._proxy_keys), dtype=torch.int64),
        }
        write_state(Path(path).expanduser(), tensors, meta)

    def _meta(self) -> dict[str, Any]:
        space = self.space
        return {
            "settings": as_mapping(self.settings),
            "protections": as_mapping(self.protections),
            "class_names": list(space.class_names),
            "negative_words": list(space.negative_words),
            "backbone": self._backbone_identity(),
            "preprocess": _plain(self.preprocess.key()) | {"variant": self._preprocess_name},
            "reading": asdict(self.limits),
            "digests": self._digests
            | {
                "labels": tensor_digest(space.labels),
                "negatives": tensor_digest(space.negatives),
            },
            "random": {"draws": "splitmix64", "seed": self.settings.seed, "key": "pixels"},
            "logit_scale": float(space.logit_scale),
            "batch_size": self.batch_size,
            "gamma": self._gamma,
            "tpr": self._tpr,
            "stream": {
                "position": self.position,
                "failed": self.failed,
                "begun": self.begun,
                "names": self._names,
                "note": self.note,
            },
        }

    def _backbone_identity(self) -> dict[str, Any]:
        backbone = self.backbone
        source, pretrained, _, _ = self._source
        return {
            "name": backbone.name,
            "weights": backbone.digest,
            "precision": backbone.precision,
            # Told in messages only: a state never decides which file is opened.
            "source": None if isinstance(source, Backbone) else str(source),
            "pretrained": None if pretrained is None else str(pretrained),
        }

    @classmethod
    def _from_state(
        cls,
        path: str | Path,
        backbone: str | Path | Backbone | None = None,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        threads: Literal["refuse", "arrival"] = "refuse",
    ) -> InterNegDetector:
        """A detector as it was saved; neither ID images nor corpus are needed.

        Args:
            path: file of `save`.
            backbone: needed where the state names none that this package knows by name; a state
                never decides which file is opened.

        Raises:
            StateError: damaged file, or weights other than the state's.
        """
        tensors, meta = read_state(Path(path).expanduser())
        stored = meta["backbone"]
        if backbone is None:
            backbone = stored.get("name")
            if backbone not in (*OPENAI_BACKBONES, "miniature"):
                raise StateError(
                    f"{path} was made with {_described(stored)}; pass it as backbone= (a "
                    "state does not decide which file is opened)"
                )
        try:
            detector = cls(
                backbone,
                pretrained=pretrained,
                device=device,
                precision=stored.get("precision"),
                preprocess=meta["preprocess"].get("variant"),
                batch_size=meta["batch_size"],
                threads=threads,
                protections=meta["protections"],
                limits=ImageLimits(**meta["reading"]),
                **meta["settings"],
            )
        except (SettingsError, TypeError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        detector._take(path, tensors, meta)
        return detector

    def _continue(
        self, path: str | Path, *, class_names: Any = None, id_images: Any = None
    ) -> InterNegDetector:
        """Continues the stream of a state in this detector.

        Args:
            path: file of `save`, by a detector with the same model, labels and settings.
            class_names, id_images: what `fit` would get, where this detector was not fitted; they
                are compared with what the state was fitted to, and the state's text space is used.

        Raises:
            StateError: damaged file, or one of another model, label set or setting; every
                difference is named.
        """
        tensors, meta = read_state(Path(path).expanduser())
        mine = {
            **as_mapping(self.settings),
            **{f"protection {k}": v for k, v in as_mapping(self.protections).items()},
            **{f"image reading {k}": v for k, v in asdict(self.limits).items()},
            "batch_size": self.batch_size,
        }
        theirs = {
            **meta["settings"],
            **{f"protection {k}": v for k, v in meta["protections"].items()},
            **{f"image reading {k}": v for k, v in meta["reading"].items()},
            "batch_size": meta["batch_size"],
        }
        pairs = {n: (theirs.get(n), mine.get(n)) for n in dict.fromkeys([*mine, *theirs])}
        pairs |= self._model_pairs(meta)
        digests = meta["digests"]
        names = None
        if self._detector is not None:
            names = self.class_names
            for name in ("labels", "negatives"):
                here = tensor_digest(getattr(self.space, name))
                pairs[f"{name} digest"] = (digests.get(name), here)
        if class_names is not None:
            names = checked_names(class_names)
            pairs["corpus digest"] = (digests.get("corpus"), self._corpus_digest())
        if names is not None and list(names) != meta["class_names"]:
            pairs["class names"] = differing_names(meta["class_names"], names)
        elif names is not None and id_images is not None:
            sources, labels = labelled_images(id_images, names)
            here = images_digest(sources, labels)
            pairs["ID images digest"] = (digests.get("id_images"), here)
            if here == digests.get("id_images"):
                here = contents_digest([sources[i] for i in self._proxy_images(labels, names)])
                pairs["content of the ID images"] = (digests.get("proxy_images"), here)
        refuse_differences(_named(path, meta), pairs)
        self._take(path, tensors, meta)
        return self

    def _model_pairs(self, meta: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What decides a feature beside the image: (the state's, the present)."""
        here, there = self._backbone_identity(), meta["backbone"]
        pairs = {f"backbone {k}": (there.get(k), here[k]) for k in ("weights", "precision")}
        preprocess = _plain(self.preprocess.key()) | {"variant": self._preprocess_name}
        return pairs | {"preprocess": (meta["preprocess"], preprocess)}

    def _proxy_images(self, labels: Any, names: Sequence[str]) -> list[int]:
        """Which ID images `fit` would read."""
        settings = self.settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` has said which classes have few
            return sample_per_class(
                labels,
                len(names),
                settings.images_per_class,
                select=settings.proxy_select,
                seed=settings.proxy_seed,
                class_names=names,
            ).tolist()

    def _take(self, path: str | Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        refuse_differences(_named(path, meta), self._model_pairs(meta))
        device = self.backbone.device
        if tensors["labels"].shape[1] != self.backbone.embed_dim:
            raise StateError(f"{path} is damaged: its features do not have the model's size")
        space = TextSpace(
            labels=tensors["labels"],
            logit_scale=meta["logit_scale"],
            negatives=tensors["negatives"],
            proxies=tensors.get("proxies"),
            base=tensors.get("base"),
            image_base=tensors.get("image_base"),
            negative_words=tuple(meta["negative_words"]),
            class_names=tuple(meta["class_names"]),
        ).to(device)
        stream = meta["stream"]
        begun = stream.get("begun")
        if not isinstance(begun, int) or not 0 <= begun <= stream["position"]:
            raise StateError(f"{path} is damaged: the present input began at {begun!r}")
        if not isinstance(stream.get("note"), dict):
            raise StateError(f"{path} is damaged: the stream's note is no mapping")
        memory = {
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith("bank.") or name in ("seen", "inverted")
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when the state's detector was fitted
            fresh = self._fitted_to(space)
        try:
            fresh.load_state_dict({n: t.to(device) for n, t in memory.items()})
        except (DetectorError, RuntimeError, IndexError, KeyError, ValueError) as error:
            raise StateError(f"{path} is damaged: {error}") from error
        with self._lock:
            self._detector = fresh
            self._digests = {
                k: str(v)
                for k, v in meta["digests"].items()
                if k in ("corpus", "id_images", "proxy_images")
            }
            self._proxy_keys = set(tensors["proxy_keys"].tolist())
            self._restart()
            self.gamma = meta.get("gamma")
            self._guard = tensors.get("guard.features")
            self._tpr = float(meta.get("tpr") or 0.95)
            if self._guard is not None and self._gamma is not None:
                self._guard = self._guard.to(device)
                fresh.watch(self._guard, self._gamma)
            self.position, self.failed = stream["position"], stream["failed"]
            self.begun, self._names = begun, stream["names"]
            self.note = stream["note"]


def _named(path: str | Path, meta: Mapping[str, Any]) -> str:
    """A state in messages: its file and the model it was made with."""
    return f"the state {path}, made with {_described(meta['backbone'])},"


def _described(backbone: Mapping[str, Any]) -> str:
    """The stored model: its name, where it was loaded from, its digest."""
    loaded = [shown(backbone[k], 400) for k in ("source", "pretrained") if backbone.get(k)]
    origin = f"loaded from {' and '.join(loaded)}, " if loaded else ""
    weights, precision = str(backbone.get("weights"))[:12], str(backbone.get("precision"))[:20]
    return (
        f"the backbone {shown(backbone.get('name'))} ({origin}digest {weights}, "
        f"precision {precision})"
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
