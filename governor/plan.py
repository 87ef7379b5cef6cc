"""Would these models fit, and what would be evicted: the governor is asked as if they were wanted one after the other.

Nothing is started. Everything is taken to be idle and loaded long ago once it is loaded, and to hold what its footprint
says; a real day also has busy models, and other processes that take memory. What a model is leased is the caller's to
say (staffing.py of the supervisor asks with the same numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from embeddaemon.governor.core import FORK_SERVER, Demand, Evict, Governor, Granted, Never, Wait, Want
from embeddaemon.governor.eviction import Candidate
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.samples import RAM

# Between two models: what a device gives back late has come back.
_STEP_SECONDS = 3600.0
# However long a model must stay at least, it has.
_LONG_AGO = float("-inf")


@dataclass(frozen=True, slots=True)
class Start:
    """Processes that are leased together before they start, and what each of these leases is lowered to after."""

    wants: tuple[Want, ...]
    rest_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.wants) == len(self.rest_bytes), "a rest for each lease"


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model by what it starts, in order; the first is what it needs to serve at all."""

    name: str
    starts: tuple[Start, ...]
    is_pinned: bool
    needs_fork_server: bool


class Fit(Enum):
    """What became of one model."""

    YES = "yes"
    EVICTS = "evicts"
    FEWER_WORKERS = "fewer workers"
    """It serves, with less than its minimum of workers."""
    WAITS = "waits"
    """What is pinned leaves it no room."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes of one device."""

    device: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model led to. ``needs`` is the most that it is leased at once, ``at_rest`` what it keeps.

    ``others`` are the models that go for it, or the pinned ones that it waits for. ``workers`` are started of
    ``workers_wanted``. ``leased`` is all that is leased after it, by device.
    """

    name: str
    fit: Fit
    needs: tuple[Amount, ...]
    at_rest: tuple[Amount, ...]
    others: tuple[str, ...]
    workers: int
    workers_wanted: int
    leased: tuple[Amount, ...]
    why: str | None = None
    """Of one that does not fit: the governor's own words."""


def plan(
    governor: Governor, models: Sequence[PlannedModel], fork_server_bytes: int = FORK_SERVER_BYTES
) -> tuple[Outcome, ...]:
    """Load the models one after the other. The governor is used up: what was leased last stays leased in it."""
    plans = _Plan(governor, fork_server_bytes)
    return tuple(plans.load(model) for model in models)


class _Plan:
    def __init__(self, governor: Governor, fork_server_bytes: int) -> None:
        self._governor = governor
        self._fork_server_bytes = fork_server_bytes
        self._now = _STEP_SECONDS
        self._loaded: dict[str, Candidate] = {}

    def load(self, model: PlannedModel) -> Outcome:
        """Everything that one model starts, as far as there is room."""
        self._now += _STEP_SECONDS
        evicted: list[str] = []
        holders: list[str] = []
        refused: Wait | Never | None = None
        started = 0
        for start in model.starts:
            demand = self._demand(model, start)
            refused = self._make_room(demand, evicted)
            if refused is not None:
                break
            self._lease(demand, start)
            holders += [want.holder for want in start.wants]
            started += 1
        pinned = tuple(each.name for each in self._loaded.values() if each.is_pinned)
        if started:
            self._loaded[model.name] = Candidate(model.name, tuple(holders), self._now, _LONG_AGO, model.is_pinned)
        fit = _fit(refused, started, evicted)
        return Outcome(
            name=model.name,
            fit=fit,
            needs=_needs(model.starts),
            at_rest=_sums((want.device, rest) for start in model.starts for want, rest in _rests(start)),
            others=pinned if fit is Fit.WAITS else tuple(evicted),
            workers=started,
            workers_wanted=len(model.starts),
            leased=tuple(Amount(each, self._leased_bytes(each)) for each in self._governor.devices),
            why=None if refused is None else refused.text(),
        )

    def _demand(self, model: PlannedModel, start: Start) -> Demand:
        if model.needs_fork_server and not self._governor.held_bytes((FORK_SERVER,)):
            return Demand((Want(FORK_SERVER, self._fork_server_bytes), *start.wants))
        return Demand(start.wants)

    def _make_room(self, demand: Demand, evicted: list[str]) -> Wait | Never | None:
        """Evict what must go and name it; None when there is room, else what stands in the way."""
        while True:
            answer = self._governor.ask(demand, tuple(self._loaded.values()), self._now)
            match answer:
                case Granted():
                    return None
                case Evict():
                    for victim in answer.victims:
                        self._evict(victim)
                        evicted.append(victim.name)
                case Wait() | Never():
                    return answer

    def _evict(self, victim: Candidate) -> None:
        del self._loaded[victim.name]
        for holder in victim.holders:
            self._governor.release(holder, self._now)

    def _lease(self, demand: Demand, start: Start) -> None:
        for want in demand.wants:
            self._governor.lease(want.holder, want.bytes, self._now, want.device)
        for want, rest_bytes in _rests(start):
            self._governor.lower(want.holder, rest_bytes)

    def _leased_bytes(self, device: str) -> int:
        return self._governor.snapshot(self._now, device).leased_bytes


def _fit(refused: Wait | Never | None, started: int, evicted: Sequence[str]) -> Fit:
    if refused is None:
        return Fit.EVICTS if evicted else Fit.YES
    if started:
        return Fit.FEWER_WORKERS
    return Fit.NEVER if isinstance(refused, Never) else Fit.WAITS


def _rests(start: Start) -> Iterable[tuple[Want, int]]:
    return zip(start.wants, start.rest_bytes, strict=True)


def _needs(starts: Sequence[Start]) -> tuple[Amount, ...]:
    """The most at once, by device: each start comes when those before it rest."""
    devices = dict.fromkeys((RAM, *(want.device for start in starts for want in start.wants)))
    return tuple(Amount(device, _most(starts, device)) for device in devices)


def _most(starts: Sequence[Start], device: str) -> int:
    most = resting = 0
    for start in starts:
        most = max(most, resting + sum(want.bytes for want in start.wants if want.device == device))
        resting += sum(rest for want, rest in _rests(start) if want.device == device)
    return most


def _sums(amounts: Iterable[tuple[str, int]]) -> tuple[Amount, ...]:
    sums = {RAM: 0}
    for device, count in amounts:
        sums[device] = sums.get(device, 0) + count
    return tuple(Amount(device, count) for device, count in sums.items())
