"""examples/serve.py: bytes in, JSON out; who may teach it, and what it reports of itself."""

import runpy
import sys
from types import SimpleNamespace

import pytest
from drawn_world import CLASSES, ROOT, example, in_threads, miniature, plain, stream_files, world

from openood_interneg import OODDetector
from openood_interneg.application.state import StateError, claimed

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "detector.safetensors"
    detector = plain().fit(CLASSES, world() / "id", calibrate=False)
    with pytest.warns(UserWarning, match="image proxies"):
        detector.calibrate(world() / "id")
    detector.save(path)
    return path


def load(path) -> OODDetector:
    return OODDetector.load(path, miniature(), threads="arrival")


@pytest.fixture
def detector(saved):
    return load(saved)


def post(client, content, **query):
    return client.post("/score", content=content, params=query)


def metrics(client) -> dict[str, float]:
    text = client.get("/metrics").text
    families = text_string_to_metric_families(text)
    return {s.name: s.value for family in families for s in family.samples if "le" not in s.labels}


def test_bytes_come_back_as_what_the_detector_says(detector):
    expected = detector.predict(stream_files()[:12], update=False)
    with TestClient(example("serve").service(detector)) as client:
        for path, said in zip(stream_files()[:12], expected, strict=True):
            answer = post(client, path.read_bytes())
            assert answer.status_code == 200
            told = answer.json()
            assert told["prediction"] == said.name and told["label"] == said.label
            assert told["score"] == pytest.approx(said.score, abs=1e-5)
            assert told["gamma"] == pytest.approx(said.gamma) and told["p"] is None
        told = metrics(client)
    assert detector.position == detector.bank_size == 0  # it did not learn
    assert told["interneg_score_count"] == 12
    assert told["interneg_unknown_total"] == sum(said.name == "unknown" for said in expected)
    assert told["interneg_false_alarm_share"] == detector.false_alarms()
    assert told["interneg_memory_bytes"] == detector.memory_bytes


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(detector, content):
    with TestClient(example("serve").service(detector)) as client:
        answer = post(client, content)
        assert answer.status_code == 422 and "detail" in answer.json()
        half = stream_files()[0].read_bytes()
        assert post(client, half[: len(half) // 2]).status_code == 422
        assert metrics(client)["interneg_score_count"] == 0


def test_too_many_bytes_are_refused_before_they_are_read(detector):
    with TestClient(example("serve").service(detector)) as client:
        size = {"content-length": str(detector.limits.max_bytes + 1)}
        assert client.post("/score", content=b"x", headers=size).status_code == 413
        assert client.post("/score", content=iter([b"of unknown length"])).status_code == 413


def test_only_a_service_with_a_state_learns_and_saves_it(detector, tmp_path):
    serve, files = example("serve"), stream_files()
    with TestClient(serve.service(detector)) as client:
        assert post(client, files[0].read_bytes(), update=True).status_code == 403
    state = tmp_path / "state.safetensors"
    with TestClient(serve.service(detector, state)) as client:
        assert post(client, files[0].read_bytes()).status_code == 200
        assert detector.position == 0
        answers = []
        jobs = [
            lambda i=i: [
                answers.append(post(client, file.read_bytes(), update=True).status_code)
                for file in files[i::3]
            ]
            for i in range(3)
        ]
        assert in_threads(jobs) == []
        assert answers == [200] * 48 and detector.position == 48 and detector.bank_size > 0
        assert metrics(client)["interneg_memory_bytes"] == detector.memory_bytes > 0
    again = load(state)
    assert again.position == 48 and again.bank_size == detector.bank_size


def test_from_the_shell_one_process_learns_at_a_time(saved, monkeypatch):
    served = []
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace(run=served.append))
    script = str(ROOT / "examples" / "serve.py")
    with claimed(saved):
        monkeypatch.setattr(sys, "argv", [script, str(saved), "--learn"])
        with pytest.raises(StateError, match="in use by another run"):
            runpy.run_path(script, run_name="__main__")
        monkeypatch.setattr(sys, "argv", [script, str(saved)])
        runpy.run_path(script, run_name="__main__")  # it only reads
    (app,) = served
    with TestClient(app) as client:
        assert post(client, stream_files()[0].read_bytes()).status_code == 200
        assert post(client, stream_files()[0].read_bytes(), update=True).status_code == 403


def test_a_detector_without_calibration_images_is_refused(saved, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace(run=lambda app: None))
    path = tmp_path / "detector.safetensors"
    detector = OODDetector("miniature", "mcm", gamma=0.5).fit(CLASSES)
    detector.save(path)
    script = str(ROOT / "examples" / "serve.py")
    monkeypatch.setattr(sys, "argv", [script, str(path)])
    with pytest.raises(SystemExit, match="calibrate"):
        runpy.run_path(script, run_name="__main__")
