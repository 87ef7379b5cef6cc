"""What was measured about memory and when. Taking the measurements is in probes.py, using them in core.py."""

from __future__ import annotations

from dataclasses import dataclass


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
