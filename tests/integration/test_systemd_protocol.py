"""A daemon that is started as systemd starts it: reports, the watchdog, a reload, and a socket that was passed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.daemon import LOOKS_OFTEN, end, stub_folder
from tests.support.raw_client import RawClient
from tests.support.service_manager import NotifySocket, listening_socket, notify_socket
from tests.support.waiting import seconds, wait_until

SUPPORT = Path(__file__).parents[1] / "support"
WATCHDOG_SECONDS = 0.2


class Service:
    """One daemon under a manager."""

    def __init__(self, process: subprocess.Popen[bytes], heard: NotifySocket, endpoint: str, log: Path) -> None:
        self.process = process
        self.heard = heard
        self.endpoint = endpoint
        self._log = log

    def log(self) -> str:
        return self._log.read_text(errors="replace") + "".join(f"\n{message}" for message in self.heard.messages)

    def wait_for(self, name: str, text: str) -> None:
        """Until a value of that variable contains the text."""
        wait_until(lambda: any(text in value for value in self.heard.values(name)), 10, describe=self.log)

    def beats(self) -> int:
        return self.heard.counts()["WATCHDOG"]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(seconds(15))


@contextmanager
def service(folder: Path, socket_folder: Path, *, listening: int = 0, **settings: Any) -> Iterator[Service]:
    """Started with a notify socket and a watchdog; ``listening`` is a descriptor to pass to it."""
    endpoint = f"ipc://{socket_folder}/s"
    models = settings.pop("models", None) or [{"name": "stub", "source": f"path:{stub_folder(folder / 'm')}"}]
    arguments = json.dumps({"endpoint": endpoint, "models": models, **settings})
    program = [sys.executable, str(SUPPORT / "stub_daemon.py"), arguments]
    with notify_socket(socket_folder / "n") as heard, (folder / "log").open("wb") as log:
        variables = {"NOTIFY_SOCKET": str(heard.path), "WATCHDOG_USEC": str(int(seconds(WATCHDOG_SECONDS) * 1_000_000))}
        process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "service_manager.py"), str(listening), *program],
            env=os.environ | variables,
            pass_fds=[listening] if listening else [],
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            yield Service(process, heard, endpoint, folder / "log")
        finally:
            process.send_signal(signal.SIGCONT)
            end(process)


def test_daemon_reports_from_ready_to_stopping(socket_folder: Path, tmp_path: Path) -> None:
    with service(tmp_path, socket_folder) as running:
        running.wait_for("READY", "1")
        assert "available: stub" in running.heard.messages[0]["STATUS"], "nothing was asked for, so nothing is loaded"
        with RawClient(running.endpoint) as client:
            client.embed(["hello"])
        running.wait_for("STATUS", "ready: stub; memory: ")
        assert running.stop() == 0
        assert running.heard.values("STOPPING") == ["1"]
        assert running.heard.values("READY") == ["1"]


def test_ready_does_not_wait_for_a_model_that_is_loaded_at_the_start(socket_folder: Path, tmp_path: Path) -> None:
    models = [{"name": "stub", "source": f"path:{stub_folder(tmp_path / 'm')}", "preload": True}]
    with service(tmp_path, socket_folder, models=models) as running:
        running.wait_for("STATUS", "ready: stub")
        first = running.heard.messages[0]
        assert first["READY"] == "1"
        assert "loading: stub" in first["STATUS"]


def test_watchdog_hears_of_a_loop_that_turns_and_nothing_of_one_that_stands_still(
    socket_folder: Path, tmp_path: Path
) -> None:
    with service(tmp_path, socket_folder) as running:
        wait_until(lambda: running.beats() >= 5, describe=running.log)
        running.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(running.process.pid).status() == psutil.STATUS_STOPPED)
        before = running.beats()
        assert running.heard.is_silent(seconds(2.5 * WATCHDOG_SECONDS)), "as long as five beats take"
        running.process.send_signal(signal.SIGCONT)
        wait_until(lambda: running.beats() > before, describe=running.log)


def test_hangup_says_that_a_reload_began_and_ended(socket_folder: Path, tmp_path: Path) -> None:
    with service(tmp_path, socket_folder) as running:
        running.wait_for("READY", "1")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("RELOADING", "1")
        wait_until(lambda: len(running.heard.values("READY")) == 2, describe=running.log)
        said = [name for message in running.heard.messages for name in message if name in {"READY", "RELOADING"}]
        assert said == ["READY", "RELOADING", "READY"]
        assert int(running.heard.values("MONOTONIC_USEC")[0]) > 0


def test_daemon_that_drains_says_so_and_asks_for_time(socket_folder: Path, tmp_path: Path) -> None:
    with service(tmp_path, socket_folder) as running, RawClient(running.endpoint) as client:
        client.embed(["warm"])
        client.ask(["stall 1"])
        wait_until(lambda: client_is_served(running), describe=running.log)
        running.process.terminate()
        running.wait_for("STATUS", "draining: 1 request(s) to finish")
        assert running.heard.counts()["EXTEND_TIMEOUT_USEC"] >= 1
        client.receive()
        assert running.process.wait(seconds(15)) == 0


def client_is_served(running: Service) -> bool:
    with RawClient(running.endpoint) as client:
        return bool(client.status()["open"])


def test_children_have_none_of_what_was_meant_for_the_daemon(socket_folder: Path, tmp_path: Path) -> None:
    with service(tmp_path, socket_folder) as running:
        with RawClient(running.endpoint) as client:
            client.embed(["hello"])
        below = psutil.Process(running.process.pid).children(recursive=True)
        assert len(below) >= 3
        for process in below:
            assert process.environ().keys().isdisjoint({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID"})


def test_client_is_served_at_a_socket_that_was_passed(socket_folder: Path, tmp_path: Path) -> None:
    path = socket_folder / "passed"
    with listening_socket(path) as listening, RawClient(f"ipc://{path}", timeout_seconds=15) as client:
        asked_before = client.ask(["asked before any daemon runs"])
        with service(tmp_path, socket_folder, listening=listening.fileno()) as running:
            answer, _ = client.receive()
            assert answer.id == asked_before
            assert f"endpoint=ipc://{path}" in running.log()
            assert client.hello()["endpoint"] == f"ipc://{path}"
            assert not (socket_folder / "s").exists(), "it listens nowhere else"
            assert client.embed(["hello"]).shape == (1, 8)
        assert path.is_socket(), "it is the manager's: the next daemon gets it too"
        assert not [left.name for left in socket_folder.iterdir() if left.is_socket() and left != path]


def test_next_daemon_serves_at_the_same_passed_socket(socket_folder: Path, tmp_path: Path) -> None:
    path = socket_folder / "passed"
    with listening_socket(path) as listening, RawClient(f"ipc://{path}", timeout_seconds=15) as client:
        for _ in range(2):
            with service(tmp_path, socket_folder, listening=listening.fileno()) as running:
                assert client.hello()["pid"] == running.process.pid


def test_file_of_a_passed_socket_that_somebody_deleted_is_put_back(socket_folder: Path, tmp_path: Path) -> None:
    path = socket_folder / "passed"
    with (
        listening_socket(path) as listening,
        service(tmp_path, socket_folder, listening=listening.fileno(), shorter=LOOKS_OFTEN) as running,
    ):
        running.wait_for("READY", "1")
        path.unlink()
        wait_until(lambda: "file_put_back" in running.log(), 10, describe=running.log)
        with RawClient(f"ipc://{path}") as client:
            assert client.embed(["by the new file"]).shape == (1, 8)
        assert running.stop() == 0
        assert not path.exists(), "that one was the daemon's own"


def test_socket_that_is_of_no_use_ends_the_start_with_a_word(socket_folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, service(tmp_path, socket_folder, listening=file.fileno()) as running:
        assert running.process.wait(seconds(10)) != 0
        assert "passed by the service manager, is no socket" in running.log()


def test_endpoint_that_somebody_set_must_be_that_of_the_passed_socket(socket_folder: Path) -> None:
    serve = [sys.executable, "-m", "embeddaemon", "serve", "--endpoint", f"{socket_folder}/other"]
    with listening_socket(socket_folder / "passed") as listening:
        done = subprocess.run(
            [sys.executable, str(SUPPORT / "service_manager.py"), str(listening.fileno()), *serve],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds(20),
        )
    assert done.returncode == 2
    assert f"listens for the daemon, ipc://{socket_folder}/passed" in done.stderr
