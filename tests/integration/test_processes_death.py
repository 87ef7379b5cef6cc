"""kill -9 of the supervisor: no process of ours is left after a second, also with a worker that holds the GIL."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import HERE, wait_for_death
from tests.support.waiting import seconds


def kill_one_supervisor(socket_folder: Path, model_folder: Path) -> None:
    model_folder.mkdir()
    command = [sys.executable, str(HERE / "doomed_supervisor.py"), str(socket_folder), str(model_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        try:
            assert supervisor.stdout is not None
            pids = json.loads(supervisor.stdout.readline())
        finally:
            supervisor.kill()
        supervisor.wait(seconds(5))
        assert len(pids) == 5
        wait_for_death(pids, 1.0)
    (socket_folder / "link").unlink()


@pytest.mark.slow
def test_nothing_outlives_a_killed_supervisor(socket_folder: Path, tmp_path: Path) -> None:
    for trial in range(3):
        kill_one_supervisor(socket_folder, tmp_path / str(trial))


@pytest.mark.soak
def test_nothing_outlives_a_killed_supervisor_fifty_times(socket_folder: Path, tmp_path: Path) -> None:
    for trial in range(50):
        kill_one_supervisor(socket_folder, tmp_path / str(trial))
