"""What doctor says of memory and of cards, on machines that are set by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from embeddaemon.cli.checks import State, devices, memory
from embeddaemon.governor.budget import GIB, MIB
from tests.support.fake_probe import FakeCard, FakeProbe
from tests.support.machine_of_files import MachineOfFiles


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
    assert "stalls are not told by this kernel" in memory(FakeProbe(some_percent=None)).found
    assert "stalls of this cgroup are told once a second" in memory(FakeProbe()).found


def test_a_trigger_that_was_only_tried_is_closed(tmp_path: Path) -> None:
    (tmp_path / "trigger").touch()
    trigger = os.open(tmp_path / "trigger", os.O_RDONLY)
    try:
        before = os.dup(trigger)
        os.close(before)
        assert "stalls of this cgroup are told at once" in memory(FakeProbe(trigger=trigger)).found
        after = os.dup(trigger)
        os.close(after)
        assert after == before
    finally:
        os.close(trigger)


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
def test_what_can_limit_a_worker_is_told_and_nothing_is_made_for_it(tmp_path: Path) -> None:
    machine = MachineOfFiles(tmp_path)
    assert memory(FakeProbe(), tmp_path).found.endswith("no memory cgroup of ours is mounted")
    machine.mounts("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
    machine.own_cgroup("4:memory:/unit", "0::/")
    machine.v1("/sys/fs/cgroup/memory/unit", usage=1 * GIB)
    before = sorted(tmp_path.rglob("*"))
    assert memory(FakeProbe(), tmp_path).found.endswith("a cgroup v1 for each worker can be made")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
def test_why_a_worker_gets_no_cgroup_is_told(tmp_path: Path) -> None:
    machine = MachineOfFiles(tmp_path)
    machine.mounts("30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    machine.own_cgroup("0::/user.slice")
    machine.v2("/sys/fs/cgroup/user.slice", current=1 * GIB)
    assert "/user.slice was not delegated to us" in memory(FakeProbe(), tmp_path).found


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
