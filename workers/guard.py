"""What every process of ours does first: dies with its parent, goes before it when memory ends, owns its signals.

Must run in the process's main thread. The chain is supervisor → fork server → template → worker: each link is
PR_SET_PDEATHSIG, which no held GIL can delay. Where there is no prctl (macOS) the lifeline does it: end-of-file on the
control socket, or on a spawned worker's stdin (``exit_at_end_of_file``).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import select
import signal
import sys
import threading
from enum import Enum
from pathlib import Path

from embeddaemon.protocol.control import EXIT_ORPHANED
from embeddaemon.telemetry.logs import fields

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_FAULTS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
    signal.SIGSYS,
)
"""What a process ends by of its own doing."""
_OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
_OOM_SCORE_MAX = 1000


class Role(Enum):
    """What a process is; the value is its name in ``ps``, at most 15 bytes."""

    FORK_SERVER = "ed-fork-server"
    TEMPLATE = "ed-template"
    FETCHER = "ed-fetcher"
    WORKER = "ed-worker"


_OOM_SCORES = {Role.FORK_SERVER: 200, Role.TEMPLATE: 300, Role.FETCHER: 400, Role.WORKER: 500}
"""Above the supervisor's: the kernel takes workers first, then templates, and the parent of them all last."""


def enter(role: Role, expected_parent: int) -> None:
    """Makes this process one of ours. Does not return when the parent is gone already.

    ``expected_parent`` is the parent's own pid, as it knew it before the fork.
    """
    assert threading.current_thread() is threading.main_thread(), "PR_SET_PDEATHSIG belongs to the main thread"
    _die_with_parent(expected_parent)
    own_signals()
    _set_name(role.value)
    raise_oom_score(_OOM_SCORES[role])


def _die_with_parent(expected_parent: int) -> None:
    """SIGKILL for us as soon as the parent's forking thread ends.

    The parent may have died before the call. Compared with its pid and not with 1, which in a container is a parent
    like any other; 0 is a parent in another pid namespace, of which only the lifeline can tell.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in (expected_parent, 0):
        with contextlib.suppress(OSError):
            _, has_room, _ = select.select([], [2], [], 0)
            if has_room:  # who waits for a reader of its last words would stay
                os.write(2, f"embeddaemon: parent {expected_parent} is gone, process {os.getpid()} exits\n".encode())
        os._exit(EXIT_ORPHANED)


def _prctl(option: int, argument: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _set_name(name: str) -> None:
    if sys.platform == "linux":
        _prctl(_PR_SET_NAME, name.encode())


def own_signals() -> None:
    """Our own handlers and mask instead of the parent's.

    SIGINT and SIGHUP reach a terminal's whole process group and are the supervisor's to understand. SIGUSR1 writes
    every thread's stack to stderr: what the supervisor asks of a stalled worker before it kills it.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def take_sent_faults() -> None:
    """From now on a fault that somebody sends (``kill -SEGV``) ends this process as SIGTERM does.

    So an exit by SIGSEGV is its own doing, and may be a text's. A blocked signal that kill(2) sends waits until a
    thread asks for it; one that an instruction raises cannot be held back: the kernel unblocks it, drops its handler
    and ends the process by it (force_sig_info_to_task in Linux' kernel/signal.c). abort() unblocks SIGABRT first.
    Threads inherit what is blocked: to be called before there are any. Elsewhere than on Linux it does nothing; nor
    where PYTHONFAULTHANDLER asks for the stacks of a fault, which its handler writes.
    """
    if sys.platform != "linux" or faulthandler.is_enabled():
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _FAULTS)
    threading.Thread(target=_end_when_sent, name="sent-faults", daemon=True).start()


def _end_when_sent() -> None:
    sent = signal.sigwaitinfo(_FAULTS)
    name = signal.Signals(sent.si_signo).name
    logging.getLogger(__name__).warning(
        fields("fault_sent", signal=name, pid=os.getpid(), sender=sent.si_pid, uid=sent.si_uid)
    )
    os.kill(os.getpid(), signal.SIGTERM)


def raise_oom_score(score: int) -> None:
    """Best effort, and only ever upwards: lowering needs a privilege."""
    try:
        inherited = int(_OOM_SCORE_ADJ.read_text())
        if inherited < score:
            _OOM_SCORE_ADJ.write_text(str(min(score, _OOM_SCORE_MAX)))
    except OSError as error:
        logging.getLogger(__name__).debug(fields("oom_score_unchanged", reason=error))


def enter_cgroup(folder: str | None) -> None:
    """Moves this process into the memory cgroup that the supervisor made for it; best effort, it looks for itself.

    Under v1 by ``tasks``: a process of one thread that moves itself needs no lock of the whole machine, which takes
    10 to 25 ms. v2 has only the slow way.
    """
    if folder is None:
        return
    tasks = Path(folder, "tasks")
    file = tasks if thread_count() == 1 and tasks.exists() else Path(folder, "cgroup.procs")
    try:
        file.write_text("0")
    except OSError as error:
        logging.getLogger(__name__).warning(fields("cgroup_not_entered", folder=folder, reason=error))


def exit_at_end_of_file(lifeline: int) -> None:
    """A thread that ends the process when ``lifeline`` reads end-of-file. For spawned workers, which never fork."""
    threading.Thread(target=_wait_for_end, args=(lifeline,), name="lifeline", daemon=True).start()


def _wait_for_end(lifeline: int) -> None:
    while os.read(lifeline, 4096):
        pass
    os._exit(EXIT_ORPHANED)


def thread_count() -> int:
    """Threads of this process as the kernel counts them: also those that Python does not know."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - before every fork, so without a Path for each entry
    except FileNotFoundError:
        return threading.active_count()
