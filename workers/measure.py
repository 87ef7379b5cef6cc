"""How many bytes this process has for itself, and how many it had at most. Knows no budget: that is the governor's."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path

_ROLLUP = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")
_PRIVATE = (b"Private_Dirty:", b"Private_Hugetlb:", b"Swap:")
"""Not Private_Clean: pages of a file that nobody else maps now; the kernel takes them back without asking."""


def private_bytes() -> int:
    """Bytes that would come back if this process ended, so nothing that it shares. Takes milliseconds."""
    try:
        lines = _ROLLUP.read_bytes().splitlines()
    except OSError:
        return _private_bytes_without_proc()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(_PRIVATE))


def _private_bytes_without_proc() -> int:
    try:
        import psutil  # noqa: PLC0415 - only where there is no /proc

        return int(psutil.Process().memory_full_info().uss)
    except (ImportError, OSError):
        return peak_resident_bytes()


def resident_bytes() -> int:
    """Resident now, shared pages included."""
    return _status_bytes(b"VmRSS:")


def peak_resident_bytes() -> int:
    """The most that was ever resident, shared pages included. A fork starts from what its parent has resident."""
    return _status_bytes(b"VmHWM:")


def _status_bytes(key: bytes) -> int:
    try:
        lines = _STATUS.read_bytes().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


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
