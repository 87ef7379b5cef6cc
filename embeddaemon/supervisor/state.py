"""Everything the supervisor knows: models, processes, open requests. Data, and what follows from it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from embeddaemon.config.settings import Settings
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.core import Governor
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.learned import Learned
from embeddaemon.governor.pressure import Level
from embeddaemon.supervisor.commands import Command, Log
from embeddaemon.supervisor.connections.quotas import Usage
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child
from embeddaemon.supervisor.processes.lifecycle import Worker
from embeddaemon.supervisor.requests.cache import Cache
from embeddaemon.supervisor.requests.dispatch import OpenRequest
from embeddaemon.supervisor.sickness.askers import Asker, Checkup
from embeddaemon.supervisor.timers import Timers


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
    address_space_bytes: int | None = None
    """The most that a process of ours may map (RLIMIT_AS); None: any amount."""


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
    """Its deaths since anybody was last answered."""
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
