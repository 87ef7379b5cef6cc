"""The memory of one device: its budget, the leases on it, and what was last seen of it. Who may go is in core.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embeddaemon.governor.budget import Budget
from embeddaemon.governor.ledger import Lease, Ledger
from embeddaemon.governor.samples import RAM, MemorySample

# Drivers of GPUs take back what a process held up to 1.5 s after its end. Most of it must be seen to be back; what
# others take meanwhile must not keep it from us for ever.
RETURN_SECONDS = 5.0
RETURNED_PERCENT = 75


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``status`` shows of one device, all in bytes. ``free_bytes`` is None while there is no valid sample.

    ``returning_bytes`` were given back by processes that ended, and the device does not show them yet.
    """

    budget: Budget
    leased_bytes: int
    resident_bytes: int
    pending_bytes: int
    returning_bytes: int
    free_bytes: int | None
    headroom_bytes: int
    sample: MemorySample | None
    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class _Returning:
    """Bytes of a process that ended, until a sample shows at least ``free_bytes``, or until a time."""

    bytes: int
    free_bytes: int
    until: float


class DeviceMemory:
    """One budget, one ledger. Host memory is back at the reap; that of other devices when they show it."""

    def __init__(self, budget: Budget, *, sample_valid_seconds: float) -> None:
        self.budget = budget
        self._ledger = Ledger(budget)
        self._sample_valid_seconds = sample_valid_seconds
        self._sample: MemorySample | None = None
        self._measured_since_sample: dict[str, tuple[int, int]] = {}
        self._returning: list[_Returning] = []

    def __contains__(self, holder: str) -> bool:
        return holder in self._ledger

    @property
    def resident_bytes(self) -> int:
        """What all holders were measured to hold."""
        return self._ledger.resident_bytes

    def lease_of(self, holder: str) -> Lease:
        """The lease that a holder has."""
        return self._ledger.lease_of(holder)

    def held_bytes(self, holders: Iterable[str]) -> int:
        """Bytes leased to these holders; one without a lease here counts nothing."""
        return self._ledger.held_bytes(holders)

    def fits_on_paper(self, count: int) -> bool:
        """Whether the budget has room for ``count`` more bytes, whatever the device shows."""
        return self._ledger.can_lease(count + self.returning_bytes)

    def lease(self, holder: str, count: int, now: float) -> None:
        """Promise ``count`` bytes to a holder that has no lease here yet."""
        self._ledger.lease(holder, count, now)

    def lower(self, holder: str, count: int) -> None:
        """Take back what a lease has above ``count`` bytes."""
        self._ledger.lower(holder, count)

    def can_raise_to(self, holder: str, count: int) -> bool:
        """Whether a lease could be ``count`` bytes."""
        return self.fits_on_paper(count - self._ledger.lease_of(holder).bytes)

    def raise_to(self, holder: str, count: int) -> None:
        """Make a lease larger; only after ``can_raise_to``."""
        self._ledger.raise_to(holder, count)

    def measured(self, holder: str, resident_bytes: int, peak_bytes: int) -> None:
        """Note what a holder holds; it counts from the next sample on.

        A sample from before still counts those bytes as free, and they must not stop being pending before they stop
        being free.
        """
        self._measured_since_sample[holder] = (resident_bytes, peak_bytes)

    def release(self, holder: str, now: float) -> None:
        """The holder's process was reaped."""
        lease = self._ledger.lease_of(holder)
        self._ledger.release(holder)
        self._measured_since_sample.pop(holder, None)
        if self.budget.device != RAM and self._sample is not None and lease.resident_bytes:
            back = self._sample.free_bytes + lease.resident_bytes * RETURNED_PERCENT // 100
            self._returning.append(_Returning(lease.bytes, back, now + RETURN_SECONDS))

    def observe(self, sample: MemorySample) -> None:
        """Take note of a sample; one that is older than what we know already is dropped."""
        if self._sample is not None and sample.taken_at < self._sample.taken_at:
            return
        self._sample = sample
        for holder, (resident_bytes, peak_bytes) in self._measured_since_sample.items():
            self._ledger.measured(holder, resident_bytes, peak_bytes)
        self._measured_since_sample.clear()
        self._returning = [
            each for each in self._returning if sample.free_bytes < each.free_bytes and sample.taken_at < each.until
        ]

    def headroom(self, now: float) -> int:
        """Bytes that could be leased now; negative when others have taken what was promised.

        Without a sample, or with a stale one, only the ledger speaks: an old number may be wrong in both directions,
        and waiting for one that never comes would pause everything for ever.
        """
        on_paper = self.budget.bytes - self._ledger.leased_bytes - self.returning_bytes
        sample = self.valid_sample(now)
        really = on_paper if sample is None else sample.free_bytes - self._ledger.pending_bytes
        return min(on_paper, really) - self.budget.reserve_bytes

    def valid_sample(self, now: float) -> MemorySample | None:
        """The last sample, if it still says something."""
        if self._sample is None or now - self._sample.taken_at > self._sample_valid_seconds:
            return None
        return self._sample

    def snapshot(self, now: float) -> Snapshot:
        """Everything at once."""
        sample = self.valid_sample(now)
        return Snapshot(
            budget=self.budget,
            leased_bytes=self._ledger.leased_bytes,
            resident_bytes=self._ledger.resident_bytes,
            pending_bytes=self._ledger.pending_bytes,
            returning_bytes=self.returning_bytes,
            free_bytes=None if sample is None else sample.free_bytes,
            headroom_bytes=self.headroom(now),
            sample=sample,
            leases=self._ledger.leases,
        )

    @property
    def returning_bytes(self) -> int:
        """Given back by processes that ended, and not seen to be free yet."""
        return sum(each.bytes for each in self._returning)
