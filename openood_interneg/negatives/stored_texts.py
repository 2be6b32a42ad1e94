"""Text features and their ranks, computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from openood_interneg.data.digests import digest
from openood_interneg.data.encode import Progress, backbone_key
from openood_interneg.data.store import Entry, Rows, Store
from openood_interneg.negatives.mining import Criterion, ranked
from openood_interneg.negatives.raw_average import encode_ensemble
from openood_interneg.negatives.text_space import Average
from openood_interneg.vlm.backbones import Backbone
from openood_interneg.vlm.prompts import prompt_set
from openood_interneg.vlm.text_precision import TextPrecision, text_backbone

TEXTS_PER_SHARD = 8192


class StoredTexts:
    """Encodes texts through a backbone and the store; memory holds one chunk at a time.

    Encoding resumes at the first missing shard.

    Args:
        backbone: the frozen model.
        store: where features and ranks are kept.
        progress: called as texts are encoded.
    """

    def __init__(self, backbone: Backbone, store: Store, progress: Progress):
        self.backbone, self.store, self.progress = backbone, store, progress

    def at(self, precision: TextPrecision) -> StoredTexts:
        """The same store, with the texts encoded in another precision."""
        return StoredTexts(text_backbone(self.backbone, precision), self.store, self.progress)

    def features(
        self, words: Sequence[str], prompt: str, what: str, average: Average = "unit"
    ) -> Iterator[Tensor]:
        """Unit text features in chunks (n_k, D); see `TextSource.texts`."""
        entry = self._entry(words, prompt, what, average)
        for shard in range(entry.shards):
            yield entry.read(shard)["features"].to(self.backbone.device)

    def ranked(
        self,
        words: Sequence[str],
        prompt: str,
        what: str,
        criterion: Criterion,
        criterion_key: Mapping[str, Any],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `features`, each chunk with its ranks under a criterion, kept on disk, too.

        Args:
            words: n texts.
            prompt: prompt set or template.
            what: names the texts in the progress.
            criterion: ranks the texts.
            criterion_key: what decides the criterion.

        Yields:
            (n_k, D) unit rows, (n_k,) ranks.
        """
        texts = self._entry(words, prompt, what, "unit")
        if not texts.rows:
            return
        key = {**texts.key, "criterion": dict(criterion_key)}
        layout = {"rank": Rows(values="number")}
        entry = self.store.entry("ranks", key, texts.rows, texts.shard_rows, layout)
        device = self.backbone.device

        def compute(shards: list[int]) -> Iterator[dict[str, Tensor]]:
            for shard in shards:
                features = texts.read(shard)["features"].to(device)
                yield {"rank": ranked(features, criterion)}

        entry.fill(compute)
        for shard in range(entry.shards):
            yield texts.read(shard)["features"].to(device), entry.read(shard)["rank"].to(device)

    def _entry(self, words: Sequence[str], prompt: str, what: str, average: Average) -> Entry:
        """The entry of the store with the features of all words."""
        templates = prompt_set(prompt)
        backbone = self.backbone
        # With one template nothing is averaged: both averages are one entry.
        raw = average == "raw" and len(templates) > 1
        key = {
            **backbone_key(backbone),
            "templates": templates,
            "words": digest(list(words)),
        }
        layout = {"features": Rows((backbone.embed_dim,), values="unit")}
        kind = "texts_unnormalised_mean" if raw else "texts"
        entry = self.store.entry(kind, key, len(words), TEXTS_PER_SHARD, layout)
        total = len(words) * len(templates)

        def progress(count: int) -> None:
            self.progress(what, count, total)

        def compute(shards: list[int]) -> Iterator[dict[str, Tensor]]:
            for shard in shards:
                chunk = words[entry.span(shard)]
                if raw:
                    features = encode_ensemble(backbone, chunk, templates, progress)
                else:
                    features = backbone.encode_prompts(chunk, templates, progress=progress)
                yield {"features": features}

        entry.fill(compute)
        return entry
