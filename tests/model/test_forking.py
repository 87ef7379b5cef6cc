"""What a template relies on: a load starts no thread, and a fork of the loaded process computes the same vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.waiting import seconds

_TEMPLATE = """
import json, os, pathlib
from embeddaemon.workers.engines import torch_engine
torch_engine.preload()

def threads():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Threads:")))

found = {"imported": threads()}
import torch
torch.set_num_threads(1)
from tests.support.embedding import bundled
embedder = bundled("auto")
before = embedder.embed(["the red planet", "a"])
found["loaded"] = threads()
read, write = os.pipe()
if os.fork() == 0:
    embedder.model.use_threads(2)
    rows = embedder.embed(["the red planet", "a"])
    os.write(write, json.dumps([threads(), float(abs(rows - before).max())]).encode())
    os._exit(0)
found["child"], found["difference"] = json.loads(os.read(read, 100))
os.wait()
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.slow
def test_load_starts_no_thread_and_its_fork_computes_the_same() -> None:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", _TEMPLATE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds(100),
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["imported"], found["loaded"]) == (1, 1)
    assert found["difference"] < 1e-2
