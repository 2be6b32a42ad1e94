"""A miniature benchmark that needs no download: images drawn by the program, and a small CLIP.

`world` draws, `benchmark` writes to disk; the CLIP beside them was trained on such drawings by
tools/train_miniature.py.
"""
