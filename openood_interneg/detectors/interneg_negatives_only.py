"""InterNeg's mined negatives alone, without its bank."""

from __future__ import annotations

from dataclasses import replace

from openood_interneg.detectors import interneg

# The first component alone (Table 3, "Inter SNT"): no bank, hence no memory.
METHOD = replace(
    interneg.METHOD,
    name="interneg_negatives_only",
    title="InterNeg, no bank",
    state="",
    order_dependent=False,
    transductive=False,
    fixed={"bank": "none"},
    without=(
        *("beta", "bank_capacity", "update", "num_tokens", "steps", "lr", "weight_decay"),
        *("templates", "seed", "init", "prefilter"),
    ),
)
