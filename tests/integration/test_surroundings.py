"""What a daemon is started with and what happens around it: descriptors, signals, paths, a folder that changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embeddaemon.protocol.endpoints import MAX_SOCKET_PATH_BYTES
from embeddaemon.protocol.messages import Document, Hello, Unload, Vectors
from tests.support.daemon import LOOKS_OFTEN, RunningDaemon, end, is_gone, running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

PROGRAM = Path(__file__).parents[1] / "support" / "stub_daemon.py"
REPORTS_SOON = {"supervisor.housekeeping.REPORT_SECONDS": seconds(0.5)}
"""For ``shorter``: who has ended and is not reported is missed soon."""


def model(folder: Path, **options: Any) -> dict[str, Any]:
    return {"name": "stub", "source": f"path:{folder}", **options}


@contextmanager
def started(redirections: str, endpoint: str, folder: Path, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that a shell started with these redirections."""
    arguments = json.dumps({"endpoint": endpoint, "models": [model(stub_folder(folder))], **settings})
    command = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, str(PROGRAM), arguments]
    daemon = subprocess.Popen(command)
    try:
        yield daemon
    finally:
        end(daemon)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_daemon_serves_without_the_standard_descriptors(socket_folder: Path, tmp_path: Path, closed: str) -> None:
    endpoint = f"ipc://{socket_folder}/s"
    with started(closed, endpoint, tmp_path / "m") as daemon, RawClient(endpoint) as client:
        assert client.embed(["hello"]).shape == (1, 8)
        daemon.terminate()
        assert daemon.wait(seconds(15)) == 0


def test_command_serves_without_standard_error(socket_folder: Path, tmp_path: Path) -> None:
    endpoint, folder = f"ipc://{socket_folder}/s", stub_folder(tmp_path / "m")
    program = [sys.executable, "-m", "embeddaemon", "serve", "--endpoint", endpoint, "--model", f"stub={folder}"]
    with subprocess.Popen(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *program]) as daemon:
        try:
            wait_until((socket_folder / "s").exists, 20)
            with RawClient(endpoint) as client:
                assert client.hello()["default_model"] == "stub"
        finally:
            daemon.terminate()
        assert daemon.wait(seconds(15)) == 0


@pytest.mark.parametrize("stdin", ["</dev/null", "0<&-"])
def test_stdin_that_is_nobodys_end_does_not_stop_a_daemon_that_ends_with_its_parent(
    socket_folder: Path, tmp_path: Path, stdin: str
) -> None:
    endpoint = f"ipc://{socket_folder}/s"
    redirections = f"{stdin} 2>{tmp_path}/log"
    with started(redirections, endpoint, tmp_path / "m", exit_with_parent=True), RawClient(endpoint) as client:
        for _ in range(3):
            assert client.embed(["hello"]).shape == (1, 8)
        assert "draining" not in (tmp_path / "log").read_text()


def test_end_of_stdin_stops_a_daemon_that_ends_with_its_parent(socket_folder: Path, tmp_path: Path) -> None:
    endpoint = f"ipc://{socket_folder}/s"
    settings = {"endpoint": endpoint, "models": [model(stub_folder(tmp_path / "m"))], "exit_with_parent": True}
    with subprocess.Popen([sys.executable, str(PROGRAM), json.dumps(settings)], stdin=subprocess.PIPE) as daemon:
        with RawClient(endpoint) as client:
            client.embed(["hello"])
        assert daemon.stdin is not None
        daemon.stdin.close()
        assert daemon.wait(seconds(5)) == 0


def test_hangup_ends_nothing_where_no_configuration_can_be_read_again(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(stub_folder(tmp_path / "m"))]) as running:
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration_wrong" in running.output(), describe=running.output)
        with running.client() as client:
            assert client.embed(["hello"]).shape == (1, 8)


@pytest.mark.parametrize("beyond", [0, 1])
def test_path_that_is_too_long_for_the_workers_socket_is_refused_before_anything_is_made(
    socket_folder: Path, tmp_path: Path, beyond: int
) -> None:
    room = MAX_SOCKET_PATH_BYTES - len(".w") + beyond
    path = socket_folder / ("s" * (room - len(os.fsencode(socket_folder)) - 1))
    with started(f"2>{tmp_path}/log", f"ipc://{path}", tmp_path / "m") as daemon:
        if not beyond:
            with RawClient(f"ipc://{path}") as client:
                assert client.embed(["hello"]).shape == (1, 8)
            return
        assert daemon.wait(seconds(10)) != 0
        assert "shorter" in (tmp_path / "log").read_text()
        assert not list(socket_folder.iterdir())


def test_start_with_too_few_descriptors_says_what_to_raise_before_anything_is_made(
    socket_folder: Path, tmp_path: Path
) -> None:
    settings = {"endpoint": f"ipc://{socket_folder}/s", "models": [model(stub_folder(tmp_path / "m"))]}
    command = ["/bin/sh", "-c", 'ulimit -n 24; exec "$@"', "sh", sys.executable, str(PROGRAM), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(20))
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "the daemon may have 24 files and sockets open" in last
    assert "raise `ulimit -n`" in last
    assert not list(socket_folder.iterdir())


