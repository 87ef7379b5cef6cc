"""What a process does that asked for memory and got none: it says so and ends, for what it was about is half done.

Its successor gets what it held. An allocation may fail at the hard limit (RLIMIT_DATA) or because the system has
nothing left. Libraries that abort instead (Rust's do) are not seen here, so ``require`` asks before they are called.
Nor is the kernel's killer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import resource
from typing import NoReturn

from embeddaemon.protocol import control
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers import measure

log = logging.getLogger(__name__)

_SIGNS = (
    "can't allocate memory",  # torch's allocator on the CPU
    "cannot allocate memory",  # what the system calls it; Rust's errors carry that
    "not enough memory",  # torch's allocator elsewhere
    "std::bad_alloc",
)
"""In what libraries raise as errors that say nothing else."""

_HINTS = ("could not create a ", "could not execute a primitive")
"""How oneDNN says that something failed: want of memory, or that it has no kernel for what it was asked."""

_SCARCE_BYTES = 64 * 1024 * 1024
"""If so much cannot be had, a hint means memory: what the failed call held is free again by then."""

_RESERVE_BYTES = 1024 * 1024

_reserve = [bytes(_RESERVE_BYTES)]
"""Held for the last words. Never written to, so it counts at the limit and takes no memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one that caused it, is that the process got no memory. A full device is not."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if _says_so(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if not isinstance(error, RuntimeError | OSError) and type(error) is not Exception:
        return False
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS) or (any(hint in text for hint in _HINTS) and _is_scarce())


def _is_scarce() -> bool:
    try:
        require(_SCARCE_BYTES)
    except MemoryError:
        return True
    return False


def require(size_bytes: int) -> None:
    """Raises MemoryError if so much cannot be had now. Takes no memory, and some microseconds."""
    try:
        mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()  # never written to
    except OSError as error:
        raise MemoryError(f"{size_bytes} bytes are not to be had") from error


def exit_out_of_memory(process: object, error: BaseException) -> NoReturn:
    """Ends the process at once with its own code. ``process`` says in the log which one it is."""
    _reserve.clear()
    try:
        with contextlib.suppress(Exception):
            log.critical(
                fields("out_of_memory", worker=process, private_bytes=measure.private_bytes(), limit_bytes=_limit()),
                exc_info=error,
            )
    finally:
        os._exit(control.EXIT_OUT_OF_MEMORY)


def _limit() -> int | None:
    """RLIMIT_DATA, where there is one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if soft == resource.RLIM_INFINITY else soft
