"""What the processor is and how much of it we may use: asked by the supervisor, by workers and by ``doctor``. I/O."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Elsewhere bfloat16 is computed by converting, slower than float32."""


_FAST_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def usable_cores() -> int:
    """Cores that the scheduler may give us, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def processor_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What the processor says it can do; empty where the system does not tell."""
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def computes_int8(flags: frozenset[str] | None = None) -> bool:
    """Whether the processor multiplies unsigned by signed bytes in one instruction."""
    return not _FAST_INT8.isdisjoint(processor_flags() if flags is None else flags)


def computes_bfloat16(flags: frozenset[str] | None = None) -> bool:
    """Whether the processor multiplies bfloat16 faster than float32."""
    return not _FAST_BFLOAT16.isdisjoint(processor_flags() if flags is None else flags)
