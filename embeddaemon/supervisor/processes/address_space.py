"""A limit on the address space (``ulimit -v``), named where a process fails: what fails of it seldom says so. Pure."""

from __future__ import annotations

from embeddaemon.errors import EmbedDaemonError, FailedLoad, WorkerCrashed
from embeddaemon.governor.budget import format_bytes
from embeddaemon.supervisor.state import Machine

_MAY_COME_OF_IT = (FailedLoad, WorkerCrashed)
"""Exactly these: their subclasses know better what was wrong."""


def with_limit(machine: Machine, error: EmbedDaemonError) -> EmbedDaemonError:
    """The error, with the limit in its message where there is one and the error may come of it."""
    if machine.address_space_bytes is None or type(error) not in _MAY_COME_OF_IT:
        return error
    limit = format_bytes(machine.address_space_bytes)
    return type(error)(
        f"{error.message}; each process of the daemon may map {limit} at most, and much more is mapped than used: "
        "lift that limit (`ulimit -v unlimited`, LimitAS=infinity in a unit)",
        details=error.details,
        cause=error.cause,
        retry_after_ms=error.retry_after_ms,
    )
