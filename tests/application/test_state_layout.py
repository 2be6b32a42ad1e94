"""What lies in a saved state: a state of today is read by every later version.

A test that fails here means that nobody's saved detector can be loaded any more. If that is meant,
`state.VERSION` grows by one, these values follow, and CHANGELOG.md says so. If it is not, a name or
a dtype changed by accident: change it back.
"""

import json

import pytest
from drawn_world import CLASSES, OPTIONS, miniature, stream_files, world

from openood_interneg import OODDetector
from openood_interneg.data.store import read_tensors

HEADER = {"format": "openood-interneg state", "version": 3}
FLOAT, DOUBLE, WHOLE = "torch.float32", "torch.float64", "torch.int64"
SPACE = {
    "calibration": FLOAT,
    **dict.fromkeys(("base", "image_base", "labels", "negatives", "proxies"), FLOAT),
    "proxy_keys": WHOLE,
    "meta": "torch.uint8",
}
TENSORS = {
    "interneg": {
        "memory.bank.deviation": FLOAT,
        "memory.bank.features": FLOAT,
        "memory.bank.keys": WHOLE,
        "memory.bank.offered": WHOLE,
        "memory.inverted": WHOLE,
        "memory.seen": WHOLE,
    },
    "rationeg": {
        "memory.excess.counts": DOUBLE,
        "memory.excess.density": DOUBLE,
        "memory.excess.number": WHOLE,
        "memory.memory.ids": WHOLE,
        "memory.memory.mass": DOUBLE,
        "memory.memory.pending": DOUBLE,
        "memory.memory.remembered": WHOLE,
        "memory.memory.rows": FLOAT,
        "memory.memory.shot_evidence": DOUBLE,
        "memory.memory.weights": DOUBLE,
        "shot_labels": WHOLE,
        "shots": FLOAT,
    },
}
META = {
    "backbone": "name precision pretrained source weights",
    "digests": "corpus id_images labels negatives proxy_images",
    "preprocess": "interpolation mean resize size std variant",
    "protections": "admissions diversity id_guard max_age",
    "random": "draws key seed",
    "reading": "bits exif max_aspect max_bytes max_pixels",
    "stream": "begun failed names note position",
    "threshold": "alpha fixed given mode tpr",
}


@pytest.mark.parametrize("method", TENSORS)
def test_the_layout_of_a_state_stays(method, tmp_path):
    places = {"corpus": str(world() / "words.txt"), "cache": world() / "store"}
    detector = OODDetector(miniature(), method=method, **places, **OPTIONS)
    detector.fit(CLASSES, world() / "id").score(stream_files()[:6])
    detector.save(tmp_path / "state.safetensors")
    tensors, header = read_tensors(tmp_path / "state.safetensors")
    assert header == HEADER
    assert {name: str(t.dtype) for name, t in tensors.items()} == SPACE | TENSORS[method]
    meta = json.loads(bytes(tensors["meta"].tolist()))
    assert {name: " ".join(sorted(meta[name])) for name in META} == META
    values = {"method", "batch_size", "class_names", "logit_scale", "negative_words", "settings"}
    assert set(meta) == set(META) | values and meta["method"] == method