def test_start_that_fails_after_the_sockets_were_made_takes_them_away(socket_folder: Path, tmp_path: Path) -> None:
    (socket_folder / "s.w").mkdir()  # where the workers' socket would be
    with started(f"2>{tmp_path}/log", f"ipc://{socket_folder}/s", tmp_path / "m") as daemon:
        assert daemon.wait(seconds(20)) != 0
    assert "the workers' socket" in (tmp_path / "log").read_text()
    assert sorted(path.name for path in socket_folder.iterdir()) == ["s.lock", "s.w"]


def test_model_folder_that_changed_is_read_again_by_the_next_load(socket_folder: Path, tmp_path: Path) -> None:
    folder = stub_folder(tmp_path / "m")
    with running_daemon(socket_folder, models=[model(folder)]) as running, running.client() as client:
        stub_folder(folder, dim=4)
        assert client.embed(["changed since the start"]).shape == (1, 4)
        client.unload("stub")
        stub_folder(folder, dim=16)
        assert client.embed(["changed"]).shape == (1, 16)
        client.unload("stub")
        shutil.rmtree(folder)
        assert client.embed_error(["deleted"]).code == "model_not_found"
        stub_folder(folder)
        assert isinstance(client.load("stub"), Document)
        assert client.embed(["back again"]).shape == (1, 8)


@pytest.mark.slow
def test_template_that_was_stopped_for_ever_is_replaced(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    settings: dict[str, Any] = {"silent_after_seconds": seconds(2), "shorter": REPORTS_SOON}
    with running_daemon(socket_folder, models=models, **settings) as running, running.client() as client:
        client.embed(["warm"])
        stopped = running.named("ed-template")[0]
        stopped.suspend()
        running.named("ed-worker")[0].kill()
        client.ask(["hello"], deadline_ms=60_000)
        assert isinstance(client.receive(40)[0], Vectors), running.output()
        assert is_gone(stopped)


@pytest.mark.slow
def test_model_whose_template_was_stopped_for_ever_can_be_unloaded(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    settings: dict[str, Any] = {"drain_seconds": 0.5, "shorter": REPORTS_SOON}
    with running_daemon(socket_folder, models=models, **settings) as running, running.client() as client:
        client.embed(["warm"])
        running.named("ed-template")[0].suspend()
        client.send(Unload(id=client.next_id(), model="stub", deadline_ms=25_000))
        answer, _ = client.receive(30)
        assert isinstance(answer, Document), (answer, running.output())


def test_files_that_somebody_deleted_are_put_back(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    with running_daemon(socket_folder, models=models, shorter=LOOKS_OFTEN) as running, running.client() as client:
        client.embed(["connected before"])
        for file in ("s", "s.w", "s.lock"):
            (socket_folder / file).unlink()
        wait_until(lambda: running.output().count("file_put_back") == 3, 10, describe=running.output)
        running.named("ed-worker")[0].kill()
        assert client.embed(["by a worker that came after"]).shape == (1, 8)
        with running.client() as newcomer:
            assert newcomer.embed(["a client that came after"]).shape == (1, 8)
        second = RunningDaemon(socket_folder, {"models": models})
        assert second.process.wait(seconds(10)) != 0


def test_daemon_whose_place_was_taken_by_another_stops_and_leaves_it_alone(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    first = RunningDaemon(socket_folder, {"models": models, "shorter": LOOKS_OFTEN})
    try:
        with first.client() as client:
            client.hello()  # then all its files are there
        first.process.send_signal(signal.SIGSTOP)  # or it puts back what is gone before the other one comes
        for file in ("s", "s.w", "s.lock"):
            (socket_folder / file).unlink()
        with running_daemon(socket_folder, models=models) as second:
            first.process.send_signal(signal.SIGCONT)
            assert first.process.wait(seconds(15)) == 0
            with second.client() as client:
                assert client.hello()["pid"] == second.process.pid
                assert client.embed(["hello"]).shape == (1, 8)
    finally:
        first.process.kill()
        first.process.wait()


def test_client_that_left_thousands_of_requests_behind_costs_few_lines_of_the_log(
    socket_folder: Path, tmp_path: Path
) -> None:
    models = [model(stub_folder(tmp_path / "m"))]
    with running_daemon(socket_folder, models=models) as running, running.client() as client:
        client.embed(["warm"])
        with running.client() as vanishing:
            for _ in range(400):
                vanishing.ask(["nobody waits for this", "stall 0.001"])
            vanishing.send(Hello(id=vanishing.next_id()))
            while not isinstance(vanishing.receive()[0], Document):
                continue  # some were answered before: once HELLO is, all have arrived
        wait_until(lambda: client.status()["open"] == 0, describe=running.output)
        assert running.output().count("not_delivered") < 10
        assert running.output().count("client_gone") == 1
