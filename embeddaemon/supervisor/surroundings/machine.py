"""What the machine is, found out once at start: usable cores, bfloat16, the device that ``auto`` means. I/O."""

from __future__ import annotations

import os
import platform
import resource
import secrets
import sys
import time
from importlib.metadata import PackageNotFoundError, version

from embeddaemon.config.hardware import computes_bfloat16, usable_cores
from embeddaemon.governor.nvml import driver_is_loaded
from embeddaemon.supervisor.state import Machine


def this_machine() -> Machine:
    """Everything below, now."""
    return Machine(
        cores=usable_cores(),
        has_bfloat16=computes_bfloat16(),
        device=default_device(),
        instance=secrets.token_hex(8),
        version=daemon_version(),
        pid=os.getpid(),
        started_at=time.monotonic(),
        address_space_bytes=address_space_bytes(),
    )


def address_space_bytes() -> int | None:
    """What a process that we start may map at most; None: any amount."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def default_device() -> str:
    """MPS, then CUDA, then CPU, by what the system shows: no driver is loaded into this process."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    if driver_is_loaded():
        return "cuda"
    return "cpu"


def daemon_version() -> str:
    """Of the installed package."""
    try:
        return version("embeddaemon")
    except PackageNotFoundError:
        return "0+source"
