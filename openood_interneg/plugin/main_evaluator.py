"""The evaluator of OpenOOD's main.py with the paper's protocol (`evaluator.name: mixed`).

It prints and writes what OpenOOD's own `ood` evaluator does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from openood_interneg.evaluation.protocols import PROTOCOLS, Protocol
from openood_interneg.plugin.baseline_table import (
    is_baseline,
)
from openood_interneg.plugin.classes import check_classes
from openood_interneg.plugin.evaluator_parts import (
    NamedSearch,
    check_count,
    look_for_csid,
    note_incomparable,
    stream_metrics,
)
from openood_interneg.plugin.network import (
    as_clip,
    inner_clip,
    known_class_names,
)
from openood_interneg.plugin.openood import load_openood
from openood_interneg.plugin.streams import make_streams
from openood_interneg.plugin.sweep import check_search
from openood_interneg.settings import SettingsError

load_openood()
from openood.evaluators.ood_evaluator import OODEvaluator  # noqa: E402


class MixedOODEvaluator(NamedSearch, OODEvaluator):
    """main.py's OOD evaluator (`evaluator.name: mixed`) with a choice of protocol.

    Reads from the config's `evaluator` block `protocol` ("mixed" by default, or "openood") and
    `batch_size` (256), and the config's `seed`. Writes the same ood.csv and scores as OpenOOD's
    `ood` evaluator; a scores file holds both sides of a stream: `id_<set>` and `<set>`.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        block = config.evaluator
        protocol: Any = block.protocol or "mixed"
        self.protocol: Protocol = protocol
        self.seed = config.seed or 0
        self.batch_size = block.batch_size or 256
        check_count("seed", self.seed, 0)
        check_count("evaluator.batch_size", self.batch_size, 1)
        if self.protocol not in PROTOCOLS:
            raise SettingsError(
                f"evaluator.protocol is {self.protocol!r}; choose one of {', '.join(PROTOCOLS)}"
            )

    def eval_ood(
        self,
        net: nn.Module,
        id_data_loaders: Mapping[str, DataLoader],
        ood_data_loaders: Mapping[str, Any],
        postprocessor: Any,
        fsood: bool = False,
    ) -> None:
        """Scores every OOD set of the groups that the benchmark has, and writes the table."""
        net.eval()
        if inner_clip(net) is not None:
            dataset = self.config.dataset
            clip = as_clip(net, known_class_names(dataset.name))
            check_classes(clip, dataset.name, dataset.num_classes)
        if fsood:
            look_for_csid(self.config.dataset.name, ood_data_loaders.get("csid"))
        if self.config.postprocessor.APS_mode:
            name = self.config.postprocessor.name
            check_search(name, "val" in id_data_loaders, "val" in ood_data_loaders)
            self.searched = postprocessor
            self.hyperparam_search(
                net, id_data_loaders["val"], ood_data_loaders["val"], postprocessor
            )
        loaders = {"id": id_data_loaders["test"]}
        if fsood:
            loaders |= {f"csid_{n}": dl for n, dl in ood_data_loaders["csid"].items()}
        streams = make_streams(
            self.protocol,
            net,
            postprocessor,
            loaders,
            seed=self.seed,
            batch_size=self.batch_size,
            stateless=is_baseline(self.config.postprocessor.name),
        )
        if self.protocol == "openood":
            note_incomparable(postprocessor)
        for group in ("nearood", "farood"):
            sets = ood_data_loaders.get(group) or {}
            values = []
            for name, loader in sets.items():
                print(f"Performing inference on {name} ({self.protocol})...", flush=True)
                id_scores, ood_scores = streams.run(name, loader)
                if self.config.recorder.save_scores:
                    self._save_scores(*id_scores, f"id_{name}")
                    self._save_scores(*ood_scores, name)
                values.append(stream_metrics(id_scores, ood_scores, postprocessor))
                self._save(values[-1], name)
            if values:
                self._save(np.mean(values, axis=0), group)

    def _save(self, values: Any, name: str) -> None:
        if self.config.recorder.save_csv:
            self._save_csv(values, dataset_name=name)
