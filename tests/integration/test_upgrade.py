"""Another daemon takes over the socket, as a service manager restarts one: clients notice, and lose nothing.

The socket is the manager's and stays; connections break with the old daemon, and who connects waits for the new one.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from embeddaemon import Client, DaemonUnreachable, Expired
from embeddaemon.client._actions import Patience
from tests.support.daemon import end, stub_folder
from tests.support.service_manager import listening_socket
from tests.support.waiting import seconds, wait_until

SUPPORT = Path(__file__).parents[1] / "support"
TEXTS = [f"text number {number}" for number in range(200)]


class Starter:
    """Starts daemons at one socket, one after the other."""

    def __init__(self, listening: socket.socket, folder: Path) -> None:
        self._listening = listening.fileno()
        self._model = {"name": "stub", "source": f"path:{stub_folder(folder / 'model')}"}
        self._log = folder / "log"
        self.endpoint = f"ipc://{listening.getsockname()}"

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Ended at the end of the block, if it was not before."""
        arguments = json.dumps({"endpoint": "ipc:///not/this/one", "models": [self._model]})
        program = [sys.executable, str(SUPPORT / "stub_daemon.py"), arguments]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(SUPPORT / "service_manager.py"), str(self._listening), *program],
                pass_fds=[self._listening],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            yield process
        finally:
            end(process)

    def output(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture
def starter(socket_folder: Path, tmp_path: Path) -> Iterator[Starter]:
    with listening_socket(socket_folder / "passed") as listening:
        yield Starter(listening, tmp_path)


class Asking:
    """Threads that ask until told to stop, each with its own client all the time; what went wrong is kept."""

    def __init__(self, endpoint: str, threads: int) -> None:
        self.answers = 0
        self.failures: list[BaseException] = []
        self._is_over = threading.Event()
        self._endpoint = endpoint
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        patience = Patience(reconnect=seconds(10), hello=seconds(10), silence=0.2)
        first: np.ndarray | None = None
        try:
            with Client(self._endpoint, timeout=seconds(30), patience=patience) as client:
                while not self._is_over.is_set():
                    vectors = client.embed(TEXTS)
                    first = vectors if first is None else first
                    np.testing.assert_allclose(vectors, first, atol=1e-6)
                    self.answers += 1
        except BaseException as error:  # noqa: BLE001 - a thread's boundary
            self.failures.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """While somebody is there to answer."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_restart_under_load_fails_no_call_of_clients_that_go_on_asking(starter: Starter, how: signal.Signals) -> None:
    with Asking(starter.endpoint, threads=3) as asking:

        def answers_more_than(count: int) -> Callable[[], bool]:
            return lambda: asking.answers > count or bool(asking.failures)

        with starter.daemon() as process:
            wait_until(answers_more_than(2), 20, describe=starter.output)
            process.send_signal(how)
            process.wait(seconds(15))
        with starter.daemon():
            wait_until(answers_more_than(asking.answers + 3), 20, describe=starter.output)
            asking.stop()
    assert not asking.failures, asking.failures


def test_calls_end_in_time_with_a_clear_error_where_no_daemon_comes_and_the_same_client_works_when_one_does(
    starter: Starter,
) -> None:
    with Client(starter.endpoint, timeout=seconds(20), patience=Patience(silence=0.1)) as client:
        with starter.daemon() as process:
            expected = client.embed("a text")
            errors: list[BaseException] = []

            def ask() -> None:
                try:
                    client.embed("stall 60", timeout=seconds(3))
                except (DaemonUnreachable, Expired) as error:
                    errors.append(error)

            began = time.monotonic()
            asking = threading.Thread(target=ask)
            asking.start()
            wait_until(lambda: client.status()["open"] == 1, 10, describe=starter.output)
            process.kill()
            process.wait()
            asking.join()
        assert time.monotonic() - began < seconds(3) + 1
        (error,) = errors
        assert starter.endpoint in str(error)
        with pytest.raises((DaemonUnreachable, Expired), match=starter.endpoint):
            client.embed("another text", timeout=0.5)
        with starter.daemon():
            np.testing.assert_allclose(client.embed("a text", timeout=seconds(20)), expected, atol=1e-6)
