"""A miniature benchmark that needs no download: images drawn by the program.

`world` draws, `benchmark` writes to disk. The small CLIP that load_backbone("miniature") gives was
trained on such drawings by tools/train_miniature.py.
"""

from openood_interneg.demo.benchmark import write_benchmark
from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, NEAR_KINDS, draw, image_rng

__all__ = ["FAR_KINDS", "ID_KINDS", "NEAR_KINDS", "draw", "image_rng", "write_benchmark"]
