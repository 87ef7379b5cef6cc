"""The decider of the package: may this start, what must go for it, or what is in the way.

Asking changes nothing; leasing, lowering and releasing change the ledger and nothing else. Starting, draining and
measuring is the caller's work. What to do when processes outgrow their leases is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from embeddaemon.governor.budget import Budget, format_bytes
from embeddaemon.governor.eviction import Candidate, choose_victims
from embeddaemon.governor.ledger import Lease, Ledger
from embeddaemon.governor.samples import MemorySample

FORK_SERVER = "fork-server"

# Twice what a model of 1 GB may take to start: no model is evicted that cost more to load than it was there to use.
MINIMUM_RESIDENCE_SECONDS = 10.0

# Samples come every few seconds; after several have failed to come, the last one says nothing about the machine.
SAMPLE_VALID_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Leases that are wanted together or not at all: holders and their bytes."""

    holders: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        assert self.holders, "a demand for nothing: bug"
        assert all(count > 0 for _, count in self.holders), f"a demand without bytes: bug, {self.holders}"
        assert len(dict(self.holders)) == len(self.holders), f"a holder twice in one demand: bug, {self.holders}"

    @property
    def total_bytes(self) -> int:
        """Bytes of all holders together."""
        return sum(count for _, count in self.holders)


class WaitReason(Enum):
    """What a demand that would fit one day waits for."""

    EVICTION_UNDER_WAY = "what was told to go is still leaving"
    NOTHING_TO_EVICT = "what is loaded is busy, pinned or only just loaded"
    OTHER_PROCESSES = "processes that are not ours hold the memory"


@dataclass(frozen=True, slots=True)
class Granted:
    """There is room: lease it now, in the same step."""


@dataclass(frozen=True, slots=True)
class Evict:
    """There is room once these are gone: let them go, and ask again when they are reaped."""

    victims: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """No room now. Ask again after the next release or sample."""

    needed_bytes: int
    available_bytes: int
    limit_bytes: int
    source: str
    reason: WaitReason

    def text(self) -> str:
        """One line for a person, with the numbers and where they come from."""
        return (
            f"needs {format_bytes(self.needed_bytes)}; {format_bytes(self.available_bytes)} available, "
            f"{self.reason.value}; limit {format_bytes(self.limit_bytes)} ({self.source})"
        )


@dataclass(frozen=True, slots=True)
class Never:
    """No room even with everything else gone; ``available_bytes`` is what there would be then."""

    needed_bytes: int
    available_bytes: int
    limit_bytes: int
    source: str

    def text(self) -> str:
        """One line for a person, with the numbers and where they come from."""
        return (
            f"needs {format_bytes(self.needed_bytes)}; never more than {format_bytes(self.available_bytes)} available; "
            f"limit {format_bytes(self.limit_bytes)} ({self.source})"
        )


