"""What starting a process must not do to the supervisor: raise when descriptors run out, wait for one that is stuck."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from embeddaemon.config.settings import HardLimits
from embeddaemon.supervisor.commands import StartFetcher, StartForkServer, StartWorker
from embeddaemon.supervisor.events import ControlLost, StartFailed
from embeddaemon.supervisor.memory.hard_limits import HardLimiter
from embeddaemon.supervisor.processes import process
from embeddaemon.supervisor.processes.process import Processes


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.setattr(process, "become_subreaper", lambda: None)  # the test's own process is none
    below = Processes("ipc:///tmp/nowhere", 0.5, HardLimiter(HardLimits.OFF, lambda: None))
    yield below
    below.close()


@pytest.mark.parametrize("kind", ["fork server", "fetcher"])
def test_start_without_descriptors_left_fails_and_says_so(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", refuse)
    if kind == "fork server":
        failed = processes.start_fork_server(StartForkServer(1))
    else:
        failed = processes.start_fetcher(StartFetcher(1, "hub:some/model"))
    assert isinstance(failed, StartFailed)
    assert "descriptors" in str(failed.error)


def test_order_to_a_process_that_reads_nothing_does_not_wait_for_it(processes: Processes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    processes._controls[1] = ours
    with theirs:
        orders = (
            StartWorker(child=child, worker=0, incarnation=1, threads=1, template=1, order=None)
            for child in range(2, 100_000)
        )
        assert next(filter(None, map(processes.start_worker, orders))) == ControlLost(1)
