"""The one small program that the fork server and every template run: wait, fork on command, reap, report.

Has one thread, ever, and proves it before each fork. What the children do is given as a function; what to fork is the
supervisor's decision. End-of-file on the control socket means that the supervisor is gone, or wants this process gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from embeddaemon.errors import ProtocolError
from embeddaemon.protocol import control
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers import guard
from embeddaemon.workers.exhaustion import exit_out_of_memory, is_out_of_memory

log = logging.getLogger(__name__)


Midwife = Callable[[control.ToForker, int | None], int]
"""The life of a child, from its command and the descriptor that came with it; returns its exit code."""

_ROLES: dict[type[control.ToForker], guard.Role] = {
    control.ForkTemplate: guard.Role.TEMPLATE,
    control.ForkWorker: guard.Role.WORKER,
    control.ForkFetcher: guard.Role.FETCHER,
}


class Forker:
    """Owns the control socket and the children that it forked."""

    def __init__(self, connection: socket.socket, midwife: Midwife) -> None:
        self._connection = connection
        self._midwife = midwife
        self._children: dict[int, int] = {}
        """pid to the supervisor's number."""
        self._deaths = _Deaths()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._deaths.descriptor, select.POLLIN)

    def serve(self) -> NoReturn:
        """Until end-of-file on the control socket; then the process is over, and its children with it."""
        try:
            while True:
                ready = {descriptor for descriptor, _ in self._poll.poll()}
                if self._deaths.descriptor in ready:
                    self._reap()
                if self._connection.fileno() in ready:
                    self._obey()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._end(0)
        except Exception as error:  # the boundary of a process
            if is_out_of_memory(error):
                self._kill_children()
                exit_out_of_memory(os.getpid(), error)
            log.exception(fields("forker_failed", pid=os.getpid()))
            self._end(control.EXIT_BUG)

    def send(self, message: control.FromForker) -> None:
        """Tells the supervisor."""
        self._connection.send(control.encode(message))

    def _obey(self) -> None:
        packet, descriptors, _, _ = socket.recv_fds(self._connection, control.MAX_PACKET_BYTES, 1)
        if not packet:
            raise EOFError
        passed = descriptors[0] if descriptors else None
        try:
            message = control.decode(packet)
            if not isinstance(message, control.ToForker):
                raise ProtocolError(f"{type(message).__name__} is not a command")
            self._fork(message, passed)
        finally:
            if passed is not None:
                os.close(passed)

    def _fork(self, command: control.ToForker, passed: int | None) -> None:
        threads = guard.thread_count()
        if threads != 1:
            raise AssertionError(f"{threads} threads where a fork is coming, a lock could stay held for ever: bug")
        parent = os.getpid()
        _flush()
        try:
            pid = os.fork()
        except OSError as error:
            log.error(fields("fork_refused", child=command.child, reason=error))  # noqa: TRY400 - the trace says no more
            self.send(control.Exited(command.child, 0, control.EXIT_FORK_FAILED))
            return
        if pid == 0:
            run_child(lambda: self._be_born(command, passed, parent))
        self._children[pid] = command.child
        self.send(control.Forked(command.child, pid))

    def _be_born(self, command: control.ToForker, passed: int | None, parent: int) -> int:
        """In the child: nothing of the parent's stays open, above all not the control socket, whose end is a signal."""
        guard.enter(_ROLES[type(command)], parent)
        self._connection.close()
        self._deaths.close()
        self._children.clear()
        if isinstance(command, control.ForkWorker):
            guard.enter_cgroup(command.cgroup)
            guard.take_sent_faults()
        return self._midwife(command, passed)

    def _reap(self) -> None:
        """Every child that ended. One that we did not fork is somebody's import asking the system something."""
        self._deaths.drain()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._children.pop(pid, None)
            if number is not None:
                self.send(control.Exited(number, pid, os.waitstatus_to_exitcode(status)))

    def _end(self, code: int) -> NoReturn:
        self._kill_children()
        _flush()
        os._exit(code)

    def _kill_children(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still the child's


class _Deaths:
    """Readable when children ended: one mechanism for every system, where a pidfd for each child needs a second one."""

    def __init__(self) -> None:
        self._ours, self._signals = socket.socketpair()
        for end in (self._ours, self._signals):
            end.settimeout(0)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        self.descriptor = self._ours.fileno()

    def drain(self) -> None:
        """Before reaping, so that a death in between wakes again."""
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(4096):
                pass

    def close(self) -> None:
        """In a child, whose signals are its own already."""
        self._ours.close()
        self._signals.close()


def run_child(main: Callable[[], int]) -> NoReturn:
    """The whole life of a forked process: never returns into the parent's stack, runs none of its exit handlers."""
    code = control.EXIT_BUG
    try:
        code = main()
    except BaseException as error:  # the boundary of a process
        if is_out_of_memory(error):
            exit_out_of_memory(os.getpid(), error)
        log.exception(fields("process_failed", pid=os.getpid()))
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or a pipe whose reader is gone: nobody to tell
            continue
