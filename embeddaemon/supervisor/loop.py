"""The loop: waits on sockets, signals and timers, and turns what happened into events for the core. I/O.

What the core returns is executed in execution.py.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from embeddaemon.config.settings import Settings
from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import format_bytes
from embeddaemon.governor.learned import Learned
from embeddaemon.governor.probes import Probe, probe_for_this_machine
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.changes.configuration import Source
from embeddaemon.supervisor.changes.file_looks import FileLooks
from embeddaemon.supervisor.changes.folder_reads import FolderReads
from embeddaemon.supervisor.connections.clients import open_clients
from embeddaemon.supervisor.connections.descriptors import NO_MORE, WAY_OUT, check_enough, open_standard_descriptors
from embeddaemon.supervisor.connections.listener import Listener
from embeddaemon.supervisor.connections.worker_link import WorkerLink
from embeddaemon.supervisor.core import Supervisor
from embeddaemon.supervisor.events import (
    CardFailed,
    CardRead,
    ClientGone,
    DrainRequested,
    Event,
    ReloadRequested,
    TimePassed,
)
from embeddaemon.supervisor.execution import Executor
from embeddaemon.supervisor.memory import footprint_file
from embeddaemon.supervisor.memory.budgets import governor_for
from embeddaemon.supervisor.memory.hard_limits import HardLimiter
from embeddaemon.supervisor.memory.stalls import StallWatch
from embeddaemon.supervisor.processes.process import FORK_SERVER_COMMAND, SPAWN_COMMAND, Processes
from embeddaemon.supervisor.reading import client_event
from embeddaemon.supervisor.surroundings.machine import this_machine
from embeddaemon.supervisor.surroundings.notify import Notifier
from embeddaemon.supervisor.surroundings.parent import ParentWatch, remove_place
from embeddaemon.supervisor.surroundings.service import NO_SERVICE, Service
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 256
"""Read from one socket before the others get a look: one flooding client does not starve the rest."""

LOOK_AT_FILES_SECONDS = 5.0
"""Between two looks if our socket files are still there: three system calls."""


def run(
    settings: Settings,
    *,
    fork_server_command: Sequence[str] = FORK_SERVER_COMMAND,
    spawn_command: Sequence[str] = SPAWN_COMMAND,
    probe: Probe | None = None,
    service: Service = NO_SERVICE,
    source: Source | None = None,
) -> int:
    """Serve until told to stop; returns the exit code. Raises ConfigError when it cannot start.

    ``service`` says what the service manager gave us: where to report, and a socket that takes the endpoint's place;
    ``source`` where the settings came from, and can be read again.
    """
    if service.passed is not None:
        settings = replace(settings, endpoint=service.passed.endpoint)
    source = source or Source()
    check_enough()
    probe = probe or probe_for_this_machine()
    with contextlib.ExitStack() as closing:
        try:
            daemon = Daemon(
                settings, probe, fork_server_command, spawn_command, service, source=source, closing=closing
            )
        except (OSError, zmq.ZMQError) as error:
            if error.errno not in NO_MORE:
                raise
            raise ConfigError(f"the daemon cannot start: {error}: {WAY_OUT}") from error
        return daemon.serve()


class Daemon:
    """The supervisor's body: sockets and processes around its mind."""

    def __init__(
        self,
        settings: Settings,
        probe: Probe,
        fork_server_command: Sequence[str],
        spawn_command: Sequence[str],
        service: Service,
        *,
        source: Source,
        closing: contextlib.ExitStack,
    ) -> None:
        """What is opened is closed by ``closing``, however far this comes: nothing of ours stays behind."""
        self._settings = settings
        governor = governor_for(settings, probe)
        self._core = Supervisor(settings, this_machine(), governor, random.random, _learned(settings))
        open_standard_descriptors()
        self._reads = FolderReads()
        self._learn_cards()
        self._core.learn_files(source.files)
        self._wakeup = closing.enter_context(_catch_signals())
        closing.callback(signal.set_wakeup_fd, -1)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        closing.callback(context.destroy, linger=0)
        self._notifier = Notifier(service.manager, self._core.status_line)
        closing.callback(self._notifier.close)
        self._parent = _parent_watch(settings)
        self._is_orphan = False
        closing.callback(self._leave_parent)
        limiter = HardLimiter(settings.hard_limits, probe.kernel_kills)
        closing.callback(limiter.close)
        self._core.learn_hard_limits(limiter.kind)
        passed = None if service.passed is None else service.passed.socket
        access = settings.access
        self._listener = Listener(settings.endpoint, passed, is_open_to_others=bool(access.users or access.groups))
        closing.callback(self._listener.close)
        self._clients = open_clients(self._listener, context, settings)
        closing.callback(self._clients.close)
        self._core.learn_clients(self._clients.document)
        self._workers = WorkerLink(self._listener.open_link(context))
        closing.callback(self._workers.close)
        self._looks = FileLooks()
        closing.callback(self._looks.close)
        self._stalls = StallWatch(probe.stall_trigger())
        closing.callback(self._stalls.close)
        self._next_look_at_files = time.monotonic() + LOOK_AT_FILES_SECONDS
        processes = Processes(
            self._listener.link_endpoint,
            settings.heartbeat_seconds,
            limiter,
            fork_server_command,
            spawn_command,
            secret=self._workers.secret,
        )
        closing.callback(processes.close)
        self._processes = processes
        state_folder = None if settings.state_folder is None else Path(settings.state_folder)
        self._executor = Executor(
            self._clients,
            self._workers,
            processes,
            probe,
            self._looks,
            reads=self._reads,
            source=source,
            state_folder=state_folder,
        )
        names = ",".join(spec.name for spec in settings.models)
        budget = f"{format_bytes(governor.budget.bytes)} ({governor.budget.source})"
        where = settings.endpoint
        log.info(fields("listening", endpoint=where, pid=os.getpid(), models=names, budget=budget, passed=bool(passed)))

    def _learn_cards(self) -> None:
        """Read the folders that are here already. A broken model is its own trouble, a wrong setting is ours."""
        for spec in self._settings.models:
            if spec.is_of_hub:
                continue
            match self._reads.read(do.ReadCard(spec, None)):
                case CardRead() as card_read:
                    self._core.learn_card(card_read)
                case CardFailed(error=error) if isinstance(error, ConfigError):
                    raise error
                case CardFailed(error=error) as card_failed:
                    self._core.learn_error(card_failed)
                    log.error(fields("model_unusable", model=spec.name, code=error.code, error=str(error)))

    def serve(self) -> int:
        self._execute(self._core.start(time.monotonic()))
        poller = zmq.Poller()
        polled: Mapping[int, int] = {}
        self._clients.register(poller)
        poller.register(self._workers.socket, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        self._stalls.register(poller)
        self._looks.register(poller)
        for descriptor in () if self._parent is None else self._parent.descriptors:
            poller.register(descriptor, zmq.POLLIN)
        while self._executor.exit_code is None:
            self._notifier.turn(time.monotonic())
            polled = self._follow_controls(poller, polled)
            ready = dict(poller.poll(self._timeout_ms()))
            self._handle_timers()
            if self._workers.socket in ready:
                self._read_workers()
            self._read_clients(ready)
            self._read_controls(ready)
            for seen in self._looks.read(ready):
                self._handle(seen)
            if (stall := self._stalls.read(poller, ready)) is not None:
                self._handle(stall)
            if self._wakeup.fileno() in ready:
                self._read_signals()
            self._look_at_files()
            if self._parent is not None and self._parent.is_gone():
                self._stop_with_parent(poller, self._parent)
        return self._executor.exit_code

    def _timeout_ms(self) -> int:
        longest_seconds = 1.0 if self._parent is not None else LOOK_AT_FILES_SECONDS
        core_due = self._core.next_due()
        due = min(self._notifier.next_due(), self._clients.next_due(), math.inf if core_due is None else core_due)
        return int(1000 * max(0.0, min(longest_seconds, due - time.monotonic()))) + 1

    def _follow_controls(self, poller: zmq.Poller, polled: Mapping[int, int]) -> Mapping[int, int]:
        wanted = self._processes.descriptors
        if wanted is not polled:
            for descriptor in polled.keys() - wanted.keys():
                poller.unregister(descriptor)
            for descriptor in wanted.keys() - polled.keys():
                poller.register(descriptor, zmq.POLLIN)
        return wanted

    def _handle(self, event: Event) -> None:
        self._execute(self._core.handle(event, time.monotonic()))

    def _handle_timers(self) -> None:
        due = self._core.next_due()
        if due is not None and due <= time.monotonic():
            self._handle(TimePassed())

    def _read_workers(self) -> None:
        for said in self._workers.receive(MESSAGES_PER_TURN):
            self._handle(said)

    def _read_clients(self, ready: Mapping[Any, int]) -> None:
        for happened in self._clients.turn(ready, MESSAGES_PER_TURN):
            self._handle(client_event(happened, is_cached=bool(self._settings.cache_bytes)))

    def _read_controls(self, ready: dict[Any, int]) -> None:
        children = self._processes.descriptors
        for descriptor in [each for each in ready if each in children]:
            for event in self._processes.read_control(children[descriptor]):
                self._handle(event)

    def _read_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            received = set(self._wakeup.recv(4096))
            if signal.SIGCHLD in received:
                for event in (*self._processes.read_controls(), *self._processes.reap()):
                    self._handle(event)
            if signal.SIGHUP in received:
                self._reload()
            for number in received & {signal.SIGTERM, signal.SIGINT}:
                self._drain(signal.Signals(number).name)

    def _reload(self) -> None:
        with self._notifier.reloading(time.monotonic()):
            self._handle(ReloadRequested())

    def _drain(self, reason: str) -> None:
        self._notifier.stopping(time.monotonic())
        self._handle(DrainRequested(reason))

    def _stop_with_parent(self, poller: zmq.Poller, parent: ParentWatch) -> None:
        for descriptor in parent.descriptors:
            poller.unregister(descriptor)
        parent.close()
        self._parent, self._is_orphan = None, True
        for _ in range(2):  # asked twice, it stops at once: whom we served is gone
            self._drain("the process that the daemon belongs to is gone")

    def _execute(self, commands: Sequence[do.Command]) -> None:
        """In order. What a command leads to at once is handled before the next."""
        for command in commands:
            following = self._executor.execute(command)
            if following is not None:
                self._handle(following)

    def _look_at_files(self) -> None:
        if time.monotonic() < self._next_look_at_files:
            return
        self._next_look_at_files = time.monotonic() + LOOK_AT_FILES_SECONDS
        self._processes.tidy()
        try:
            for left in self._clients.sweep():
                self._handle(ClientGone(left.client))
            for name in self._listener.keep_in_place(self._clients.listen, self._workers.socket):
                log.warning(fields("file_put_back", name=name, endpoint=self._settings.endpoint))
        except ConfigError as error:
            self._next_look_at_files = float("inf")
            self._drain(f"nobody can reach us any more: {error}")

    def _leave_parent(self) -> None:
        if self._is_orphan:
            remove_place(self._settings.endpoint)
        if self._parent is not None:
            self._parent.close()


def _parent_watch(settings: Settings) -> ParentWatch | None:
    if not settings.exit_with_parent and settings.parent_pid is None:
        return None
    return ParentWatch(is_starter=settings.exit_with_parent, pid=settings.parent_pid)


def _learned(settings: Settings) -> Learned:
    """What a life before measured of models, unless its file cannot be used."""
    learned, reason = footprint_file.read(None if settings.state_folder is None else Path(settings.state_folder))
    if reason is not None:
        path = Path(settings.state_folder or "") / footprint_file.NAME
        log.warning(fields("footprints_not_used", path=path, why=reason))
    return learned


def _catch_signals() -> socket.socket:
    """A socket that becomes readable at a signal, with the signals' numbers: handlers do nothing but that."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)  # noqa: FBT003 - the standard library's signature
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    return ours
