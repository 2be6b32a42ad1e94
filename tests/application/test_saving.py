"""A detector that is saved and loaded goes on; one that differs is refused."""

import numpy as np
import pytest
from drawn_world import CLASSES, fitted, miniature, plain, stream_files, world

from openood_interneg.application.detector import InterNegDetector
from openood_interneg.application.state import StateError, read_state, write_state
from openood_interneg.detectors import prefilter


def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(tmp_path):
    detector = fitted()
    detector.score(stream_files()[:20])
    detector.save(tmp_path / "a.safetensors")
    wanted = detector.score(stream_files()[20:])
    for other in (
        InterNegDetector.load(tmp_path / "a.safetensors"),
        InterNegDetector.load(tmp_path / "a.safetensors", miniature()),
        fitted(gamma=None).load(tmp_path / "a.safetensors"),
        plain().load(tmp_path / "a.safetensors", class_names=CLASSES, id_images=world() / "id"),
    ):
        assert other.gamma == 0.5 and other.position == 20
        assert other.class_names == detector.class_names
        np.testing.assert_array_equal(other.score(stream_files()[20:]), wanted)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: fitted(beta=0.2), "beta: 0.35 in the state, 0.2 here"),
        (lambda: fitted(seed=1), "seed: 0 in the state, 1 here"),
        (lambda: fitted(num_negatives=5), "num_negatives: 20.*negatives digest"),
        (lambda: fitted(batch_size=8), "batch_size: 32 in the state, 8 here"),
        (lambda: fitted(preprocess="openood_vlm"), "preprocess"),
        (lambda: fitted(protections={"diversity": 0.9}), "protection diversity"),
        (
            lambda: plain().fit(CLASSES[:3], {k: world() / "id" / k for k in CLASSES[:3]}),
            "class names: 4 names in the state, 3 names here",
        ),
    ],
)
def test_a_foreign_state_is_refused_with_what_differs(tmp_path, other, named):
    fitted().save(tmp_path / "a.safetensors")
    with pytest.raises(StateError, match=named):
        other().load(tmp_path / "a.safetensors")


def test_a_state_of_other_weights_is_refused(tmp_path):
    import copy

    fitted().save(tmp_path / "a.safetensors")
    changed = copy.copy(miniature())
    changed.__dict__["digest"] = "another"
    with pytest.raises(StateError, match="backbone weights: .* in the state, another here"):
        InterNegDetector.load(tmp_path / "a.safetensors", changed)


@pytest.mark.slow
@pytest.mark.parametrize("update", ["batch", "sample"])
def test_the_options_of_inversion_go_on_after_loading(tmp_path, monkeypatch, update):
    """While the pre-filter learns and after it."""
    monkeypatch.setattr(prefilter, "LEARNED_FROM", 12)
    monkeypatch.setattr(prefilter, "FEWEST", 1)
    options = {"prefilter": True, "init": "words", "update": update, "beta": 0.99}
    files = stream_files()
    detector = fitted(**options)
    whole = np.concatenate([detector.score(files[i : i + 8]) for i in range(0, len(files), 8)])
    memory = detector._detector.state_dict()
    assert int(memory["prefilter.looked"]) == 12 and int(memory["skipped"]) > 0
    for cut in (8, 24):
        first = fitted(**options)
        for i in range(0, cut, 8):
            first.score(files[i : i + 8])
        first.save(tmp_path / "a.safetensors")
        again = InterNegDetector.load(tmp_path / "a.safetensors", miniature())
        assert again.settings.init == "words" and again.settings.prefilter
        rest = [again.score(files[i : i + 8]) for i in range(cut, len(files), 8)]
        np.testing.assert_array_equal(np.concatenate(rest), whole[cut:])


def test_a_state_from_before_a_setting_was_there_goes_on(tmp_path):
    fitted().save(tmp_path / "new.safetensors")
    tensors, meta = read_state(tmp_path / "new.safetensors")
    for name in ("prefilter", "init"):
        del meta["settings"][name]
    write_state(tmp_path / "old.safetensors", tensors, meta)
    wanted = fitted().score(stream_files())
    np.testing.assert_array_equal(
        fitted().load(tmp_path / "old.safetensors").score(stream_files()), wanted
    )
    with pytest.raises(StateError, match="prefilter: False in the state, True here"):
        fitted(prefilter=True).load(tmp_path / "old.safetensors")
