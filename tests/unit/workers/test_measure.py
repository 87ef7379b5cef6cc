"""Bytes of this very process, and of forks of it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from embeddaemon.workers import measure
from embeddaemon.workers.measure import Meter

MIB = 1024 * 1024
CLOSE = 4 * MIB

on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def take(size_bytes: int) -> bytearray:
    """So much, and all of it resident."""
    return bytearray(b"x") * size_bytes


def in_a_fork(check: Callable[[], None]) -> None:
    """Fails when ``check`` failed in the child."""
    pid = os.fork()
    if pid == 0:
        try:
            check()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the boundary of a process
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "failed in the fork: its standard error says where"


def test_private_bytes_grow_with_what_is_taken() -> None:
    before = measure.private_bytes()
    taken = take(64 * MIB)
    assert abs(measure.private_bytes() - before - 64 * MIB) < CLOSE
    assert taken[0]


@on_linux
def test_what_is_taken_and_given_back_is_seen_without_measuring() -> None:
    def check() -> None:
        meter = Meter()
        before = meter.measure().private_bytes
        taken = take(64 * MIB)
        estimated = meter.estimate().private_bytes
        assert abs(estimated - before - 64 * MIB) < CLOSE
        assert abs(meter.measure().private_bytes - estimated) < CLOSE
        del taken
        assert abs(meter.estimate().private_bytes - before) < CLOSE

    inherited = take(64 * MIB)
    in_a_fork(check)
    assert inherited[0]


@on_linux
def test_peak_between_two_estimates_is_seen_once() -> None:
    def check() -> None:
        meter = Meter()
        before = meter.measure().private_bytes
        del (taken := [take(96 * MIB)])[:]
        first = meter.estimate()
        assert abs(first.private_bytes - before) < CLOSE
        assert abs(first.peak_bytes - before - 96 * MIB) < CLOSE
        assert not taken
        second = meter.estimate()
        assert abs(second.peak_bytes - second.private_bytes) < CLOSE

    inherited = take(64 * MIB)
    in_a_fork(check)
    assert inherited[0]


@on_linux
def test_peak_before_a_measurement_is_its_own() -> None:
    def check() -> None:
        meter = Meter()
        before = meter.estimate().private_bytes
        del (taken := [take(96 * MIB)])[:]
        assert abs(meter.measure().peak_bytes - before - 96 * MIB) < CLOSE
        assert not taken

    in_a_fork(check)


@on_linux
def test_fork_that_writes_to_what_it_inherited_is_seen_by_the_next_measurement() -> None:
    inherited, zeros = take(64 * MIB), bytes(32 * MIB)  # both here: malloc may keep what the fork takes for a moment

    def check() -> None:
        meter = Meter()
        before = meter.measure().private_bytes
        memoryview(inherited)[: 32 * MIB] = zeros
        assert abs(meter.measure().private_bytes - before - 32 * MIB) < CLOSE

    in_a_fork(check)


@on_linux
def test_peak_above_all_others_is_seen_where_the_mark_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_CLEAR_REFS", Path("/nonexistent"))

    def check() -> None:
        meter = Meter()
        before = meter.estimate().private_bytes
        del (taken := [take(512 * MIB)])[:]
        assert abs(meter.estimate().peak_bytes - before - 512 * MIB) < CLOSE
        assert not taken
        second = meter.estimate()
        assert second.peak_bytes == second.private_bytes

    in_a_fork(check)


def test_without_proc_there_are_still_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ROLLUP", "_STATUS", "_CLEAR_REFS"):
        monkeypatch.setattr(measure, name, Path("/nonexistent"))
    meter = Meter()
    before = meter.measure()
    taken = take(64 * MIB)
    grown = meter.estimate()
    assert taken[0]
    assert abs(grown.private_bytes - before.private_bytes - 64 * MIB) < CLOSE
    assert MIB < grown.private_bytes <= grown.peak_bytes
