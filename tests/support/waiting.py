"""Waiting in tests: for a condition, up to a deadline that scales with the machine, never for a fixed time.

Every real time-out in a test goes through ``seconds``, so that one factor slows all of them down together.
"""

import os
import time
from collections.abc import Callable

import pytest

TIMEOUT_FACTOR = float(os.environ.get("EMBEDDAEMON_TEST_TIMEOUT_FACTOR", "1"))
_LONGEST_STEP_SECONDS = 0.01


def seconds(duration: float) -> float:
    """A real duration on this machine: what is asked for, times EMBEDDAEMON_TEST_TIMEOUT_FACTOR."""
    return duration * TIMEOUT_FACTOR


def wait_until(
    predicate: Callable[[], object], deadline_seconds: float = 5.0, *, describe: Callable[[], object] | str = ""
) -> None:
    """Return as soon as ``predicate`` is true; fail the test, showing ``describe``, when it is not in time.

    ``deadline_seconds`` is scaled here. ``describe`` is called at the failure, so that it shows the state (and the
    output of the child) of that moment. What the predicate raises passes through.
    """
    __tracebackhide__ = True
    limit_seconds = seconds(deadline_seconds)
    deadline = time.monotonic() + limit_seconds
    step_seconds = 0.0005
    while not predicate():
        if time.monotonic() >= deadline:
            name = getattr(predicate, "__qualname__", repr(predicate))
            state = describe() if callable(describe) else describe
            pytest.fail(f"not true after {limit_seconds:g} s: {name}" + (f"\n{state}" if state else ""))
        time.sleep(step_seconds)
        step_seconds = min(2 * step_seconds, _LONGEST_STEP_SECONDS)
