"""What the machine is, found out once at start: usable cores, bfloat16, the device that ``auto`` means. I/O."""

from __future__ import annotations

import os
import platform
import secrets
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embeddaemon.supervisor.state import Machine

_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors that multiply bfloat16 faster than float32 (the last is Arm's)."""


def this_machine() -> Machine:
    """Everything below, now."""
    return Machine(
        cores=usable_cores(),
        has_bfloat16=bool(_FAST_BFLOAT16 & processor_flags()),
        device=default_device(),
        instance=secrets.token_hex(8),
        version=daemon_version(),
        pid=os.getpid(),
        started_at=time.monotonic(),
    )


def usable_cores() -> int:
    """Cores that the scheduler may give us, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor says it can do; empty where the system does not tell."""
    try:
        with cpuinfo.open() as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() in ("flags", "Features"):
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def default_device() -> str:
    """MPS, then CUDA, then CPU, by what the system shows: no driver is loaded into this process."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    if Path("/proc/driver/nvidia/version").exists() and Path("/dev/nvidiactl").exists():
        return "cuda"
    return "cpu"


def daemon_version() -> str:
    """Of the installed package."""
    try:
        return version("embeddaemon")
    except PackageNotFoundError:
        return "0+source"
