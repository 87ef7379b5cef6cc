"""Everything the supervisor knows: models, processes, open requests. Data, and what follows from it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from embeddaemon.config.settings import Settings
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.core import Demand, Governor, Wait
from embeddaemon.governor.footprint import Footprint
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.learned import Learned
from embeddaemon.governor.pressure import Level
from embeddaemon.models.card import ModelCard
from embeddaemon.models.identity import fingerprint
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.journal import Turn
from embeddaemon.supervisor.askers import Asker, Checkup
from embeddaemon.supervisor.cache import Cache
from embeddaemon.supervisor.commands import Command, Log
from embeddaemon.supervisor.dispatch import OpenRequest, Queue
from embeddaemon.supervisor.events import JournalRead, KernelKilled
from embeddaemon.supervisor.intensity import Intensity
from embeddaemon.supervisor.lifecycle import COMING, SERVING, DeathClass, Worker
from embeddaemon.supervisor.pace import Pace
from embeddaemon.supervisor.quotas import Usage
from embeddaemon.supervisor.suspects import Suspects
from embeddaemon.supervisor.timers import Timers
from embeddaemon.supervisor.watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the shell found out about where it runs, once at start."""

    cores: int
    has_bfloat16: bool
    """Whether the processor computes bfloat16 fast (AVX512-BF16 or AMX)."""
    device: str
    """What ``auto`` means here: ``mps``, ``cuda`` or ``cpu``."""
    instance: str
    """Random name of this life of the daemon, so that clients notice a restart."""
    version: str
    pid: int
    started_at: float


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


@dataclass(slots=True)
class Canary:
    """The known text of a model and its vector (canary.py)."""

    fingerprint: bytes = b""
    """Of the weights that it belongs to."""
    vector: tuple[float, ...] | None = None
    failures: int = 0
    """Workers in a row that gave another one."""


@dataclass(slots=True, kw_only=True)
class Waiter:
    """A client that waits for a load or an unload to be done."""

    client: bytes
    id: int
    since: float
    deadline: float


@dataclass(slots=True, kw_only=True)
class ModelState:
    """One configured model and everything that serves it now."""

    spec: ModelSpec
    number: int = 0
    """Distinct from that of every other model; what the numbers of its workers begin with."""
    is_removed: bool = False
    """No longer configured: what was accepted is finished, then it goes."""
    card: ModelCard | None = None
    is_card_fresh: bool = False
    """Read since the model was last loaded: a folder may have changed since then."""
    computed: Footprint | None = None
    """What it is taken to need by its declared estimate, or by its weights and settings."""
    footprint: Footprint | None = None
    """The same after what was measured; what is leased."""
    stream_tokens: int = 0
    """Most tokens that one of its threads computes at once: as many as the footprint is computed for."""
    element_bytes: int = 0
    """Of its weights as they are computed with, ``auto`` resolved."""
    automatic: Footprint | None = None
    """What "auto" computes, whatever was declared."""
    is_estimate_warned: bool = False
    """Its owner was told that the declared estimate is off."""
    worker_floor_bytes: int = 0
    """What a worker is leased at least, since some were found to want more in this life of the daemon."""
    folder: str | None = None
    """Where a hub model was fetched to."""
    is_reading: bool = False
    fetcher: int | None = None
    template: int | None = None
    watch: Watch = field(default_factory=Watch)
    workers: dict[int, Worker] = field(default_factory=dict)
    """The living incarnation of each slot."""
    incarnations: Counter[int] = field(default_factory=Counter)
    """The last incarnation of each slot that ever lived."""
    queue: Queue = field(default_factory=Queue)
    pace: Pace = field(default_factory=Pace)
    fingerprint: bytes = b""
    """Of the weights that are loaded, or were last; of those in the folder once it was read again."""
    is_wanted: bool = False
    """Somebody asked for it and nothing has sent it away since."""
    is_unloading: bool = False
    last_used: float = 0.0
    loaded_at: float = 0.0
    load_seconds: float = 0.0
    """How long loading took last, from the decision to the first worker."""
    load_started_at: float | None = None
    """Until its first worker is ready."""
    ready_at: float | None = None
    """When a worker of it was ready last; None: none ever was."""
    failures: int = 0
    """Deaths and failed loads since it last answered."""
    intensity: Intensity = field(default_factory=Intensity)
    suspects: Suspects = field(default_factory=Suspects)
    canary: Canary = field(default_factory=Canary)
    bad_output_believed_until: float = -math.inf
    """Two workers agreed that what they were asked gives bad numbers: until then no worker is replaced for it."""
    retry_at: float = 0.0
    """Nothing is started before."""
    error: EmbedDaemonError | None = None
    """Why it is not being started."""
    waiting: Wait | None = None
    """What the governor said when it last had no room for its first worker; None when it waits for something else."""
    demand: Demand | None = None
    """What it asked for then."""
    waiting_since: float | None = None
    """Since when work has waited for that memory; None also when nobody asked."""
    load_waiters: list[Waiter] = field(default_factory=list)
    unload_waiters: list[Waiter] = field(default_factory=list)
    replace_waiters: list[Waiter] = field(default_factory=list)
    """Those who asked for new workers beside the old ones."""
    wakers: int = 0
    """Health checks that wait until it is loaded and has embedded a text."""
    facts: dict[str, object] = field(default_factory=dict)
    """What the engine said when it loaded."""
    loads: int = 0
    deaths: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def serving(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in SERVING]

    @property
    def has_work(self) -> bool:
        is_waited_for = bool(self.queue or self.load_waiters or self.wakers)
        return is_waited_for or any(worker.dispatches for worker in self.workers.values())

    @property
    def staying(self) -> list[Worker]:
        """Workers that serve or will; not those that serve files of before until others do."""
        there = [worker for worker in self.workers.values() if worker.child not in self.watch.leaving]
        return [worker for worker in there if worker.state in SERVING or worker.state in COMING]

    @property
    def is_absent(self) -> bool:
        return not self.workers and self.template is None

    def learn_facts(self, facts: Mapping[str, object]) -> None:
        """What the engine said of the weights that it has loaded now."""
        self.facts = dict(facts)
        before, self.fingerprint = self.fingerprint, b"" if self.card is None else fingerprint(self.card, facts)
        if self.fingerprint != before:
            self.suspects.forget()
            self.bad_output_believed_until = -math.inf

    def take_up_spec(self) -> None:
        """From now on it is what it is configured to be: nothing that was made for what it was serves any more."""
        if self.watch.spec is None:
            return
        if self.watch.spec.source != self.spec.source:
            self.folder = self.watch.folder
        self.spec, self.watch.spec, self.watch.folder = self.watch.spec, None, None
        self.card = self.computed = self.footprint = self.automatic = self.error = None
        self.is_card_fresh = self.is_estimate_warned = False

    @property
    def waiters(self) -> tuple[list[Waiter], ...]:
        """Everybody who waits for something to be done to it."""
        return (self.load_waiters, self.unload_waiters, self.replace_waiters)

    def stop_waiting(self) -> None:
        """It does not wait for memory (any more)."""
        self.waiting = self.demand = self.waiting_since = None


