"""What a test may leave behind: nothing. Processes, threads and zmq contexts are compared before and after it.

Socket files are looked after by ``sockets.short_folder``. Processes are found in two ways: as descendants of this one,
and (on Linux) by a variable in their environment, which also finds those whose parent died before them.
"""

import contextlib
import gc
import os
import threading
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import zmq

from tests.support.waiting import wait_until

_MARK = "EMBEDDAEMON_TEST_RUN"
_GRACE_SECONDS = 2.0

_contexts: "weakref.WeakSet[zmq.Context[zmq.Socket[bytes]]]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was alive before a test; a process that descends from one of ours belongs to whoever started that one."""

    pids: frozenset[int]
    """Of the whole machine. Only what is not in here is looked at: a list of pids costs a tenth of a millisecond, the
    environments and parents of all processes cost several, and every test of thousands pays twice."""
    threads: frozenset[threading.Thread]
    contexts: "weakref.WeakSet[zmq.Context[zmq.Socket[bytes]]]"


def watch() -> None:
    """Mark this process's future descendants and note every new zmq context; call once, before the tests."""
    os.environ[_MARK] = uuid.uuid4().hex
    make = zmq.Context.__init__

    def make_and_note(self: "zmq.Context[zmq.Socket[bytes]]", *args: object, **kwargs: object) -> None:
        make(self, *args, **kwargs)  # type: ignore[call-overload]  # handed on as they came
        _contexts.add(self)

    zmq.Context.__init__ = make_and_note  # type: ignore[method-assign]  # zmq has no list of its contexts


def take_snapshot() -> Snapshot:
    """What is alive now."""
    return Snapshot(frozenset(psutil.pids()), frozenset(threading.enumerate()), weakref.WeakSet(_open_contexts()))


def leaks_since(before: Snapshot) -> list[str]:
    """One line for each thing that is alive, was not before, and is still there after a short grace."""
    if _differences(before):
        gc.collect()  # what is only waiting for the collector is not left behind
        with contextlib.suppress(pytest.fail.Exception):
            wait_until(lambda: not _differences(before), _GRACE_SECONDS)
    return _differences(before)


def kill_processes_since(before: Snapshot) -> None:
    """End what a failed test left, so that it is not blamed on the next one."""
    left = _new_processes(before)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(pytest.fail.Exception):
        wait_until(lambda: not any(map(_is_alive, left)), 2.0)


def _differences(before: Snapshot) -> list[str]:
    lines = [f"process {_describe(process)}" for process in _new_processes(before)]
    lines += [
        f"thread {thread.name!r}, not a daemon thread"
        for thread in threading.enumerate()
        if thread not in before.threads and not thread.daemon
    ]
    lines += [f"open zmq context {context!r}" for context in _open_contexts() if context not in before.contexts]
    return lines


def _open_contexts() -> "list[zmq.Context[zmq.Socket[bytes]]]":
    return [context for context in list(_contexts) if not context.closed]


def _new_processes(before: Snapshot) -> list[psutil.Process]:
    found = []
    for pid in psutil.pids():
        # Those that end while we look are none that were left.
        with contextlib.suppress(psutil.NoSuchProcess):
            if pid not in before.pids and _is_left(process := psutil.Process(pid), before):
                found.append(process)
    return found


def _is_left(process: psutil.Process, before: Snapshot) -> bool:
    """Ours, and nobody has started it who was there before."""
    parents = process.parents()
    if not _is_ours(process, parents) or _is_pythons_own(process):
        return False
    return not any(
        parent.pid in before.pids and parent.pid != os.getpid() and _is_ours(parent, parents[number + 1 :])
        for number, parent in enumerate(parents)
    )


def _is_ours(process: psutil.Process, parents: Sequence[psutil.Process]) -> bool:
    """Below this one, or adopted by the first process of the machine or a sub-reaper, with this run's mark."""
    return any(parent.pid == os.getpid() for parent in parents) or _is_marked(process)


def _is_marked(process: psutil.Process) -> bool:
    # Processes of other users have none of our marks; systems without /proc show none.
    with contextlib.suppress(OSError):
        return f"{_MARK}={os.environ[_MARK]}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
    return False


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_pythons_own(process: psutil.Process) -> bool:
    """multiprocessing keeps one process that tracks shared memory until the interpreter ends."""
    with contextlib.suppress(psutil.Error):
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    return False


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE:
            return f"{process.pid}: ended, but nobody has waited for it"
        return f"{process.pid}: {' '.join(process.cmdline()) or process.name()}"
    return f"{process.pid}: ended while we looked"
