"""python examples/serve.py detector.safetensors [--learn]: image bytes in, JSON out"""

import sys
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, HTTPException, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_asgi_app

from openood_interneg import InternegError, OODDetector
from openood_interneg.application.state import claimed


def service(detector, state=None):  # with a state it may learn, and is saved there at the end
    @asynccontextmanager
    async def life(app):
        yield
        if state:
            detector.save(state)

    async def image(request: Request):
        if int(request.headers.get("content-length", sys.maxsize)) > detector.limits.max_bytes:
            raise HTTPException(413, f"the limit is {detector.limits.max_bytes} bytes")
        return await request.body()

    app, metrics = FastAPI(lifespan=life), CollectorRegistry()
    app.mount("/metrics", make_asgi_app(metrics))
    bounds = [i / 20 for i in range(21)]
    scores = Histogram("interneg_score", "high = ID", buckets=bounds, registry=metrics)
    unknown = Counter("interneg_unknown", "images of no class", registry=metrics)
    alarms = Gauge("interneg_false_alarm_share", "of the calibration images", registry=metrics)
    alarms.set_function(detector.false_alarms)
    memory = Gauge("interneg_memory_bytes", "of what was learned", registry=metrics)
    memory.set_function(lambda: detector.memory_bytes)

    @app.post("/score")
    def score(data: bytes = Depends(image), update: bool = False):
        if update and not state:
            raise HTTPException(403, "this service does not learn; start it with --learn")
        try:
            (said,) = detector.predict([data], update=update)
        except InternegError as error:
            raise HTTPException(422, str(error)) from error
        scores.observe(said.score)
        unknown.inc(said.name == "unknown")
        return {"prediction": said.name, "score": said.score} | vars(said)

    return app


if __name__ == "__main__":
    import uvicorn

    path, learn = sys.argv[1], "--learn" in sys.argv[2:]
    with claimed(path if learn else None):  # one writer, of all processes
        detector = OODDetector.load(path, threads="arrival")  # one update after the other
        if not detector.calibrated:
            sys.exit(f"{path} has no calibration images: calibrate, and save it again")
        uvicorn.run(service(detector, path if learn else None))