@dataclass(slots=True)
class Configuration:
    """What is known of the files that the settings came from. Times are monotonic seconds."""

    files: tuple[str, ...] = ()
    read_at: float | None = None
    """When what is in force was read; None: at the start."""
    tried_at: float | None = None
    error: EmbedDaemonError | None = None
    """Why what was read last is not in force."""
    restart_needed: Mapping[str, str] = field(default_factory=dict)
    """Keys with another value than the one in force, and why."""
    reloads: int = 0


@dataclass(slots=True)
class State:
    """The supervisor's own. One owner: the core; ``commands`` is what the event in hand leads to."""

    settings: Settings
    machine: Machine
    governor: Governor
    random: Callable[[], float]
    models: dict[str, ModelState]
    cache: Cache
    learned: Learned
    """What was measured of models, in this life and before."""
    timers: Timers = field(default_factory=Timers)
    children: dict[int, Child] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    """The living ones of all models by the number that they have on the link."""
    fork_server: int | None = None
    fork_server_bytes: int = FORK_SERVER_BYTES
    """What it is leased at its start: as was once measured, then as it was found to need here."""
    fork_server_failures: int = 0
    fork_server_retry_at: float = 0.0
    open: dict[int, OpenRequest] = field(default_factory=dict)
    """Accepted requests that have not ended, by serial."""
    ids: dict[tuple[bytes, int], int] = field(default_factory=dict)
    """(client, its id) to serial, to refuse an id that is in use."""
    askers: list[Asker] = field(default_factory=list)
    """Health checks that wait for models to embed something."""
    checkups: dict[str, Checkup] = field(default_factory=dict)
    """What they embed, by model."""
    counts: Counter[str] = field(default_factory=Counter)
    commands: list[Command] = field(default_factory=list)
    drain_deadline: float | None = None
    """Set once we are asked to stop: when accepted requests must have ended."""
    stop_deadline: float | None = None
    """Set once the processes are told to go: when we stop waiting for them."""
    is_over: bool = False
    usage: Usage = field(default_factory=Usage)
    """Of each user."""
    clients: Callable[[], Mapping[str, Any]] = dict
    """Who is connected: only the shell knows."""
    hard_limits: str | None = None
    """What stops a worker that allocates without bound: the kind that hard_limits.py found."""
    sampled_at: float = float("-inf")
    learned_at: float | None = None
    """Since when there is something in it that is not written yet."""
    pressure_level: Level = Level.NORMAL
    """As it was when something was last done about it."""
    trimmed_at: float = float("-inf")
    """When idle workers were last told to trim, under the pressure that there is."""
    relieved_at: float = float("-inf")
    """When something was last sent away for the machine's sake."""
    asked_who_is_there_at: float = float("-inf")
    looked_at: float = float("inf")
    """When time was last looked at; what comes much later than it should says that we ourselves stood still."""
    configuration: Configuration = field(default_factory=Configuration)
    _models: int = 0
    _numbers: int = 0
    _serials: int = 0

    @property
    def is_draining(self) -> bool:
        return self.drain_deadline is not None

    def template_of(self, model: ModelState) -> Child | None:
        return None if model.template is None else self.children[model.template]

    def next_model(self) -> int:
        self._models += 1
        return self._models - 1

    def next_child(self) -> int:
        self._numbers += 1
        return self._numbers

    def next_serial(self) -> int:
        self._serials += 1
        return self._serials

    def child_of(self, worker: Worker) -> Child | None:
        return self.children.get(worker.child)

    def children_of(self, parent: int) -> Iterator[Child]:
        yield from [child for child in self.children.values() if child.parent == parent]

    def log(self, level: str, event: str, **fields: object) -> None:
        self.commands.append(Log(level, event, fields))
