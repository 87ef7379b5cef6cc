"""A world for the supervisor's core: processes, control sockets and the link, without any of them. No clock, no chance.

``World`` is told the core's commands and plays what a shell and its processes would do. Nothing happens by itself: each
thing that could happen next is a *step*, and whoever tells the story picks one; its events go to the core. Messages of
one socket arrive in order, those of different sockets in any order. A process takes everything below it along.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from embeddaemon.errors import EmbedDaemonError, FailedLoad, Poisoned
from embeddaemon.governor.budget import MIB
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.models.card import ModelCard
from embeddaemon.models.fileset import FileSet
from embeddaemon.models.spec import Pooling
from embeddaemon.protocol import codec, control, error_codec, link
from embeddaemon.protocol.journal import Record, Turn, digest_of_text
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import (
    CardRead,
    ChildReaped,
    ControlLost,
    Event,
    ForkerSaid,
    JournalRead,
    StartFailed,
    WorkerSaid,
)
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.sickness.canary import SERIAL

KILLED = -9
FIRST_MARKS = "1"


class Life(Enum):
    """Where a process is."""

    ORDERED = "ordered"
    """Its parent was told to fork it."""
    COMING = "coming"
    READY = "ready"
    DEAD = "dead"
    """Not reported yet."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Held:
    """One request in a worker; ``header`` as the client sent it, and as the answer bears it."""

    serial: int
    header: object
    digest: bytes
    """Of its one text."""


@dataclass(slots=True)
class Process:
    """One process of the world, and what the shell knows of it."""

    child: int
    kind: ChildKind
    parent: int | None = None
    life: Life = Life.COMING
    is_known: bool = True
    """Whether the shell knows its pid: only then can it be killed or reaped."""
    exit_code: int = 0
    worker: int = 0
    incarnation: int = 0
    is_draining: bool = False
    private_bytes: int = 0
    kept_bytes: int = 0
    """Of these, what it had when it was ready, and what no trimming gives back."""
    most_bytes: int | None = None
    """Its hard limit."""
    peak_bytes: int = 0
    """Held for a moment before each heartbeat."""
    trims: int = 0
    turn_ms: int = 0
    patience_ms: int = 0
    held: list[Held] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    """Serials that it was told to drop."""
    canaries: int = 0
    """Times that it is to compute the known text, while the world answers that."""
    is_wrong: bool = False
    """Whether it computes another vector for that than it should."""
    is_mute: bool = False
    """It lives and sends no heartbeats."""
    dispatches: list[set[int]] = field(default_factory=list)
    alone: set[int] = field(default_factory=set)
    """Serials that are computed with nothing else in the worker."""
    convicted: set[bytes] = field(default_factory=set)
    """Digests of texts that it was told not to touch."""
    turns: tuple[Turn, ...] | None = ()
    """What its journal says; None: it has none. Written by itself as it dies, unless the story did."""
    control: deque[control.FromForker | None] = field(default_factory=deque)
    """What it has written on its control socket; None is its end."""
    link: deque[WorkerSaid] = field(default_factory=deque)
    """What it has written on the link."""

    @property
    def pid(self) -> int:
        return 1000 + self.child

    @property
    def is_alive(self) -> bool:
        return self.life in (Life.COMING, Life.READY)

    @property
    def has_control(self) -> bool:
        return self.kind is not ChildKind.WORKER


@dataclass(frozen=True, slots=True)
class Step:
    """Something that could happen next."""

    what: str
    child: int
    run: Callable[[], list[Event]] = field(compare=False)

    def __str__(self) -> str:
        return f"{self.what} {self.child}"


