"""One configured model and everything that serves it now: data, and what follows from it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.core import Demand, Wait
from embeddaemon.governor.footprint import Footprint
from embeddaemon.models.card import ModelCard
from embeddaemon.models.identity import fingerprint
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.changes.watch import Watch
from embeddaemon.supervisor.processes.lifecycle import COMING, SERVING, Worker
from embeddaemon.supervisor.requests.dispatch import Queue
from embeddaemon.supervisor.requests.pace import Pace
from embeddaemon.supervisor.sickness.intensity import Intensity
from embeddaemon.supervisor.sickness.suspects import Suspects


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
    def lasting(self) -> list[Worker]:
        """The same without one that loads beside them, to take over."""
        return [worker for worker in self.staying if worker.child != self.watch.successor]

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
        # How often it failed as what it was says nothing against what it is now.
        self.failures, self.intensity = 0, Intensity()

    @property
    def waiters(self) -> tuple[list[Waiter], ...]:
        """Everybody who waits for something to be done to it."""
        return (self.load_waiters, self.unload_waiters, self.replace_waiters)

    def stop_waiting(self) -> None:
        """It does not wait for memory (any more)."""
        self.waiting = self.demand = self.waiting_since = None
