"""The fork server with the stub engine, a program: ``stub_fork_server.py --control-fd N --parent-pid P``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from embeddaemon.workers.preload import run_fork_server
from tests.support.stub_engine import PROGRAM

if __name__ == "__main__":
    sys.exit(run_fork_server(sys.argv[1:], PROGRAM))
