"""The watch over what tests leave, and the waiting, are themselves tested: a blind watch would let everything pass."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import zmq

from tests.support import leaks
from tests.support.sockets import short_folder
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_GRACE_SECONDS", 0.0)


@contextmanager
def process_that_waits() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        yield process  # ends with its standard input, which the with statement closes


def test_process_that_is_left_is_named() -> None:
    before = leaks.take_snapshot()
    with process_that_waits() as process:
        assert leaks.leaks_since(before) == [f"process {process.pid}: cat"]
    assert leaks.leaks_since(before) == []


@pytest.mark.skipif(sys.platform != "linux", reason="found by /proc")
def test_process_whose_parent_is_dead_is_named_and_killed() -> None:
    before = leaks.take_snapshot()
    shell = subprocess.run("sleep 600 >/dev/null & echo $!", shell=True, stdout=subprocess.PIPE, text=True, check=True)
    orphan = int(shell.stdout)
    assert leaks.leaks_since(before) == [f"process {orphan}: sleep 600"]
    leaks.kill_processes_since(before)
    assert leaks.leaks_since(before) == []


def test_descendant_of_a_process_from_before_is_not_the_tests() -> None:
    with subprocess.Popen(["sh", "-c", "read line; cat; true"], stdin=subprocess.PIPE, text=True) as shell:
        before = leaks.take_snapshot()
        assert shell.stdin is not None
        shell.stdin.write("go\n")
        shell.stdin.flush()
        wait_until(psutil.Process(shell.pid).children, describe="the shell has started cat")
        assert leaks.leaks_since(before) == []


def test_thread_that_is_left_is_named() -> None:
    before = leaks.take_snapshot()
    finish = threading.Event()
    thread = threading.Thread(target=finish.wait, name="left")
    thread.start()
    assert leaks.leaks_since(before) == ["thread 'left', not a daemon thread"]
    finish.set()
    thread.join()
    assert leaks.leaks_since(before) == []


def test_zmq_context_that_is_left_open_is_named() -> None:
    before = leaks.take_snapshot()
    context = zmq.Context()
    assert [line.startswith("open zmq context") for line in leaks.leaks_since(before)] == [True]
    context.term()
    assert leaks.leaks_since(before) == []


def test_socket_file_that_is_left_fails_and_is_removed() -> None:
    with (
        pytest.raises(AssertionError, match=r"socket files are left: .*/left\.sock"),
        short_folder() as folder,
        socket.socket(socket.AF_UNIX) as bound,
    ):
        bound.bind(str(folder / "left.sock"))
    assert not folder.exists()


def test_waiting_in_vain_shows_the_state() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)not true after .* s: .*\nstate: none"):
        wait_until(lambda: False, 0.01, describe=lambda: "state: none")
