"""Bytes of this very process."""

from pathlib import Path

import pytest

from embeddaemon.workers import measure

MIB = 1024 * 1024


def test_private_bytes_grow_with_what_is_taken() -> None:
    before = measure.private_bytes()
    taken = bytearray(b"x" * (64 * MIB))
    grown = measure.private_bytes() - before
    assert 60 * MIB < grown < 140 * MIB
    assert taken[0]


def test_peak_remembers_what_was_given_back() -> None:
    taken = bytearray(b"x" * (64 * MIB))
    resident = measure.resident_bytes()
    del taken
    assert measure.peak_resident_bytes() >= resident - 8 * MIB


def test_without_proc_there_is_still_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_ROLLUP", Path("/nonexistent"))
    monkeypatch.setattr(measure, "_STATUS", Path("/nonexistent"))
    assert measure.private_bytes() > MIB
    assert measure.peak_resident_bytes() > MIB
