"""The life of one worker: its states, the transitions that exist, and the record that walks them. Pure.

    STARTING -> LOADING -> READY <-> BUSY -> DRAINING -> STOPPED
    any live one -> FAILED -> BACKING_OFF -> STARTING

A worker *slot* (its number) outlives its processes: each new life is the next incarnation, a new ``Worker``.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from embeddaemon.protocol import link
from embeddaemon.protocol.control import EXIT_FORK_FAILED, EXIT_LOAD_FAILED, EXIT_OUT_OF_MEMORY
from embeddaemon.protocol.messages import Lane
from embeddaemon.supervisor.requests.pace import Meter


class WorkerState(Enum):
    """Where a worker is in its life; ``TRANSITIONS`` says what may follow."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


_S = WorkerState
TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    _S.STARTING: frozenset({_S.LOADING, _S.READY, _S.DRAINING, _S.FAILED}),
    _S.LOADING: frozenset({_S.READY, _S.DRAINING, _S.FAILED}),
    _S.READY: frozenset({_S.BUSY, _S.DRAINING, _S.FAILED}),
    _S.BUSY: frozenset({_S.READY, _S.DRAINING, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}
"""The only truth. What follows FAILED is a new incarnation, so the old one ends there."""

SERVING = frozenset({_S.READY, _S.BUSY})
COMING = frozenset({_S.STARTING, _S.LOADING})
ENDED = frozenset({_S.STOPPED, _S.FAILED})

_STORY_LENGTH = 12


class IllegalTransition(AssertionError):
    """A worker was asked to go where its state does not lead: a bug of ours. Nothing was changed."""


@dataclass(slots=True)
class Dispatched:
    """A dispatch that a worker holds."""

    lane: Lane
    sent_at: float
    sizes: dict[int, int]
    """Body bytes of its requests that have not ended, by serial."""
    size: int
    """Body bytes of all of it."""
    computed_bytes: int = 0


@dataclass(slots=True)
class Taught:
    """What heartbeats said about a worker's memory, from the first of them on; all of it the most that was said."""

    since: float = math.inf
    private_bytes: int = 0
    peak_bytes: int = 0
    device_bytes: int = 0
    tokens: int = 0

    def heard(self, beat: link.Heartbeat, now: float) -> None:
        """One more heartbeat."""
        self.since = min(self.since, now)
        self.private_bytes = max(self.private_bytes, beat.private_bytes)
        self.peak_bytes = max(self.peak_bytes, beat.peak_bytes)
        self.device_bytes = max(self.device_bytes, beat.device_bytes)
        self.tokens = max(self.tokens, beat.tokens)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One incarnation. Times are monotonic seconds, sizes bytes."""

    number: int
    """The slot among those of all models; what the worker calls itself on the link."""
    slot: int
    """The slot among those of its model."""
    incarnation: int
    child: int
    """The process that lives it."""
    model: str
    started_at: float
    state: WorkerState = WorkerState.STARTING
    heard_at: float = 0.0
    idle_since: float = 0.0
    drain_by: float | None = None
    """When draining: after this it is killed."""
    progress: int = 0
    turn_ms: int = 0
    """For how long its latest thread was at its turn when it last said so, and how long that may be."""
    patience_ms: int = 0
    canary_at: float = 0.0
    """When it was last asked for the known vector."""
    private_bytes: int = 0
    threads: int = 0
    taught: Taught = field(default_factory=Taught)
    """About its memory, and not believed yet."""
    dispatches: dict[int, Dispatched] = field(default_factory=dict)
    """What it holds by number, in the order in which it was sent."""
    bulk_through_at: float = 0.0
    """When it was last through with a bulk dispatch."""
    meter: Meter = field(default_factory=Meter)
    exclusive: bool = False
    """It holds a suspect alone; nothing else may join."""
    story: deque[tuple[WorkerState, WorkerState, float]] = field(default_factory=lambda: deque(maxlen=_STORY_LENGTH))

    @property
    def label(self) -> str:
        return f"{self.model}/{self.slot}.{self.incarnation}"

    @property
    def in_flight(self) -> int:
        return sum(len(dispatch.sizes) for dispatch in self.dispatches.values())

    @property
    def held_bytes(self) -> int:
        """Of all the dispatches that it holds."""
        return sum(dispatch.size for dispatch in self.dispatches.values())

    def holds(self, lane: Lane) -> int:
        """How many dispatches of a lane."""
        return sum(dispatch.lane is lane for dispatch in self.dispatches.values())

    def ended(self, serial: int, now: float, *, is_computed: bool) -> Dispatched | None:
        """A request that it held ended there; the dispatch that is through with it, if one is."""
        for number, dispatch in self.dispatches.items():
            size = dispatch.sizes.pop(serial, None)
            if size is None:
                continue
            dispatch.computed_bytes += size if is_computed else 0
            if dispatch.sizes:
                return None
            del self.dispatches[number]
            if dispatch.lane is Lane.BULK:
                self.bulk_through_at = now
            return dispatch
        return None

    def becomes(self, state: WorkerState, now: float) -> None:
        """Walk one transition. Raises IllegalTransition with the recent story."""
        if state not in TRANSITIONS[self.state]:
            story = " ".join(f"{before.value}->{after.value}@{at:.3f}" for before, after, at in self.story)
            raise IllegalTransition(
                f"worker {self.label}: {self.state.value} -> {state.value} does not exist; story: {story}"
            )
        self.story.append((self.state, state, now))
        self.state = state

    def settles(self, now: float) -> None:
        """READY or BUSY, by what it holds."""
        if self.state is WorkerState.READY and self.dispatches:
            self.becomes(WorkerState.BUSY, now)
        elif self.state is WorkerState.BUSY and not self.dispatches:
            self.becomes(WorkerState.READY, now)
            self.idle_since = now
            self.exclusive = False


class DeathClass(Enum):
    """What an exit means. Appears in the log, in status and in the client's error."""

    STOPPED = "stopped"
    LOAD_FAILED = "load_failed"
    FORK_FAILED = "fork_failed"
    KILLED = "killed"
    SEGFAULT = "segfault"
    ABORTED = "aborted"
    WEIGHTS_CHANGED = "weights_changed"
    ILLEGAL_INSTRUCTION = "illegal_instruction"
    SIGNALLED = "signalled"
    EXITED = "exited"
    TERMINATED = "terminated"
    SILENT = "silent"
    STALLED = "stalled"
    CANARY_FAILED = "canary_failed"
    OUT_OF_MEMORY = "out_of_memory"
    MACHINE_OUT_OF_MEMORY = "machine_out_of_memory"
    OVER_LEASE = "over_lease"
    PRESSURE = "memory_pressure"
    DRAIN_TIMEOUT = "drain_timeout"
    LOAD_TIMEOUT = "load_timeout"
    PARENT_DIED = "parent_died"


INNOCENT_OF_REQUESTS = frozenset(
    {
        DeathClass.STOPPED,
        DeathClass.PARENT_DIED,
        DeathClass.PRESSURE,
        DeathClass.MACHINE_OUT_OF_MEMORY,
        DeathClass.DRAIN_TIMEOUT,
        DeathClass.WEIGHTS_CHANGED,
        DeathClass.TERMINATED,
        DeathClass.CANARY_FAILED,
    }
)
"""Deaths that say nothing against the requests that the process held."""

CONVICTING = frozenset(
    {
        DeathClass.SEGFAULT,
        DeathClass.ABORTED,
        DeathClass.ILLEGAL_INSTRUCTION,
        DeathClass.SIGNALLED,
        DeathClass.EXITED,
        DeathClass.STALLED,
        DeathClass.SILENT,
    }
)
"""Deaths that a text can be the cause of. SIGKILL comes from outside, and what we kill for memory's sake is ours."""

BLAMELESS = INNOCENT_OF_REQUESTS - {
    DeathClass.MACHINE_OUT_OF_MEMORY,
    DeathClass.WEIGHTS_CHANGED,
    DeathClass.TERMINATED,
    DeathClass.CANARY_FAILED,
}
"""Deaths that say nothing against the process and its model either: what cannot be had now is not tried at once."""

_SIGNALS = {
    -9: DeathClass.KILLED,
    -11: DeathClass.SEGFAULT,
    -6: DeathClass.ABORTED,
    -7: DeathClass.WEIGHTS_CHANGED,
    -4: DeathClass.ILLEGAL_INSTRUCTION,
    -8: DeathClass.SIGNALLED,
    -5: DeathClass.SIGNALLED,
    -31: DeathClass.SIGNALLED,
}
"""Faults (the last three are SIGFPE, SIGTRAP and SIGSYS). Whatever is not here is sent by somebody."""


def classify(exit_code: int | None) -> DeathClass:
    """The class of an exit code as ``os.waitstatus_to_exitcode`` gives it; None when nobody could collect it.

    Not of who ended with its parent: only whoever reaped it knows that. EXIT_ORPHANED reported by a living parent is a
    fault like any other.
    """
    if exit_code is None:
        return DeathClass.KILLED
    if exit_code == 0:
        return DeathClass.STOPPED
    if exit_code == EXIT_LOAD_FAILED:
        return DeathClass.LOAD_FAILED
    if exit_code == EXIT_FORK_FAILED:
        return DeathClass.FORK_FAILED
    if exit_code == EXIT_OUT_OF_MEMORY:
        return DeathClass.OUT_OF_MEMORY
    if exit_code < 0:
        return _SIGNALS.get(exit_code, DeathClass.TERMINATED)
    return DeathClass.EXITED


def explain(death: DeathClass, exit_code: int | None) -> str:
    """A death in words, for logs and errors."""
    texts = {
        DeathClass.STOPPED: "stopped",
        DeathClass.LOAD_FAILED: "could not load its model",
        DeathClass.FORK_FAILED: "could not be forked (no memory, or too many processes)",
        DeathClass.KILLED: "was killed (SIGKILL: by a person or by the kernel for lack of memory)",
        DeathClass.SEGFAULT: "crashed (SIGSEGV)",
        DeathClass.ABORTED: "aborted (SIGABRT)",
        DeathClass.WEIGHTS_CHANGED: "lost what it had mapped (SIGBUS: a file became shorter, or disk or memory fail)",
        DeathClass.ILLEGAL_INSTRUCTION: "met an instruction that this processor lacks (SIGILL)",
        DeathClass.SIGNALLED: f"was ended by signal {-(exit_code or 0)}",
        DeathClass.EXITED: f"exited with code {exit_code}",
        DeathClass.TERMINATED: f"was told to end by signal {-(exit_code or 0)}, not by us",
        DeathClass.SILENT: "gave no sign of life and was killed",
        DeathClass.STALLED: "got no further with what it computed and was killed",
        DeathClass.CANARY_FAILED: "computed another vector for a known text than it should, and was killed",
        DeathClass.OUT_OF_MEMORY: "wanted more memory than it may have",
        DeathClass.MACHINE_OUT_OF_MEMORY: "was killed by the kernel, which had no memory left",
        DeathClass.OVER_LEASE: "held more memory than its lease while memory was short, and was killed",
        DeathClass.PRESSURE: "was killed because memory was short",
        DeathClass.DRAIN_TIMEOUT: "was to go, did not finish what it held in time, and was killed",
        DeathClass.LOAD_TIMEOUT: "was not ready in time and was killed",
        DeathClass.PARENT_DIED: "ended with the process that forked it",
    }
    return texts[death]
