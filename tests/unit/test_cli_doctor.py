"""What doctor says of memory and of cards, on machines that are set by hand."""

from __future__ import annotations

import os
from pathlib import Path

from embeddaemon.cli.checks import State, devices, memory
from embeddaemon.governor.budget import GIB, MIB
from tests.support.fake_probe import FakeCard, FakeProbe


def test_memory_is_told_with_its_limit_where_that_comes_from_and_what_is_free() -> None:
    finding = memory(FakeProbe(limit_bytes=6 * GIB, free_bytes=3 * GIB, source="cgroup v2 memory.max of /x"))
    assert finding.state is State.GOOD
    assert finding.found.startswith("limit 6.0 GiB (cgroup v2 memory.max of /x), 3.0 GiB free, ")


def test_little_memory_is_worth_a_note() -> None:
    finding = memory(FakeProbe(free_bytes=500 * MIB))
    assert finding.state is State.NOTE
    assert "500 MiB free" in finding.found
    assert finding.remedy is not None


def test_how_stalls_are_learned_of_is_told() -> None:
    assert memory(FakeProbe(some_percent=None)).found.endswith("stalls are not told by this kernel")
    assert memory(FakeProbe()).found.endswith("stalls of this cgroup are told once a second")


def test_a_trigger_that_was_only_tried_is_closed(tmp_path: Path) -> None:
    (tmp_path / "trigger").touch()
    trigger = os.open(tmp_path / "trigger", os.O_RDONLY)
    try:
        before = os.dup(trigger)
        os.close(before)
        assert memory(FakeProbe(trigger=trigger)).found.endswith("stalls of this cgroup are told at once")
        after = os.dup(trigger)
        os.close(after)
        assert after == before
    finally:
        os.close(trigger)


def test_cards_are_told_with_their_memory(tmp_path: Path) -> None:
    cards = {"cuda:0": FakeCard(80 * GIB, 79 * GIB, "NVIDIA H100"), "cuda:1": FakeCard(24 * GIB, None, "NVIDIA L4")}
    finding = devices(FakeProbe(cards=cards), tmp_path)
    assert finding.state is State.GOOD
    assert finding.found == (
        "cpu; cuda:0 NVIDIA H100, 80.0 GiB, 79.0 GiB free; cuda:1 NVIDIA L4, 24.0 GiB, does not answer now"
    )


def test_cards_that_nobody_can_measure_are_worth_a_note(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    finding = devices(FakeProbe(), tmp_path)
    assert finding.state is State.NOTE
    assert "2 NVIDIA device(s)" in finding.found
    assert "[cuda]" in (finding.remedy or "")
