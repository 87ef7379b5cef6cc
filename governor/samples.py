"""What was measured about memory and when. Taking the measurements is in probes.py, using them in core.py."""

from __future__ import annotations

from dataclasses import dataclass

RAM = "ram"
"""The device of host memory, and of devices that share it (mps)."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A real limit on memory, in bytes, and where it comes from, in words for a person.

    ``source`` reads like "machine MemTotal" or "cgroup v1 memory.limit_in_bytes of /system.slice/embeddaemon.service".
    """

    bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class MemorySample:
    """How many bytes could still be taken at ``taken_at`` (monotonic seconds) before some limit is hit.

    Page cache does not count as used: the kernel gives it back. So file pages that a process needs (mapped weights,
    libraries) are inside ``free_bytes`` too; the ledger is what keeps them from being promised twice. ``limit`` is the
    limit that binds, that is, the one with the least room left. It need not be the smallest: the machine may be full
    although our cgroup is not.
    """

    taken_at: float
    free_bytes: int
    limit: Limit
    device: str = RAM


@dataclass(frozen=True, slots=True)
class Stall:
    """How much time was lost to waiting for memory over the last ten seconds (the kernel's PSI, ``avg10``), in percent.

    ``some`` counts time in which at least one task waited, ``full`` time in which nobody could go on. ``is_ours`` says
    that it is of our own cgroup; else it is of the whole machine, and others may be the ones who wait.
    """

    taken_at: float
    some_percent: float
    full_percent: float
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that one look at the machine found. ``own_bytes`` is private to the supervisor itself, 0 if not known.

    One sample for host memory and one for each other device with a budget; a device that cannot be read has none.
    """

    samples: tuple[MemorySample, ...]
    stall: Stall | None = None
    own_bytes: int = 0