class World:
    """All processes by child number. ``private_bytes`` is what each measures when it is ready."""

    def __init__(self, *, private_bytes: int = 20 * MIB) -> None:
        self.processes: dict[int, Process] = {}
        self.private_bytes = private_bytes
        self.answers_canaries = False
        """Whether workers answer the known text by themselves."""
        self.cannot_start = False
        """Whether the system refuses to start processes of our own."""

    def obey(self, command: do.Command) -> list[Event]:  # noqa: C901, PLR0912 - one case per command
        """Execute a command that concerns processes; gives what followed at once."""
        match command:
            case do.StartForkServer():
                return self._start(Process(command.child, ChildKind.FORK_SERVER))
            case do.StartTemplate():
                return self._order(Process(command.child, ChildKind.TEMPLATE, self.fork_server))
            case do.StartFetcher():
                return self._order(Process(command.child, ChildKind.FETCHER, self.fork_server))
            case do.StartWorker():
                parent = self.fork_server if command.template is None else command.template
                worker = Process(command.child, ChildKind.WORKER, None if command.spawn else parent)
                worker.worker, worker.incarnation = command.worker, command.incarnation
                return self._start(worker) if command.spawn else self._order(worker)
            case do.SendDispatch():
                self._dispatch(command)
            case do.SendCancel():
                if (process := self.worker(command.worker, command.incarnation)) is not None:
                    process.cancelled.update(command.serials)
            case do.SendConvict():
                if (process := self.worker(command.worker, command.incarnation)) is not None:
                    for text in command.texts:
                        (process.convicted.add if text.expires_in_ms > 0 else process.convicted.discard)(text.digest)
            case do.SendCanary() if self.answers_canaries:
                if (process := self.worker(command.worker, command.incarnation)) is not None:
                    process.canaries += 1
            case do.SendDrain():
                if (process := self.worker(command.worker, command.incarnation)) is not None:
                    process.is_draining = True
            case do.SendTrim():
                if (process := self.worker(command.worker, command.incarnation)) is not None:
                    process.trims += 1
                    process.private_bytes = process.kept_bytes
                    self.beat(process)
            case do.LimitMemory():
                process = self.processes[command.child]
                process.most_bytes = max(process.most_bytes or 0, process.private_bytes + command.growth_bytes)
            case do.Kill():
                process = self.processes.get(command.child)
                if process is not None and process.is_known and process.is_alive:
                    self.die(process, KILLED)
            case do.Forget():
                if (process := self.processes.get(command.child)) is not None:  # else its order could not be sent
                    assert not process.is_alive, "forgotten although it lives"
                    process.is_known = False
                    process.control.clear()
            case _:
                pass
        return []

    @property
    def fork_server(self) -> int | None:
        numbers = [each.child for each in self.processes.values() if each.kind is ChildKind.FORK_SERVER]
        return max(numbers, default=None)

    def _start(self, process: Process) -> list[Event]:
        if self.cannot_start:
            return [StartFailed(process.child, FailedLoad("no such interpreter"))]
        self.processes[process.child] = process
        return []

    def _order(self, process: Process) -> list[Event]:
        assert process.parent is not None, "told to fork before there is a fork server"
        parent = self.processes[process.parent]
        assert parent.life is not Life.COMING, "told to fork before it is ready"
        if not parent.is_alive:
            # The shell cannot send it, and drops what was still to be read.
            parent.control.clear()
            return [ControlLost(parent.child)]
        process.life, process.is_known = Life.ORDERED, False
        self.processes[process.child] = process
        return []

    def _dispatch(self, command: do.SendDispatch) -> None:
        process = self.worker(command.worker, command.dispatch.incarnation)
        if process is None:
            return
        assert process.life is Life.READY, "dispatched to a worker that is not ready"
        assert not process.is_draining, "dispatched to a worker that drains"
        sent = zip(command.dispatch.items, command.payload[::2], command.payload[1::2], strict=True)
        process.held += [Held(item.serial, header, digest_of(header, body)) for item, header, body in sent]
        serials = {item.serial for item in command.dispatch.items}
        process.dispatches.append(serials)
        process.alone |= serials if command.dispatch.alone is not None else set()

    def worker(self, number: int, incarnation: int) -> Process | None:
        """The living worker behind a routing id."""
        for each in self.processes.values():
            if each.is_alive and (each.worker, each.incarnation) == (number, incarnation) and not each.has_control:
                return each
        return None

    # What happens to processes.

    def die(self, process: Process, exit_code: int) -> None:
        """It ends, and all below it; what was ordered of it never is."""
        process.life, process.exit_code = Life.DEAD, exit_code
        if process.turns == () and process.dispatches:
            process.turns = (self._turn(process),)
        if process.has_control:
            process.control.append(None)
        process.held.clear()
        process.dispatches.clear()
        for below in [each for each in self.processes.values() if each.parent == process.child]:
            if below.life is Life.ORDERED:
                below.life = Life.GONE
                if below.has_control:
                    below.life = Life.DEAD  # its socket ends; there is nothing to reap
                    below.control.append(None)
            elif below.is_alive:
                self.die(below, KILLED)

    def _turn(self, process: Process) -> Turn:
        """It computes the first dispatch that it holds, all of it together."""
        first = process.dispatches[0]
        records = tuple(Record(held.serial, held.digest) for held in process.held if held.serial in first)
        return Turn(1.0, records[:1] if first & process.alone else records)

    def fail_to_load(self, process: Process, error: EmbedDaemonError) -> None:
        """A template, a fetcher or a fork server says why it cannot, and exits."""
        failure = error_codec.error_to_map(error)
        if process.has_control:
            process.control.append(control.LoadFailed(failure))
        else:
            process.link.append(WorkerSaid(link.LoadFailed(process.worker, process.incarnation, failure)))
        self.die(process, control.EXIT_LOAD_FAILED)

    def refuse_fork(self, process: Process) -> None:
        """The system does not let its parent fork."""
        assert process.parent is not None
        process.life = Life.GONE
        if process.has_control:
            process.control.append(None)
        refused = control.Exited(process.child, 0, control.EXIT_FORK_FAILED)
        self.processes[process.parent].control.append(refused)

    def answer(self, process: Process, code: str = "") -> None:
        """A worker is done with the first request that it holds."""
        held = process.held.pop(0)
        if held.digest in process.convicted:
            code = "poisoned"
        for serials in process.dispatches:
            serials.discard(held.serial)
        process.dispatches = [serials for serials in process.dispatches if serials]
        result = link.Result(
            worker=process.worker,
            incarnation=process.incarnation,
            serial=held.serial,
            code="cancelled" if held.serial in process.cancelled else code,
            texts=1,
            tokens=7,
            tokenize_us=0,
            compute_us=0,
        )
        process.link.append(WorkerSaid(result, [_refusal(held) if code == "poisoned" else held.header]))

    def beat(self, process: Process) -> None:
        """A worker says that it lives, and what it holds."""
        beat = link.Heartbeat(
            worker=process.worker,
            incarnation=process.incarnation,
            progress=0,
            busy=bool(process.held),
            private_bytes=process.private_bytes,
            peak_bytes=max(process.private_bytes, process.peak_bytes),
            trims=process.trims,
            turn_ms=process.turn_ms,
            patience_ms=process.patience_ms,
        )
        process.link.append(WorkerSaid(beat))

    # What could happen next.

    def steps(self) -> list[Step]:
        """Everything that the world would do by itself, oldest process first. Answers are the story's own."""
        return [step for process in list(self.processes.values()) for step in self._steps_of(process)]

    def _steps_of(self, process: Process) -> list[Step]:
        steps = []
        if process.life is Life.ORDERED:
            steps.append(Step("fork", process.child, lambda: self._fork(process)))
        if process.life is Life.COMING:
            steps.append(Step("ready", process.child, lambda: self._become_ready(process)))
        if process.life is Life.READY and process.is_draining and not process.held:
            steps.append(Step("exit", process.child, lambda: self._exit(process)))
        if process.life is Life.DEAD and process.is_known and self._can_be_reaped(process):
            steps.append(Step("reap", process.child, lambda: self._reap(process)))
        if process.life is Life.READY and process.canaries:
            steps.append(Step("canary", process.child, lambda: self._answer_canary(process)))
        if process.control:
            steps.append(Step("control", process.child, lambda: self._deliver_control(process)))
        if process.link:
            steps.append(Step("link", process.child, lambda: self._deliver_link(process)))
        return steps

    def _fork(self, process: Process) -> list[Event]:
        assert process.parent is not None
        process.life = Life.COMING
        self.processes[process.parent].control.append(control.Forked(process.child, process.pid))
        return []

    def _become_ready(self, process: Process) -> list[Event]:
        process.life = Life.READY
        match process.kind:
            case ChildKind.FORK_SERVER:
                process.control.append(control.ForkServerReady(process.pid, ["torch"], 1, FORK_SERVER_BYTES))
            case ChildKind.TEMPLATE:
                process.control.append(
                    control.TemplateReady(process.pid, 1, self.private_bytes, self.private_bytes, 1, 0.5, {})
                )
            case ChildKind.FETCHER:
                process.control.append(control.Fetched("/cache/model"))
                self.die(process, 0)
            case ChildKind.WORKER:
                process.private_bytes = process.kept_bytes = self.private_bytes
                ready = link.Ready(process.worker, process.incarnation, process.pid, self.private_bytes, 1, 0)
                process.link.append(WorkerSaid(ready))
        return []

    def _answer_canary(self, process: Process) -> list[Event]:
        process.canaries -= 1
        vector = struct.pack("<2f", 0.6, -0.8 if process.is_wrong else 0.8)
        result = link.Result(process.worker, process.incarnation, SERIAL, "", 1, 7, 0, 0)
        process.link.append(WorkerSaid(result, [b"header", vector]))
        return []

    def _exit(self, process: Process) -> list[Event]:
        process.link.append(WorkerSaid(link.Drained(process.worker, process.incarnation)))
        self.die(process, 0)
        return []

    def _can_be_reaped(self, process: Process) -> bool:
        """What a process said is read before its end is told; the shell sees to that."""
        if any(message is not None for message in process.control):
            return False
        parent = None if process.parent is None else self.processes[process.parent]
        return parent is None or parent.is_alive or not any(parent.control)

    def _reap(self, process: Process) -> list[Event]:
        process.life = Life.GONE
        parent = None if process.parent is None else self.processes[process.parent]
        is_told = process.kind is ChildKind.WORKER and process.turns is not None
        journal: list[Event] = [JournalRead(process.child, process.turns or ())] if is_told else []
        if parent is not None and parent.is_alive:
            parent.control.append(control.Exited(process.child, process.pid, process.exit_code))
            return journal
        return [*journal, ChildReaped(process.child, process.exit_code, orphan=parent is not None)]

    def _deliver_control(self, process: Process) -> list[Event]:
        message = process.control.popleft()
        if message is None:
            return [ControlLost(process.child)]
        if isinstance(message, control.Forked):
            self.processes[message.child].is_known = True
        return [ForkerSaid(process.child, message)]

    def _deliver_link(self, process: Process) -> list[Event]:
        return [process.link.popleft()]


