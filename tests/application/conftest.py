"""A server that runs `interneg` in forks of itself: fast, and free to be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drawn_world import world

# Imports once, then runs every command in a fork of its own, which the test may kill.
SERVER = """
import json, os, signal, sys, time
import torch, torchvision, pydantic.type_adapter
from openood_interneg.cli import app
import openood_interneg.application.detector
from openood_interneg.vlm.factory import load_backbone
load_backbone("miniature").encode_text(["a"])
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in ((0, job["stdin"]), (1, job["stdout"]), (2, job["stderr"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, flags), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 99
        try:
            app(job["args"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    begin = time.monotonic()
    sent = job["signal"] is None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if not sent and time.monotonic() - begin > job["after"]:
            reached = job["until"]
            if reached is None or (os.path.exists(reached) and os.path.getsize(reached)):
                os.kill(child, job["signal"])
                sent = True
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps([code, time.monotonic() - begin]), file=answers, flush=True)
"""


class Server:
    def __init__(self, folder: Path):
        self.folder = folder
        root = Path(__file__).resolve().parents[2]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __call__(self, *args, kill=None, after=0.0, until=None, stdin=os.devnull):
        """(exit code, seconds, stdout, stderr) of `interneg score ARGS`."""
        out, err = self.folder / "stdout", self.folder / "stderr"
        options = [
            *("--classes", world() / "classes.txt", "--id-images", world() / "id"),
            *(
                "--method",
                "interneg",
                "--backbone",
                "miniature",
                "--corpus",
                world() / "words.txt",
                "--no-cache",
            ),
            *("--num-negatives", 20, "--images-per-class", 6, "--batch-size", 4, "--steps", 2),
        ]
        job = {
            "args": ["score", *map(str, options), *map(str, args)],
            "signal": kill,
            "after": after,
            "until": None if until is None else str(until),
            "stdin": str(stdin),
            "stdout": str(out),
            "stderr": str(err),
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        return code, seconds, out.read_text(), err.read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.stdin.close()
    server.process.wait(timeout=30)