Answer = Granted | Evict | Wait | Never


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``status`` shows of one device, all in bytes. ``free_bytes`` is None while there is no valid sample."""

    budget: Budget
    leased_bytes: int
    pending_bytes: int
    free_bytes: int | None
    headroom_bytes: int
    sample: MemorySample | None
    leases: tuple[Lease, ...]


class Governor:
    """Decides over one budget. Every call takes what it needs to know; there is no clock in here.

    ``permanent`` holders are never evicted: a demand that fits only without them does not fit.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        permanent: frozenset[str] = frozenset({FORK_SERVER}),
        minimum_residence_seconds: float = MINIMUM_RESIDENCE_SECONDS,
        sample_valid_seconds: float = SAMPLE_VALID_SECONDS,
    ) -> None:
        self.budget = budget
        self._ledger = Ledger(budget)
        self._permanent = permanent
        self._minimum_residence_seconds = minimum_residence_seconds
        self._sample_valid_seconds = sample_valid_seconds
        self._sample: MemorySample | None = None
        self._measured_since_sample: dict[str, int] = {}

    def ask(self, demand: Demand, candidates: Sequence[Candidate], now: float) -> Answer:
        """Whether a demand fits now, fits after evictions, must wait, or never fits. Changes nothing.

        ``candidates`` are all that is loaded, also what is busy or leaving: the answer counts on what is on its way
        back instead of sending more away.
        """
        needed = demand.total_bytes
        in_empty_machine = self.budget.leasable_bytes - self._ledger.held_bytes(self._permanent)
        if needed > in_empty_machine:
            return Never(needed, max(0, in_empty_machine), self.budget.bytes, self.budget.source)
        headroom = self.headroom(now)
        if needed <= headroom:
            return Granted()
        freed = {each.name: self._ledger.held_bytes(each.holders) for each in candidates}
        leaving = sum(freed[each.name] for each in candidates if each.is_leaving)
        if needed <= headroom + leaving:
            return self._wait(needed, headroom, WaitReason.EVICTION_UNDER_WAY)
        victims = choose_victims(candidates, freed, needed - headroom - leaving, now, self._minimum_residence_seconds)
        if victims is not None:
            return Evict(victims)
        if self._ledger.can_lease(needed):
            return self._wait(needed, headroom, WaitReason.OTHER_PROCESSES)
        return self._wait(needed, headroom, WaitReason.NOTHING_TO_EVICT)

    def lease(self, holder: str, count: int, now: float) -> None:
        """Promise ``count`` bytes to ``holder``; only after ``ask`` granted them, in the same step."""
        self._ledger.lease(holder, count, now)

    def lower(self, holder: str, count: int) -> None:
        """Take back what a lease has above ``count`` bytes, once its holder is READY. Never makes a lease larger."""
        self._ledger.lower(holder, count)

    def can_raise_to(self, holder: str, count: int) -> bool:
        """Whether the lease of a holder that turned out larger can be made ``count`` bytes."""
        return self._ledger.can_raise_to(holder, count)

    def raise_to(self, holder: str, count: int) -> None:
        """Make a lease as large as its holder turned out to be; only after ``can_raise_to``."""
        self._ledger.raise_to(holder, count)

    def measured(self, holder: str, resident_bytes: int) -> None:
        """Note the private bytes of a holder. One that has no lease (any more) is none of our business.

        Counts from the next sample on: a sample from before it still counts those bytes as free, and they must not stop
        being pending before they stop being free. A process that forks shares pages with its children and so looks
        smaller than it is; measure it when it is READY, before its first child, and not again.
        """
        if holder in self._ledger:
            self._measured_since_sample[holder] = resident_bytes

    def release(self, holder: str) -> None:
        """Give a lease back; only when the process was reaped."""
        self._ledger.release(holder)
        self._measured_since_sample.pop(holder, None)

    def observe(self, sample: MemorySample) -> None:
        """Take note of a sample; one that is older than what we know already is dropped."""
        if self._sample is not None and sample.taken_at < self._sample.taken_at:
            return
        self._sample = sample
        for holder, resident_bytes in self._measured_since_sample.items():
            self._ledger.measured(holder, resident_bytes)
        self._measured_since_sample.clear()

    def headroom(self, now: float) -> int:
        """Bytes that could be leased now; negative when others have taken what was promised.

        Without a sample, or with a stale one, only the ledger speaks: an old number may be wrong in both directions,
        and waiting for one that never comes would pause everything for ever.
        """
        on_paper = self.budget.bytes - self._ledger.leased_bytes
        sample = self._valid_sample(now)
        really = on_paper if sample is None else sample.free_bytes - self._ledger.pending_bytes
        return min(on_paper, really) - self.budget.reserve_bytes

    def snapshot(self, now: float) -> Snapshot:
        """Everything that ``status`` shows about this device."""
        sample = self._valid_sample(now)
        return Snapshot(
            budget=self.budget,
            leased_bytes=self._ledger.leased_bytes,
            pending_bytes=self._ledger.pending_bytes,
            free_bytes=None if sample is None else sample.free_bytes,
            headroom_bytes=self.headroom(now),
            sample=sample,
            leases=self._ledger.leases,
        )

    def _valid_sample(self, now: float) -> MemorySample | None:
        if self._sample is None or now - self._sample.taken_at > self._sample_valid_seconds:
            return None
        return self._sample

    def _wait(self, needed: int, headroom: int, reason: WaitReason) -> Wait:
        return Wait(needed, max(0, headroom), self.budget.bytes, self.budget.source, reason)
