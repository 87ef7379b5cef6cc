"""How long tasks wait for memory (the kernel's PSI), and the kernel's word when they begin to. I/O."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from embeddaemon.governor.kernel_files import read
from embeddaemon.governor.samples import Stall

log = logging.getLogger(__name__)

# 150 ms of waiting in 2 s, in microseconds. Without privileges the kernel takes only multiples of two seconds. It
# speaks at most once in each window.
_TRIGGER = b"some 150000 2000000\0"


def read_stall(file: Path, now: float, *, is_ours: bool) -> Stall | None:
    """What a PSI file says; None without such a file, or where PSI is switched off."""
    shares = {}
    for line in read(file).splitlines():
        # some avg10=0.00 avg60=0.00 avg300=0.00 total=0
        name, _, values = line.partition(" ")
        shares[name] = dict(value.partition("=")[::2] for value in values.split()).get("avg10")
    try:
        return Stall(now, float(shares.get("some") or ""), float(shares.get("full") or 0.0), is_ours)
    except ValueError:
        return None


def open_trigger(files: Iterable[Path]) -> int | None:
    """A descriptor that polls as POLLPRI when tasks wait too long for memory, of the first file that takes a trigger.

    None without PSI, and where nobody lets us. It belongs to the caller. It polls as an error once its cgroup is gone.
    """
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.debug("no_stall_trigger file=%s error=%s", file, error)
            continue
        try:
            os.write(descriptor, _TRIGGER)
        except OSError as error:
            os.close(descriptor)
            log.debug("no_stall_trigger file=%s error=%s", file, error)
            continue
        return descriptor
    return None
