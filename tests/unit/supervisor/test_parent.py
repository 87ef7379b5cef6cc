"""Watching another process: by a descriptor of it where the system has one, by its number where not."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.supervisor.surroundings.parent import ParentWatch
from tests.support.waiting import seconds

_PIDFDS = pytest.param(True, marks=pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfds here"))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


@pytest.fixture(params=[_PIDFDS, False], ids=["pidfd", "number"])
def has_pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return bool(request.param)


def test_process_is_gone_when_it_was_killed(process: subprocess.Popen[bytes], has_pidfds: bool) -> None:
    watch = ParentWatch(is_starter=False, pid=process.pid)
    try:
        assert len(watch.descriptors) == has_pidfds
        assert not watch.is_gone()
        process.kill()
        process.wait(seconds(5))
        assert watch.is_gone()
        assert watch.is_gone(), "and it stays so"
    finally:
        watch.close()
    assert watch.descriptors == ()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="a zombie is known by a pidfd only")
def test_zombie_is_gone(process: subprocess.Popen[bytes]) -> None:
    watch = ParentWatch(is_starter=False, pid=process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    assert watch.is_gone()
    watch.close()


def test_starter_that_lives_is_not_gone() -> None:
    watch = ParentWatch(is_starter=True, pid=None)
    assert not watch.is_gone()
    watch.close()


def test_process_that_is_not_there_is_refused(process: subprocess.Popen[bytes], has_pidfds: bool) -> None:
    process.kill()
    process.wait(seconds(5))
    with pytest.raises(ConfigError, match="does not exist"):
        ParentWatch(is_starter=False, pid=process.pid)


def test_daemon_does_not_end_with_itself() -> None:
    with pytest.raises(ConfigError, match="is the daemon itself"):
        ParentWatch(is_starter=False, pid=os.getpid())


def test_starter_whose_socket_was_torn_away_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as stdin:
        other, _ = server.accept()
        before = os.dup(0)
        os.dup2(stdin.fileno(), 0)
        try:
            watch = ParentWatch(is_starter=True, pid=None)
            assert not watch.is_gone()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()  # with a reset, as when the machine on the other end is gone
            assert watch.is_gone()
            watch.close()
        finally:
            os.dup2(before, 0)
            os.close(before)
