"""How many bytes this process has for itself, and how many it had at most. Knows no budget: that is the governor's."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_ROLLUP = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = b"5"
"""What clear_refs takes to begin VmHWM anew from what is resident now; needs no privilege, takes a microsecond."""
_COUNTING_ERROR = 1024 * 1024
"""The kernel counts per processor and adds up later: what was most may still rise a little."""
_PRIVATE = (b"Private_Dirty:", b"Private_Hugetlb:", b"Swap:")
"""Not Private_Clean: pages of a file that nobody else maps now; the kernel takes them back without asking."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process has for itself, and the most that it had since it was last asked for."""

    private_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class _Status:
    """What the system says quickly, in bytes."""

    anonymous: int
    """Swap included. In a fork it counts what is shared with the parent, so only the change says something."""
    resident: int
    most_resident: int


class Meter:
    """Follows the memory of this process, from when it is made. For one thread.

    What a fork writes to for the first time, where its parent's pages were, is seen by ``measure`` only. The peak
    counts all that became resident and left again, pages of files too. Where the high-water mark cannot be reset only a
    peak above all earlier ones is seen.
    """

    def __init__(self) -> None:
        self._private_bytes = 0
        """At the last measurement."""
        self._anonymous = 0
        """At the same time."""
        self._most_resident = 0
        """What the high-water mark says as long as there is no new peak."""
        self.measure()

    def measure(self) -> Memory:
        """In full. Takes milliseconds."""
        self._private_bytes = private_bytes()
        status = _status()
        self._anonymous = status.anonymous
        return self._memory(self._private_bytes, status)

    def estimate(self) -> Memory:
        """The last measurement and what came and went since. Takes some ten microseconds."""
        status = _status()
        return self._memory(max(0, self._private_bytes + status.anonymous - self._anonymous), status)

    def _memory(self, private_bytes: int, status: _Status) -> Memory:
        is_new = status.most_resident > self._most_resident + _COUNTING_ERROR
        above = status.most_resident - status.resident if is_new else 0
        self._most_resident = status.resident if _reset_high_water() else status.most_resident
        return Memory(private_bytes, private_bytes + max(0, above))


def private_bytes() -> int:
    """Bytes that would come back if this process ended, so nothing that it shares. Takes milliseconds."""
    try:
        lines = _ROLLUP.read_bytes().splitlines()
    except OSError:
        return _private_bytes_without_proc()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(_PRIVATE))


def _private_bytes_without_proc() -> int:
    process = _process()
    if process is None:
        return _most_resident_without_proc()
    return int(process.memory_full_info().uss)


def _status() -> _Status:
    try:
        lines = _STATUS.read_bytes().splitlines()
    except OSError:
        return _status_without_proc()
    found = dict.fromkeys((b"RssAnon", b"VmSwap", b"VmRSS", b"VmHWM"), 0)
    for line in lines:
        key, _, value = line.partition(b":")
        if key in found:
            found[key] = 1024 * int(value.split()[0])
    return _Status(found[b"RssAnon"] + found[b"VmSwap"], found[b"VmRSS"], found[b"VmHWM"])


def _status_without_proc() -> _Status:
    most = _most_resident_without_proc()
    process = _process()
    resident = most if process is None else int(process.memory_info().rss)
    return _Status(resident, resident, most)


def _most_resident_without_proc() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _process() -> psutil.Process | None:
    try:
        import psutil  # noqa: PLC0415 - only where there is no /proc

        return psutil.Process()
    except ImportError:
        return None


def _reset_high_water() -> bool:
    """False where that cannot be done."""
    try:
        descriptor = os.open(_CLEAR_REFS, os.O_WRONLY)
    except OSError:
        return False
    try:
        os.write(descriptor, _RESET_HIGH_WATER)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def settle() -> None:
    """Leaves memory as forks should find it: no garbage, objects where no collection touches them, free pages back."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Gives memory that was freed back to the system; malloc keeps it otherwise. Takes some ten milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's only
    if trim is not None:
        trim(0)
