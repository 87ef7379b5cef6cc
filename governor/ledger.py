"""Who was promised how many bytes of one budget. Whether to promise is decided in core.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from embeddaemon.governor.budget import Budget


@dataclass(frozen=True, slots=True)
class Lease:
    """Bytes promised to one incarnation of a process, from before it starts until it is reaped.

    ``holder`` names it, such as "fork-server", "template:minilm/3" or "worker:7/2". ``declared_bytes`` is what it was
    first promised, ``resident_bytes`` what it was last measured to hold, ``peak_bytes`` the most it ever was.
    """

    holder: str
    device: str
    bytes: int
    declared_bytes: int
    leased_at: float
    resident_bytes: int = 0
    peak_bytes: int = 0

    @property
    def pending_bytes(self) -> int:
        """Promised, but not yet taken."""
        return max(0, self.bytes - self.resident_bytes)


class Ledger:
    """All leases on one budget. Their sum never passes what the budget can lease, whatever happens."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._leases: dict[str, Lease] = {}

    def __contains__(self, holder: str) -> bool:
        return holder in self._leases

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases, oldest first."""
        return tuple(self._leases.values())

    @property
    def leased_bytes(self) -> int:
        """Sum of all leases."""
        return sum(lease.bytes for lease in self._leases.values())

    @property
    def resident_bytes(self) -> int:
        """Sum of what holders were last measured to hold."""
        return sum(lease.resident_bytes for lease in self._leases.values())

    @property
    def pending_bytes(self) -> int:
        """Sum of what each lease promises beyond what its holder was measured to hold."""
        return sum(lease.pending_bytes for lease in self._leases.values())

    def held_bytes(self, holders: Iterable[str]) -> int:
        """Bytes leased to these holders; one without a lease counts nothing."""
        return sum(self._leases[holder].bytes for holder in set(holders) if holder in self._leases)

    def can_lease(self, count: int) -> bool:
        """Whether ``count`` more bytes fit the budget on paper."""
        return self.leased_bytes + count <= self._budget.leasable_bytes

    def lease(self, holder: str, count: int, now: float) -> Lease:
        """Promise ``count`` bytes to a holder that has no lease yet."""
        assert holder not in self._leases, f"{holder} has a lease already: bug"
        assert count > 0, f"{holder} asks for {count} bytes: bug"
        assert self.can_lease(count), f"{holder} was promised {count} bytes that are not there: bug"
        self._leases[holder] = Lease(holder, self._budget.device, count, declared_bytes=count, leased_at=now)
        return self._leases[holder]

    def lower(self, holder: str, count: int) -> None:
        """Take back what a lease has above ``count`` bytes; a lease that is lower already stays as it is."""
        assert count > 0, f"{holder} lowered to {count} bytes: bug"
        lease = self.lease_of(holder)
        self._leases[holder] = replace(lease, bytes=min(lease.bytes, count))

    def can_raise_to(self, holder: str, count: int) -> bool:
        """Whether this holder's lease could be ``count`` bytes."""
        return self.can_lease(count - self.lease_of(holder).bytes)

    def raise_to(self, holder: str, count: int) -> None:
        """Make a lease larger, where that fits."""
        lease = self.lease_of(holder)
        assert count >= lease.bytes, f"{holder} raised from {lease.bytes} to {count} bytes: bug"
        assert self.can_raise_to(holder, count), f"{holder} raised to {count} bytes that are not there: bug"
        self._leases[holder] = replace(lease, bytes=count)

    def measured(self, holder: str, resident_bytes: int, peak_bytes: int = 0) -> None:
        """Note what a holder was measured to hold, and the most that it held since it was measured before."""
        assert resident_bytes >= 0, f"{holder} measured at {resident_bytes} bytes: bug"
        lease = self.lease_of(holder)
        peak = max(lease.peak_bytes, resident_bytes, peak_bytes)
        self._leases[holder] = replace(lease, resident_bytes=resident_bytes, peak_bytes=peak)

    def release(self, holder: str) -> None:
        """Give a lease back, after its holder was reaped."""
        self.lease_of(holder)
        del self._leases[holder]

    def lease_of(self, holder: str) -> Lease:
        """The lease of a holder that has one."""
        lease = self._leases.get(holder)
        if lease is None:
            raise AssertionError(f"{holder} has no lease: bug")
        return lease
