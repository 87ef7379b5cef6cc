"""Executes what the core wants done: one call per command, an event back when something followed at once. I/O."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

import zmq

from embeddaemon.governor.probes import Probe
from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import Document, Waiting
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.changes.configuration import Source, read_settings
from embeddaemon.supervisor.changes.file_looks import FileLooks
from embeddaemon.supervisor.changes.folder_reads import FolderReads
from embeddaemon.supervisor.connections.clients import Clients
from embeddaemon.supervisor.connections.front import Undelivered
from embeddaemon.supervisor.connections.worker_link import WorkerLink
from embeddaemon.supervisor.events import ClientGone, Event, SampleTaken
from embeddaemon.supervisor.memory import footprint_file
from embeddaemon.supervisor.processes.process import Processes
from embeddaemon.supervisor.sickness.canary import canary_frames
from embeddaemon.telemetry import logs
from embeddaemon.telemetry.logs import fields

log = logging.getLogger(__name__)


UNDELIVERED_LOG_SECONDS = 1.0
"""Between two lines about messages that nobody took."""


class Executor:
    """The hands: clients, workers' ROUTER, processes, probe. ``exit_code`` is set by the last command of all."""

    def __init__(
        self,
        clients: Clients,
        workers: WorkerLink,
        processes: Processes,
        probe: Probe,
        looks: FileLooks,
        *,
        reads: FolderReads,
        source: Source,
        state_folder: Path | None,
    ) -> None:
        self._looks = looks
        self._reads = reads
        self._source = source
        self._state_folder = state_folder
        self._clients = clients
        self._workers = workers
        self._processes = processes
        self._probe = probe
        self._undelivered = 0
        self._told_of_undelivered_at = float("-inf")
        self.exit_code: int | None = None

    def execute(self, command: do.Command) -> Event | None:  # noqa: C901, PLR0912, PLR0915 - one case per command
        """Do it. What it led to at once is returned as the next event."""
        match command:
            case do.Forward():
                return self._answer([command.client, *command.frames])
            case do.Recall():
                return self._answer([command.client, codec.encode_answer(command.answer), *command.frames])
            case do.SendDispatch():
                self._tell(command.worker, command.dispatch, "dispatch", command.payload)
            case do.Reply():
                frames: list[Any] = [command.client, codec.encode_answer(command.answer)]
                if isinstance(command.answer, Document):
                    frames.append(codec.encode_document(command.document or {}))
                return self._answer(frames)
            case do.SendWaiting():
                return self._answer([command.client, codec.encode_answer(Waiting(command.requests, command.why))])
            case do.SendCancel():
                self._tell(command.worker, link.Cancel(command.incarnation, command.serials), "cancel")
            case do.SendConvict():
                self._tell(command.worker, link.Convict(command.incarnation, command.texts), "convict")
            case do.SendCanary():
                canary = canary_frames(command.incarnation, command.model)
                self._send(command.worker, command.incarnation, canary, "canary")
            case do.DumpStacks():
                self._processes.dump_stacks(command.child)
            case do.SendDrain():
                self._tell(command.worker, link.Drain(command.incarnation), "drain")
            case do.SendTrim():
                self._tell(command.worker, link.Trim(command.incarnation), "trim")
            case do.LimitMemory():
                self._processes.limit_memory(command)
            case do.KeepFootprints():
                footprint_file.write(self._state_folder, command.document)
            case do.Log():
                level = logging.getLevelNamesMapping()[command.level.upper()]
                log.log(level, fields(command.event, **command.fields))
            case do.StartWorker():
                return self._processes.start_worker(command)
            case do.StartTemplate():
                return self._processes.start_template(command)
            case do.StartForkServer():
                return self._processes.start_fork_server(command)
            case do.StartFetcher():
                return self._processes.start_fetcher(command)
            case do.Kill():
                self._processes.kill(command.child)
            case do.Forget():
                self._processes.forget(command.child)
            case do.ReadCard():
                return self._reads.read(command)
            case do.LookAtFiles():
                return self._looks.start(command)
            case do.ReadSettings():
                return read_settings(self._source, command, self._reads.read)
            case do.LetIn():
                self._clients.let_in(command.access, command.connections_of_user)
            case do.SetLog():
                logs.setup(command.format, command.level)
            case do.TakeSample():
                return self._sample()
            case do.Exit():
                self.exit_code = command.code
            case _:
                assert_never(command)
        return None

    def _answer(self, frames: list[Any]) -> ClientGone | None:
        """To a client: its routing id, then what it gets."""
        undelivered = self._clients.send(frames[0], frames[1:])
        if undelivered is not None:
            self._note_undelivered(frames[0].hex(), "answer", undelivered.value)
        return ClientGone(frames[0]) if undelivered is Undelivered.GONE else None

    def _tell(self, worker: int, message: link.ToWorker, what: str, payload: Sequence[Any] = ()) -> None:
        self._send(worker, message.incarnation, [link.encode_to_worker(message), *payload], what)

    def _send(self, worker: int, incarnation: int, frames: Sequence[Any], what: str) -> None:
        """Never waits: a worker that is gone or does not read loses its message, and the log says so once a second."""
        try:
            self._workers.send(worker, incarnation, frames)
        except zmq.ZMQError as error:
            # EHOSTUNREACH: the worker left. EAGAIN: it does not read. A dead worker's requests come back when it is
            # reaped.
            self._note_undelivered(f"worker {worker}.{incarnation}", what, str(error))

    def _note_undelivered(self, peer: str, what: str, reason: str) -> None:
        """A client that left thousands of requests behind is worth one line, not thousands."""
        self._undelivered += 1
        now = time.monotonic()
        if now - self._told_of_undelivered_at < UNDELIVERED_LOG_SECONDS:
            return
        log.info(fields("not_delivered", what=what, peer=peer, reason=reason, count=self._undelivered))
        self._undelivered, self._told_of_undelivered_at = 0, now

    def _sample(self) -> Event | None:
        """Memory now; nothing when it cannot be read (out of descriptors): the ledger speaks alone then."""
        try:
            return SampleTaken(self._probe.observe(time.monotonic()))
        except OSError as error:
            log.warning(fields("no_sample", error=str(error)))
            return None
