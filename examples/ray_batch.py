"""python examples/ray_batch.py detector.safetensors IN OUT: one detector per actor of Ray Data

IN is a folder of images, or Parquet with a column `path` (or `bytes`); OUT is a folder of Parquet.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home

import ray

from openood_interneg import OODDetector

ACTORS, GPUS_EACH = 2, 0


class Predictor:
    def __init__(self, state):
        self.detector = OODDetector.load(state, device="auto" if GPUS_EACH else "cpu")

    def __call__(self, rows):  # a pandas frame; unreadable images get empty cells
        images = rows["path" if "path" in rows else "bytes"]
        said = self.detector.predict(list(images), update=False, on_error="skip")
        for name in ("label", "score"):
            rows[name] = [getattr(one, name, None) for one in said]
        rows["prediction"] = [one and one.name for one in said]
        return rows


def main(state, source, out):
    if Path(out).exists():
        sys.exit(f"{out} is there already; give another folder")
    source, parquet = Path(source).absolute(), sorted(Path(source).rglob("*.parquet"))
    if source.suffix == ".parquet" or parquet:
        rows = ray.data.read_parquet(str(source))
    else:
        files = [file for file in sorted(source.rglob("*")) if file.is_file()]
        rows = ray.data.from_items([{"path": str(file)} for file in files])
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=ACTORS)
    options = {"compute": pool, "num_gpus": GPUS_EACH, "fn_constructor_args": [state]}
    scored = rows.map_batches(Predictor, batch_size=256, batch_format="pandas", **options)
    scored.write_parquet(f"{out}.part")
    os.replace(f"{out}.part", out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
