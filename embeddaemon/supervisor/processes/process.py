"""Processes from start to reap: starts the fork server and spawned workers, talks to whoever forks, kills, reaps. I/O.

Decides nothing: every method executes one command, every event is what happened. The supervisor is the subreaper of all
processes below it, so that those whose parent died are collected here and their leases come back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence

from embeddaemon.errors import FailedLoad, ProtocolError
from embeddaemon.protocol import control
from embeddaemon.protocol.endpoints import socket_path
from embeddaemon.supervisor.commands import LimitMemory, StartFetcher, StartForkServer, StartTemplate, StartWorker
from embeddaemon.supervisor.events import ChildReaped, ControlLost, Event, ForkerSaid, JournalRead, StartFailed
from embeddaemon.supervisor.memory.hard_limits import HardLimiter
from embeddaemon.supervisor.processes.journals import Journals
from embeddaemon.supervisor.processes.living import Living, become_subreaper, environment
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

FORK_SERVER_COMMAND = (sys.executable, "-m", "embeddaemon.workers.preload")
SPAWN_COMMAND = (sys.executable, "-m", "embeddaemon.workers.main", "--spawn")

_STDERR = 2
_PIPE_BYTES = 64 * 1024
"""What a pipe takes at once, unless it is told otherwise."""

_NO_DESCRIPTORS = "a process cannot be started: the daemon has no file descriptors left; raise `ulimit -n`"


class Processes:
    """The processes below us by child number, and the control sockets of those that fork."""

    def __init__(
        self,
        link_endpoint: str,
        heartbeat_seconds: float,
        limiter: HardLimiter,
        fork_server_command: Sequence[str] = FORK_SERVER_COMMAND,
        spawn_command: Sequence[str] = SPAWN_COMMAND,
        *,
        secret: str = "",
    ) -> None:
        """``secret`` is what workers are known by at ``link_endpoint``."""
        self._link_endpoint = link_endpoint
        self._environment = environment(socket_path(link_endpoint).parent)
        self._secret = secret
        self._heartbeat_seconds = heartbeat_seconds
        self._limiter = limiter
        self._journals = Journals()
        self._fork_server_command = fork_server_command
        self._spawn_command = spawn_command
        self._fork_server: int | None = None
        self._controls: dict[int, socket.socket] = {}
        self.descriptors: Mapping[int, int] = {}
        """File descriptor of each control socket to the child behind it, for the poller. A new map at every change."""
        self._processes: dict[int, Living] = {}
        become_subreaper()

    def start_fork_server(self, command: StartForkServer) -> Event | None:
        """Start it with its end of a control socket; it says when it is ready."""
        pair = _socket_pair()
        if pair is None:
            return StartFailed(command.child, FailedLoad(_NO_DESCRIPTORS))
        ours, theirs = pair
        arguments = ["--control-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid())]
        try:
            popen = subprocess.Popen(
                [*self._fork_server_command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno()],
                env=self._environment,
            )
        except OSError as error:
            ours.close()
            return StartFailed(command.child, FailedLoad(f"the fork server cannot be started: {error}"))
        finally:
            theirs.close()
        self._fork_server = command.child
        self._add_control(command.child, ours)
        self._note(command.child, popen.pid, popen)
        return None

    def start_template(self, command: StartTemplate) -> Event | None:
        return self._order_with_socket(command.child, control.ForkTemplate(command.child, command.order.as_map()))

    def start_fetcher(self, command: StartFetcher) -> Event | None:
        return self._order_with_socket(command.child, control.ForkFetcher(command.child, command.source))

    def _order_with_socket(self, child: int, message: control.ForkTemplate | control.ForkFetcher) -> Event | None:
        pair = _socket_pair()
        if pair is None:
            return StartFailed(child, FailedLoad(_NO_DESCRIPTORS))
        ours, theirs = pair
        try:
            failed = self._order(self._fork_server, child, message, [theirs.fileno()])
        finally:
            theirs.close()
        if failed is not None:
            ours.close()
            return failed
        self._add_control(child, ours)
        return None

    def start_worker(self, command: StartWorker) -> Event | None:
        message = control.ForkWorker(
            child=command.child,
            worker=command.worker,
            incarnation=command.incarnation,
            endpoint=self._link_endpoint,
            threads=command.threads,
            heartbeat_seconds=self._heartbeat_seconds,
            order=None if command.order is None else command.order.as_map(),
            cgroup=self._limiter.prepare(command.child, command.threads),
            secret=self._secret,
        )
        journal = self._journals.make(command.child)
        if command.spawn:
            failed = self._spawn(command.child, message, journal)
        else:
            forker = self._fork_server if command.template is None else command.template
            failed = self._order(forker, command.child, message, journal)
        if failed is not None:
            self._limiter.ended(command.child)
            self._journals.forget(command.child)
        return failed

    def _order(self, forker: int | None, child: int, message: control.ToForker, descriptors: list[int]) -> Event | None:
        """Tell a process to fork. One that died a moment ago is lost with all that it should have forked."""
        assert forker is not None, "told to fork before there is a fork server: bug"
        connection = self._controls.get(forker)
        if connection is None:
            return ControlLost(forker)
        try:
            _send_packet(connection, control.encode(message), descriptors)
        except ProtocolError as error:
            return StartFailed(child, FailedLoad(f"it cannot be described to the process that forks: {error.message}"))
        except BlockingIOError:
            return ControlLost(forker)
        except OSError:
            # Its socket stays open: what it said before it died is still to be read.
            self._is_going(forker)
            return ControlLost(forker)
        return None

    def _spawn(self, child: int, message: control.ForkWorker, journal: list[int]) -> Event | None:
        """A fresh interpreter; it reads its order from stdin, which then stays open as its lifeline."""
        try:
            packet = control.encode(message)
            order = struct.pack("!I", len(packet)) + packet
            of_journal = ["--journal-fd", str(journal[0])] if journal else []
            popen = subprocess.Popen(
                [*self._spawn_command, "--parent-pid", str(os.getpid()), *of_journal],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=_STDERR,
                pass_fds=journal,
                env=self._environment,
                pipesize=-1 if len(order) <= _PIPE_BYTES else 2 * control.MAX_PACKET_BYTES,  # it reads when it is up
            )
        except (OSError, ProtocolError) as error:
            return StartFailed(child, FailedLoad(f"a worker cannot be started: {error}"))
        self._note(child, popen.pid, popen)
        assert popen.stdin is not None
        with contextlib.suppress(OSError):  # it ended before it could read: that is told when it is reaped
            popen.stdin.write(order)
        return None

    def _note(self, child: int, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        process = self._processes[child] = Living(pid, popen)
        if process.is_there():
            self._limiter.born(child, pid)

    def _is_going(self, child: int) -> None:
        """It closed its end of its control socket."""
        process = self._processes.get(child)
        if process is not None:
            process.is_going = True

    def _add_control(self, child: int, connection: socket.socket) -> None:
        self._controls[child] = connection
        self.descriptors = {**self.descriptors, connection.fileno(): child}

    def _close_control(self, child: int) -> None:
        self._controls.pop(child).close()
        self.descriptors = {number: each for number, each in self.descriptors.items() if each != child}

    def read_controls(self) -> Iterator[Event]:
        """Everything that waits on any control socket."""
        for child in list(self._controls):
            yield from self.read_control(child)

    def read_control(self, child: int) -> Iterator[Event]:
        """Everything that waits on a control socket; end-of-file closes it."""
        while (connection := self._controls.get(child)) is not None:  # each event may lead to its end
            try:
                packet = connection.recv(control.MAX_PACKET_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._close_control(child)
                self._is_going(child)
                yield ControlLost(child)
                return
            message = _news(packet)
            if message is None:
                log.error(fields("bad_forker_message", child=child))
                self.kill(child)
                self._close_control(child)
                yield ControlLost(child)
                return
            if isinstance(message, control.Forked):
                self._note(message.child, message.pid)
            elif isinstance(message, control.Exited):
                # Why it ended is on its own socket, and comes first.
                yield from self.read_control(message.child)
                yield from self._explain(message.child, message.exit_code)
                self._forget(message.child)
            yield ForkerSaid(child, message)

    def reap(self) -> list[Event]:
        """Collect what ended below us: our own, and those whose parent died. Strangers are passed over.

        After ``read_controls``: who a pid is, and why it ended, is said there.
        """
        ended: list[Event] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = next((number for number, process in self._processes.items() if process.pid == pid), None)
            if child is None:
                continue
            exit_code, is_orphan = os.waitstatus_to_exitcode(status), not self._processes[child].is_ours
            self._processes[child].reaped(exit_code)
            ended += self._explain(child, exit_code, is_orphan=is_orphan)
            self._forget(child)
            ended.append(ChildReaped(child, exit_code, orphan=is_orphan))
        return ended

    def _explain(self, child: int, exit_code: int, *, is_orphan: bool = False) -> Iterator[Event]:
        """What its journal says; and that the kernel killed it, if it did: known as long as its cgroup is there."""
        if (turns := self._journals.read(child)) is not None:
            yield JournalRead(child, turns)
        process = self._processes.get(child)
        if process is None:
            return
        told = process.was_told_to_die
        killed = self._limiter.kernel_kill(child, exit_code, was_told_to_die=told, is_orphan=is_orphan)
        if killed is not None:
            yield killed

    def _forget(self, child: int) -> None:
        self._limiter.ended(child)
        self._journals.forget(child)
        process = self._processes.pop(child, None)
        if process is not None:
            process.let_go()

    def forget(self, child: int) -> None:
        """Its end will not be reported. Whoever may still be behind its control socket reads end-of-file and exits."""
        if child in self._controls:
            self._close_control(child)
        self._forget(child)

    def kill(self, child: int) -> None:
        """SIGKILL. Nothing happens to who is gone."""
        process = self._processes.get(child)
        if process is not None:
            process.kill()

    def dump_stacks(self, child: int) -> None:
        """Have it write where each of its threads is to the log; it needs no working interpreter for that."""
        process = self._processes.get(child)
        if process is not None:
            process.dump_stacks()

    def limit_memory(self, command: LimitMemory) -> None:
        """Set the hard limit of a worker that lives; of any other process, nothing.

        RLIMIT_DATA goes by its number. That is looked at before and not after: to be another's within the microseconds
        between, all numbers would have to be used up, and taking back a limit would go by the same number.
        """
        process = self._processes.get(command.child)
        if process is None or process.is_there():
            self._limiter.limit(command.child, command.growth_bytes)

    def tidy(self) -> None:
        """Every few seconds: what could not be done at once."""
        self._limiter.tidy()

    def close(self) -> None:
        """Let go of everything: whoever still lives reads end-of-file and dies."""
        for child in list(self._processes):
            self.kill(child)
        for connection in self._controls.values():
            connection.close()
        self._controls.clear()
        for child in list(self._processes):
            self._forget(child)


def _news(packet: bytes) -> control.FromForker | None:
    """None for what no process that forks says, unless its memory was spoiled."""
    try:
        message = control.decode(packet)
    except ProtocolError:
        return None
    return None if isinstance(message, control.ToForker) else message


def _send_packet(connection: socket.socket, packet: bytes, descriptors: list[int]) -> None:
    """Never waits: a process that has not read all that fits into its socket will not read this either.

    Not ``socket.send_fds``, which forgets its flags.
    """
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    connection.sendmsg([packet], passed, socket.MSG_DONTWAIT)


def _socket_pair() -> tuple[socket.socket, socket.socket] | None:
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        return None
