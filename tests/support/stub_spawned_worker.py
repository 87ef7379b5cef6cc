"""A spawned worker with the stub engine, a program: ``stub_spawned_worker.py --spawn --parent-pid P``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from embeddaemon.workers.main import spawned_worker
from tests.support.stub_engine import PROGRAM

if __name__ == "__main__":
    spawned_worker(sys.argv[1:], PROGRAM)
