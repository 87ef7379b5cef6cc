"""One process below the supervisor, from the decision to start it until it is reaped: data. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol.journal import Turn
from embeddaemon.supervisor.events import JournalRead, KernelKilled
from embeddaemon.supervisor.processes.lifecycle import DeathClass


class ChildKind(Enum):
    """What a process below us is there for; the value names it in logs and leases."""

    FORK_SERVER = "fork server"
    TEMPLATE = "template"
    FETCHER = "fetcher"
    WORKER = "worker"


@dataclass(slots=True)
class Overrun:
    """A worker that holds more than its lease: told to trim, then to go."""

    trims_sent: int = 0
    over_at: float = -math.inf
    """When it was last heard to be over its lease."""


@dataclass(slots=True, kw_only=True)
class Child:
    """One process below us, from the decision to start it until it is reaped."""

    number: int
    kind: ChildKind
    started_at: float
    holder: str
    """Under which its lease on host memory stands in the governor."""
    device_holder: str | None = None
    """Under which its lease on another device stands, if it has one."""
    loads_on: str | None = None
    """The device on which it loads weights before it is ready; None of those that load none."""
    overrun: Overrun = field(default_factory=Overrun)
    """Of a worker: what is done about a lease that it passed."""
    reserved_bytes: int = 0
    """Of a template: leased together with it for its first worker, until that one starts."""
    model: str | None = None
    parent: int | None = None
    """The child that forked it; None when it is our own."""
    slot: int | None = None
    """Of a worker: which slot it lives for."""
    pid: int | None = None
    is_ready: bool = False
    lost_at: float | None = None
    """When its control socket, or that of a process above it, was at its end: its own end is still to be reported."""
    ending: DeathClass | None = None
    """Why we are ending it, once we are; else its exit code tells."""
    ending_at: float | None = None
    """Since when we are."""
    load_error: EmbedDaemonError | None = None
    kernel_kill: KernelKilled | None = None
    """The kernel ended it for lack of memory."""
    turns: tuple[Turn, ...] | None = None
    """Of a worker that ended: what its journal says; None when it says nothing."""
    dumped_at: float | None = None
    """When it was told to write where it hangs: it is killed a moment later, if it still does."""

    def learn_of_end(self, told: KernelKilled | JournalRead) -> None:
        """What is said about its end just before the end itself."""
        if isinstance(told, KernelKilled):
            self.kernel_kill = told
        else:
            self.turns = told.turns

    @property
    def is_lost(self) -> bool:
        return self.lost_at is not None

    @property
    def is_leaving(self) -> bool:
        """Told to go, or going: nothing new is asked of it, and its lease is on its way back."""
        return self.is_lost or self.ending is not None

    @property
    def is_usable(self) -> bool:
        return self.is_ready and not self.is_leaving

    @property
    def holders(self) -> tuple[str, ...]:
        """Under which all its leases stand."""
        mine = (self.holder,) if self.device_holder is None else (self.holder, self.device_holder)
        return (*mine, self.reserved_holder) if self.reserved_bytes else mine

    @property
    def reserved_holder(self) -> str:
        """Under which the lease of a template's first worker stands until that worker starts."""
        return f"worker:{self.model}/first-of-{self.number}"
