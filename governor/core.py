"""The decider of the package: may this start, what must go for it, or what is in the way.

Asking changes nothing; leasing, lowering and releasing change the ledgers and nothing else. Starting, draining and
measuring is the caller's work, and so is what to do with a process that outgrew its lease. One device's numbers are in
device.py; ``pressure`` (pressure.py) says when nothing new is leased although there would be room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from embeddaemon.governor.budget import Budget, format_bytes
from embeddaemon.governor.device import DeviceMemory, Snapshot
from embeddaemon.governor.eviction import Candidate, choose_victims
from embeddaemon.governor.ledger import Lease
from embeddaemon.governor.pressure import Pressure
from embeddaemon.governor.samples import RAM, Observation

FORK_SERVER = "fork-server"

# Twice what a model of 1 GB may take to start: no model is evicted that cost more to load than it was there to use.
MINIMUM_RESIDENCE_SECONDS = 10.0

# Samples come every few seconds; after several have failed to come, the last one says nothing about the machine.
SAMPLE_VALID_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Want:
    """One lease that is wanted."""

    holder: str
    bytes: int
    device: str = RAM


@dataclass(frozen=True, slots=True)
class Demand:
    """Leases that are wanted together or not at all."""

    wants: tuple[Want, ...]

    def __post_init__(self) -> None:
        assert self.wants, "a demand for nothing: bug"
        assert all(want.bytes > 0 for want in self.wants), f"a demand without bytes: bug, {self.wants}"
        holders = {want.holder for want in self.wants}
        assert len(holders) == len(self.wants), f"a holder twice in one demand: bug, {self.wants}"

    @property
    def devices(self) -> tuple[str, ...]:
        """On which something is wanted."""
        return tuple(dict.fromkeys(want.device for want in self.wants))

    def bytes_on(self, device: str) -> int:
        """What is wanted of one device."""
        return sum(want.bytes for want in self.wants if want.device == device)


class WaitReason(Enum):
    """What a demand that would fit one day waits for."""

    EVICTION_UNDER_WAY = "what was told to go is still leaving"
    NOTHING_TO_EVICT = "what is loaded is busy, pinned or only just loaded"
    OTHER_PROCESSES = "processes that are not ours hold the memory"
    ANOTHER_LOAD = "another model is being loaded on this device"
    ANOTHERS_TURN = "it goes to a model that has waited longer"
    PRESSURE = "the machine is short of memory, nothing is started"


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
    device: str = RAM

    def text(self) -> str:
        """One line for a person, with the numbers and where they come from."""
        return (
            f"needs {_amount(self.needed_bytes, self.device)}; {format_bytes(self.available_bytes)} available, "
            f"{self.reason.value}; limit {format_bytes(self.limit_bytes)} ({self.source})"
        )


@dataclass(frozen=True, slots=True)
class Never:
    """No room even with everything else gone; ``available_bytes`` is what there would be then."""

    needed_bytes: int
    available_bytes: int
    limit_bytes: int
    source: str
    device: str = RAM

    def text(self) -> str:
        """One line for a person, with the numbers and where they come from."""
        return (
            f"needs {_amount(self.needed_bytes, self.device)}; never more than {format_bytes(self.available_bytes)} "
            f"available; limit {format_bytes(self.limit_bytes)} ({self.source})"
        )


def _amount(count: int, device: str) -> str:
    return format_bytes(count) if device == RAM else f"{format_bytes(count)} of {device}"


Answer = Granted | Evict | Wait | Never


class Governor:
    """Decides over one budget per device, host memory first. Every call is told the time; there is no clock in here.

    ``permanent`` holders are never evicted: a demand that fits only without them does not fit.
    """

    def __init__(
        self,
        budget: Budget,
        *others: Budget,
        permanent: frozenset[str] = frozenset({FORK_SERVER}),
        minimum_residence_seconds: float = MINIMUM_RESIDENCE_SECONDS,
        sample_valid_seconds: float = SAMPLE_VALID_SECONDS,
    ) -> None:
        assert budget.device == RAM, "the first budget is that of host memory"
        self.budget = budget
        self.pressure = Pressure()
        """Of host memory."""
        self.observation = Observation(())
        """The last look at the machine."""
        self._devices = {
            each.device: DeviceMemory(each, sample_valid_seconds=sample_valid_seconds) for each in (budget, *others)
        }
        self._permanent = permanent
        self._minimum_residence_seconds = minimum_residence_seconds

    @property
    def devices(self) -> tuple[str, ...]:
        """Those with a budget."""
        return tuple(self._devices)

    def ask(self, demand: Demand, candidates: Sequence[Candidate], now: float) -> Answer:
        """Whether a demand fits now, fits after evictions, must wait, or never fits. Changes nothing.

        ``candidates`` are all that is loaded, also what is busy or leaving: the answer counts on what is on its way
        back instead of sending more away. Wanting a device that has no budget is a bug: KeyError.
        """
        if (never := self.refusal_beside(demand, ())) is not None:
            return never
        answers = [
            self._ask(self._devices[device], demand.bytes_on(device), candidates, now) for device in demand.devices
        ]
        for answer in answers:
            if isinstance(answer, Wait):
                return answer
        if self.pressure.blocks_leases(now):
            return self.wait(demand, WaitReason.PRESSURE, now)
        victims = [victim for answer in answers if isinstance(answer, Evict) for victim in answer.victims]
        return Evict(tuple(dict.fromkeys(victims))) if victims else Granted()

    def _ask(
        self, device: DeviceMemory, needed: int, candidates: Sequence[Candidate], now: float
    ) -> Granted | Evict | Wait:
        headroom = device.headroom(now)
        if needed <= headroom:
            return Granted()
        leaving = device.returning_bytes + device.held_bytes(
            holder for each in candidates if each.is_leaving for holder in each.holders
        )
        if needed <= headroom + leaving:
            return _wait(device, needed, WaitReason.EVICTION_UNDER_WAY, now)
        victims = choose_victims(
            candidates, device.held_bytes, needed - headroom - leaving, now, self._minimum_residence_seconds
        )
        if victims is not None:
            return Evict(victims)
        reason = WaitReason.OTHER_PROCESSES if device.fits_on_paper(needed) else WaitReason.NOTHING_TO_EVICT
        return _wait(device, needed, reason, now)

    def wait(self, demand: Demand, reason: WaitReason, now: float) -> Wait:
        """What a demand is told that waits for another reason than its own size: the numbers of what lacks most."""
        name = max(demand.devices, key=lambda each: demand.bytes_on(each) - self._devices[each].headroom(now))
        return _wait(self._devices[name], demand.bytes_on(name), reason, now)

    def refusal_beside(self, demand: Demand, holders: Iterable[str]) -> Never | None:
        """Why a demand does not fit even if only these and the permanent ones hold anything; None if it does."""
        staying = self._permanent.union(holders)
        for name in demand.devices:
            budget, needed = self._devices[name].budget, demand.bytes_on(name)
            left = budget.leasable_bytes - self._devices[name].held_bytes(staying)
            if needed > left:
                return Never(needed, max(0, left), budget.bytes, budget.source, name)
        return None

    def held_bytes(self, holders: Iterable[str], device: str = RAM) -> int:
        """Bytes of one device that are leased to these holders; one without a lease counts nothing."""
        return self._devices[device].held_bytes(holders)

    def lease_of(self, holder: str) -> Lease:
        """The lease of a holder that has one."""
        return self._device_of(holder).lease_of(holder)

    def lease(self, holder: str, count: int, now: float, device: str = RAM) -> None:
        """Promise ``count`` bytes to ``holder``; only after ``ask`` granted them, in the same step."""
        self._devices[device].lease(holder, count, now)

    def lower(self, holder: str, count: int) -> None:
        """Take back what a lease has above ``count`` bytes, once its holder is READY. Never makes a lease larger."""
        self._device_of(holder).lower(holder, count)

    def can_raise_to(self, holder: str, count: int) -> bool:
        """Whether the lease of a holder that turned out larger can be made ``count`` bytes."""
        return self._device_of(holder).can_raise_to(holder, count)

    def raise_to(self, holder: str, count: int) -> None:
        """Make a lease as large as its holder turned out to be; only after ``can_raise_to``."""
        self._device_of(holder).raise_to(holder, count)

    def measured(self, holder: str, resident_bytes: int, peak_bytes: int = 0) -> None:
        """Note the private bytes of a holder, and the most that it had since it was measured before.

        One that has no lease (any more) is none of our business. A process that forks shares pages with its children
        and so looks smaller than it is; measure it when it is READY, before its first child, and not again.
        """
        for device in self._devices.values():
            if holder in device:
                device.measured(holder, resident_bytes, peak_bytes)

    def release(self, holder: str, now: float) -> None:
        """Give a lease back; only when the process was reaped."""
        self._device_of(holder).release(holder, now)

    def observe(self, observation: Observation, now: float) -> None:
        """Take note of how the machine is. Samples older than what we know are dropped, so are unknown devices."""
        self.observation = observation
        for sample in observation.samples:
            if (device := self._devices.get(sample.device)) is not None:
                device.observe(sample)
        host = self._devices[RAM]
        if (sample_now := host.valid_sample(now)) is not None:
            self.pressure.observe(
                observation.stall,
                free_bytes=sample_now.free_bytes,
                limit_bytes=sample_now.limit.bytes,
                used_bytes=host.resident_bytes + observation.own_bytes,
                budget=self.budget,
                now=now,
            )

    def headroom(self, now: float, device: str = RAM) -> int:
        """Bytes that could be leased now; negative when others have taken what was promised."""
        return self._devices[device].headroom(now)

    def snapshot(self, now: float, device: str = RAM) -> Snapshot:
        """Everything that ``status`` shows about one device."""
        return self._devices[device].snapshot(now)

    def snapshots(self, now: float) -> tuple[Snapshot, ...]:
        """Of all devices, host memory first."""
        return tuple(device.snapshot(now) for device in self._devices.values())

    def _device_of(self, holder: str) -> DeviceMemory:
        found: Iterator[DeviceMemory] = (device for device in self._devices.values() if holder in device)
        device = next(found, None)
        if device is None:
            raise AssertionError(f"{holder} has no lease: bug")
        return device


def _wait(device: DeviceMemory, needed: int, reason: WaitReason, now: float) -> Wait:
    budget = device.budget
    return Wait(needed, max(0, device.headroom(now)), budget.bytes, budget.source, reason, budget.device)
