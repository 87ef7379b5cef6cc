"""A daemon whose log nobody reads: it serves, replaces workers and stops as any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds

PROGRAM = Path(__file__).parents[1] / "support" / "stub_daemon.py"


def test_pipe_that_nobody_empties_holds_nothing_up(socket_folder: Path, tmp_path: Path) -> None:
    endpoint = f"ipc://{socket_folder}/s"
    models = [{"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}]
    reading, writing = os.pipe()
    _fill(writing)
    daemon = subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps({"endpoint": endpoint, "models": models})],
        stdout=writing,
        stderr=writing,
    )
    try:
        with RawClient(endpoint) as client:
            assert client.embed(["hello"]).shape == (1, 8)
            client.ask(["crash"])
            client.receive()
            assert client.embed(["hello"]).shape == (1, 8)
        daemon.terminate()
        assert daemon.wait(seconds(15)) == 0
    finally:
        daemon.kill()
        daemon.wait()
        os.close(reading)
        os.close(writing)


def _fill(pipe: int) -> None:
    """To the last byte; who writes to it then waits, for ever."""
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b"\0" * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, True)