def _refusal(held: Held) -> bytes:
    """The header of the answer to who asked for a convicted text."""
    assert isinstance(held.header, tuple)
    return codec.encode_answer(
        error_codec.error_answer(held.header[1], Poisoned("told not to", details={"indices": [0]}))
    )


def digest_of(header: object, body: object) -> bytes:
    """Of the one text of a request: its body, or as many texts as there are requests without one."""
    return digest_of_text(repr(body or header), "")


def card(name: str, *, weights_bytes: int = 40 * MIB, marks: str = FIRST_MARKS) -> ModelCard:
    """A small model with two tasks and two dimensions."""
    return ModelCard(
        name=name,
        folder=f"/models/{name}",
        revision=marks,
        files=FileSet(names=("config.json", "model.safetensors"), marks=marks),
        weights_digest=f"digest of {name}",
        family="bert",
        dim=384,
        pooled_dim=384,
        max_tokens=256,
        vocabulary=1000,
        pooling=(Pooling.MEAN,),
        normalize=True,
        prompts={"query": "query: ", "document": ""},
        dimensions=(384, 128),
        weights_files=("model.safetensors",),
        weights_bytes=weights_bytes,
        parameters=weights_bytes // 4,
        hidden=384,
        intermediate=1536,
    )


def card_read(name: str, *, marks: str = FIRST_MARKS) -> CardRead:
    return CardRead(name, card(name, marks=marks))
