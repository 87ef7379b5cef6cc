"""The seam to the machine: limits, room, stalls, private bytes and the kernel's kills. I/O.

``SystemProbe`` reads /proc and cgroups v1, v2 and hybrid (cgroups.py, stalls.py), and NVIDIA cards (nvml.py);
``PsutilProbe`` serves systems without /proc (macOS). psutil alone does not know cgroups, so it is not used where /proc
is there. Numbers are read anew at every call: limits change while we run, and a whole look costs about a millisecond.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from embeddaemon.governor.cgroups import Cgroups, Room
from embeddaemon.governor.kernel_files import numbers, read
from embeddaemon.governor.nvml import NvidiaCards, driver_is_loaded, load_nvml
from embeddaemon.governor.samples import Limit, MemorySample, Observation, Stall
from embeddaemon.governor.stalls import open_trigger, read_stall

_KIB = 1024


class Probe(Protocol):
    """The seam to the machine: SystemProbe and PsutilProbe behind it, and a fake in the tests.

    ``limit`` and ``observe`` raise OSError when the machine cannot be read, which is better than a wrong number.
    """

    def limit(self) -> Limit:
        """The smallest limit on host memory that applies to this process."""
        ...

    def device_limits(self) -> Mapping[str, Limit]:
        """All memory of each device that has its own, by name: ``cuda:0``. Empty where there is none or none tells."""
        ...

    def observe(self, now: float) -> Observation:
        """Everything there is to see at ``now`` (monotonic seconds); of devices, those that answer."""
        ...

    def process_private_bytes(self, pid: int) -> int | None:
        """Bytes that only this process holds and nobody can reclaim; None if it is gone or cannot be read."""
        ...

    def kernel_kills(self) -> int | None:
        """How many processes the kernel ended for lack of memory: in our cgroup if it counts them, else anywhere.

        Only a rise says something. None where nobody counts.
        """
        ...

    def stall_trigger(self) -> int | None:
        """A new descriptor that polls as POLLPRI when tasks begin to wait for memory, at most every two seconds.

        It belongs to the caller. None where there is no such thing.
        """
        ...


def probe_for_this_machine() -> Probe:
    """The probe that works here."""
    if not Path("/proc/meminfo").exists():
        return PsutilProbe()
    cards = NvidiaCards(load_nvml, os.environ.get("CUDA_VISIBLE_DEVICES")) if driver_is_loaded() else None
    return SystemProbe(cards=cards)


class SystemProbe:
    """Linux. /proc and the cgroup mounts are looked for under ``root``: tests build a machine of files there."""

    def __init__(self, root: Path = Path("/"), cards: NvidiaCards | None = None) -> None:
        self._proc = root / "proc"
        self._cgroups = Cgroups(root)
        self._cards = cards

    def limit(self) -> Limit:
        """The smallest of the machine's memory and the limits of our cgroup and all its ancestors."""
        return min((room.limit for room in self._rooms()), key=lambda limit: limit.bytes)

    def device_limits(self) -> Mapping[str, Limit]:
        """NVIDIA cards; the driver is loaded here."""
        return {} if self._cards is None else self._cards.limits()

    def observe(self, now: float) -> Observation:
        """The least room under any of the limits, room that others may take first counts too; the cards; the stalls."""
        tightest = min(self._rooms(), key=lambda room: room.free_bytes)
        ram = MemorySample(now, tightest.free_bytes, tightest.limit)
        devices = () if self._cards is None else self._cards.samples(now)
        return Observation((ram, *devices), self._stall(now), self._private_bytes("self") or 0)

    def process_private_bytes(self, pid: int) -> int | None:
        """Private dirty bytes and what of them was swapped out."""
        return self._private_bytes(str(pid))

    def kernel_kills(self) -> int | None:
        """Of our own memory cgroup; else of the whole machine, since its start."""
        ours = self._cgroups.kernel_kills()
        return numbers(read(self._proc / "vmstat")).get("oom_kill") if ours is None else ours

    def stall_trigger(self) -> int | None:
        """On our own cgroup's stalls if that is allowed, else on the machine's: it only asks us to look."""
        ours = self._cgroups.pressure_file()
        machine = self._proc / "pressure" / "memory"
        return open_trigger((machine,) if ours is None else (ours, machine))

    def _stall(self, now: float) -> Stall | None:
        ours = self._cgroups.pressure_file()
        stall = None if ours is None else read_stall(ours, now, is_ours=True)
        return stall or read_stall(self._proc / "pressure" / "memory", now, is_ours=False)

    def _private_bytes(self, process: str) -> int | None:
        """From smaps_rollup.

        Not Pss_Anon: it is a share of what a forked process has in common with its relatives, so it starts at 126 MiB
        for a worker that holds 2, and jumps when a sibling dies. Not private clean pages: they come from files and a
        sample counts them as free, so as to be kept they must stay pending. In swap, what is common cannot be told from
        what is private.
        """
        try:
            rollup = (self._proc / process / "smaps_rollup").read_text()
        except OSError:  # gone, a zombie (ESRCH), somebody else's, or a kernel without the file (gVisor, before 4.14)
            return None
        sizes = numbers(rollup)
        private = sizes.get("Private_Dirty")
        return None if private is None else (private + sizes.get("Private_Hugetlb", 0) + sizes.get("Swap", 0)) * _KIB

    def _rooms(self) -> Iterator[Room]:
        # Machine last: of equal limits min() takes the first, and the one that somebody set says more.
        yield from self._cgroups.rooms()
        yield self._machine()

    def _machine(self) -> Room:
        sizes = numbers((self._proc / "meminfo").read_text())
        # MemAvailable came with 3.14; some sandboxes leave it out.
        estimate = sizes["MemFree"] + sizes.get("Active(file)", 0) + sizes.get("Inactive(file)", 0)
        available = sizes.get("MemAvailable", estimate)
        return Room(Limit(sizes["MemTotal"] * _KIB, "machine MemTotal"), available * _KIB)


class PsutilProbe:
    """Systems without /proc: no cgroups there, so the machine's own numbers are the whole truth."""

    def limit(self) -> Limit:
        """All memory of the machine."""
        import psutil  # noqa: PLC0415 - the supervisor imports this module and needs no psutil on Linux

        return Limit(psutil.virtual_memory().total, "machine memory")

    def device_limits(self) -> Mapping[str, Limit]:
        """None: the memory of its devices is that of the machine."""
        return {}

    def observe(self, now: float) -> Observation:
        """What the system says is available."""
        import psutil  # noqa: PLC0415 - as above

        memory = psutil.virtual_memory()
        sample = MemorySample(now, memory.available, Limit(memory.total, "machine memory"))
        return Observation((sample,), own_bytes=self.process_private_bytes(os.getpid()) or 0)

    def process_private_bytes(self, pid: int) -> int | None:
        """Unique set size. Without forking, nothing else is shared but files."""
        import psutil  # noqa: PLC0415 - as above

        try:
            return psutil.Process(pid).memory_full_info().uss
        except psutil.Error:
            return None

    def kernel_kills(self) -> int | None:
        """Nobody counts them."""
        return None

    def stall_trigger(self) -> int | None:
        """There is none."""
        return None
