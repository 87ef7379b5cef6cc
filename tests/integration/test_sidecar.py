"""The daemon of one process: when that process ends, however it ends, nothing is left of the daemon within a second."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.daemon import RunningDaemon, is_gone, running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

PROGRAM = Path(__file__).parents[1] / "support" / "stub_daemon.py"
GONE_SECONDS = 1.0


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, and is nobody's parent."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        try:
            yield process
        finally:
            process.kill()


def settings(folder: Path, tmp_path: Path, **more: Any) -> str:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}
    return json.dumps({"endpoint": f"ipc://{folder}/s", "models": [model], **more})


def kill_and_wait(parent: psutil.Process | subprocess.Popen[bytes], left: list[psutil.Process]) -> float:
    """SIGKILL; how long the others outlived it, in seconds."""
    parent.kill()
    killed_at = time.monotonic()
    wait_until(lambda: all(map(is_gone, left)), 10, describe=lambda: left)
    return time.monotonic() - killed_at


# A shell starts the daemon, is its direct parent, and waits for it.
SHELL = '"$@" & echo $! >&2; wait'


@pytest.mark.parametrize("busy", [False, True])
def test_daemon_ends_with_the_killed_process_that_started_it(socket_folder: Path, tmp_path: Path, busy: bool) -> None:
    home = socket_folder / "private"
    argument = settings(home, tmp_path, exit_with_parent=True)
    command = ["/bin/sh", "-c", SHELL, "sh", sys.executable, str(PROGRAM), argument]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as shell:
        try:
            with RawClient(f"ipc://{home}/s") as client:
                client.embed(["warm"])
                below = psutil.Process(shell.pid).children(recursive=True)
                assert len(below) >= 4, "daemon, fork server, template, worker"
                if busy:
                    client.ask(["stall 60"])
                    wait_until(lambda: client_sees_busy(home), 10)
                assert kill_and_wait(shell, below) < seconds(GONE_SECONDS)
        finally:
            shell.kill()
    # Neither socket files, nor the lock, nor the folder that the daemon made.
    assert not home.exists()


def client_sees_busy(home: Path) -> bool:
    with RawClient(f"ipc://{home}/s") as another:
        return bool(another.status()["open"])


def test_daemon_ends_with_a_process_that_is_not_its_parent(socket_folder: Path, tmp_path: Path) -> None:
    with (
        sleeper() as other,
        subprocess.Popen(
            [sys.executable, str(PROGRAM), settings(socket_folder / "private", tmp_path, parent_pid=other.pid)]
        ) as daemon,
    ):
        try:
            with RawClient(f"ipc://{socket_folder}/private/s") as client:
                client.embed(["warm"])
            below = psutil.Process(daemon.pid).children(recursive=True)
            assert kill_and_wait(other, [psutil.Process(daemon.pid), *below]) < seconds(GONE_SECONDS)
            assert daemon.wait(seconds(5)) == 0
        finally:
            daemon.kill()
    assert not list(socket_folder.iterdir())


def test_folder_with_something_else_in_it_stays(socket_folder: Path, tmp_path: Path) -> None:
    (socket_folder / "of-somebody-else").touch()
    with sleeper() as other:
        daemon = RunningDaemon(socket_folder, json.loads(settings(socket_folder, tmp_path, parent_pid=other.pid)))
        try:
            daemon.wait_until_listening()
            other.kill()
            assert daemon.process.wait(seconds(5)) == 0
        finally:
            daemon.process.kill()
            daemon.process.wait()
    assert {path.name for path in socket_folder.iterdir()} == {"of-somebody-else", "log"}


def test_daemon_that_is_stopped_in_order_leaves_its_lock(socket_folder: Path, tmp_path: Path) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}
    with sleeper() as other, running_daemon(socket_folder, models=[model], parent_pid=other.pid) as running:
        assert running.stop() == 0
    assert (socket_folder / "s.lock").exists()


def test_process_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    with sleeper() as other:
        pass
    command = [sys.executable, "-m", "embeddaemon", "serve", "--endpoint", f"{tmp_path}/s", "--parent-pid"]
    done = subprocess.run([*command, str(other.pid)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"process {other.pid}" in done.stderr
    assert "does not exist" in done.stderr


def test_signal_still_drains_a_daemon_that_has_a_parent(socket_folder: Path, tmp_path: Path) -> None:
    model = {"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}"}
    with (
        sleeper() as other,
        running_daemon(socket_folder, models=[model], parent_pid=other.pid) as running,
        running.client() as client,
    ):
        client.embed(["warm"])
        client.ask(["stall 0.3"])
        wait_until(lambda: running.status()["open"], describe=running.output)
        os.kill(running.process.pid, signal.SIGTERM)
        assert type(client.receive()[0]).__name__ == "Vectors"
        assert running.process.wait(seconds(15)) == 0
