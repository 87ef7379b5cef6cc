"""Waiting for memory: what PSI says, whose it is, and the trigger, out of files and from the kernel itself."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.probes import SystemProbe
from embeddaemon.governor.samples import Stall
from embeddaemon.governor.stalls import open_trigger
from embeddaemon.supervisor.events import StallNoticed
from embeddaemon.supervisor.memory.stalls import StallWatch
from tests.support.machine_of_files import MachineOfFiles
from tests.support.waiting import seconds, wait_until

V2_MOUNT = "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
SERVICE = "/sys/fs/cgroup/system.slice/embed.service"
MACHINES_PRESSURE = Path("/proc/pressure/memory")


@pytest.fixture
def machine(tmp_path: Path) -> MachineOfFiles:
    machine = MachineOfFiles(tmp_path)
    machine.memory(16 * 1024 * MIB, 12 * 1024 * MIB)
    machine.mounts(V2_MOUNT)
    machine.own_cgroup("0::/system.slice/embed.service")
    return machine


def stall_of(machine: MachineOfFiles) -> Stall | None:
    return machine.probe.observe(7.0).stall


def in_own_cgroup(machine: MachineOfFiles, *, some: str = "12.50", full: str = "3.25") -> None:
    machine.write(f"{SERVICE}/cgroup.events", "populated 1\nfrozen 0\n")
    machine.pressure(f"{SERVICE}/memory.pressure", some=some, full=full)


def test_stalls_of_our_own_cgroup_are_ours(machine: MachineOfFiles) -> None:
    machine.pressure("/proc/pressure/memory", some="99.00", full="98.00")
    in_own_cgroup(machine)
    assert stall_of(machine) == Stall(7.0, 12.5, 3.25, is_ours=True)


def test_without_a_cgroup_of_our_own_stalls_are_those_of_the_machine(machine: MachineOfFiles) -> None:
    machine.pressure("/proc/pressure/memory", some="5.00", full="4.00")
    assert stall_of(machine) == Stall(7.0, 5.0, 4.0, is_ours=False)


def test_the_root_of_all_cgroups_is_the_machine_and_not_ours(machine: MachineOfFiles) -> None:
    machine.own_cgroup("4:memory:/sidecar", "0::/")
    machine.pressure("/sys/fs/cgroup/memory.pressure", some="5.00", full="4.00")
    machine.pressure("/proc/pressure/memory", some="5.00", full="4.00")
    assert stall_of(machine) == Stall(7.0, 5.0, 4.0, is_ours=False)


@pytest.mark.parametrize(
    "text", ["", "\n", "some\n", "full avg10=1.00 avg60=1.00 avg300=0.00 total=1\n", "some avg10=x\n"]
)
def test_a_kernel_that_tells_no_stalls_has_none(machine: MachineOfFiles, text: str) -> None:
    assert stall_of(machine) is None
    machine.write("/proc/pressure/memory", text)
    assert stall_of(machine) is None


def test_after_the_supervisor_moved_into_its_leaf_the_stalls_of_all_are_still_ours(machine: MachineOfFiles) -> None:
    in_own_cgroup(machine)
    probe = machine.probe
    machine.own_cgroup("0::/system.slice/embed.service/supervisor")
    machine.write(f"{SERVICE}/supervisor/cgroup.events", "populated 1\n")
    machine.pressure(f"{SERVICE}/supervisor/memory.pressure", some="0.00", full="0.00")
    machine.write(f"{SERVICE}/memory.events", "low 0\noom 2\noom_kill 2\n")
    assert probe.observe(7.0).stall == Stall(7.0, 12.5, 3.25, is_ours=True)
    assert probe.kernel_kills() == 2


def test_started_in_the_leaf_of_a_delegated_cgroup_what_is_around_it_is_ours(machine: MachineOfFiles) -> None:
    in_own_cgroup(machine)
    try:
        os.setxattr(machine.root / SERVICE.lstrip("/"), "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes in {machine.root}: {error}")
    machine.own_cgroup("0::/system.slice/embed.service/supervisor")
    machine.write(f"{SERVICE}/supervisor/cgroup.events", "populated 1\n")
    machine.pressure(f"{SERVICE}/supervisor/memory.pressure", some="0.00", full="0.00")
    assert stall_of(machine) == Stall(7.0, 12.5, 3.25, is_ours=True)


# What the kernel ended


def test_kills_are_counted_in_our_own_v2_cgroup(machine: MachineOfFiles) -> None:
    machine.write("/proc/vmstat", "nr_free_pages 1\noom_kill 9\n")
    machine.write(f"{SERVICE}/memory.events", "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert machine.probe.kernel_kills() == 3


def test_kills_are_counted_in_our_own_v1_cgroup(machine: MachineOfFiles) -> None:
    machine.mounts("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
    machine.own_cgroup("4:memory:/sidecar", "0::/")
    machine.write("/proc/vmstat", "oom_kill 9\n")
    machine.write("/sys/fs/cgroup/memory/sidecar/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert machine.probe.kernel_kills() == 2


def test_kills_are_those_of_the_machine_where_our_cgroup_does_not_count(machine: MachineOfFiles) -> None:
    machine.write("/proc/vmstat", "nr_free_pages 1\noom_kill 9\n")
    assert machine.probe.kernel_kills() == 9


def test_nobody_counts_kills_on_an_old_kernel(machine: MachineOfFiles) -> None:
    machine.write("/proc/vmstat", "nr_free_pages 1\n")
    assert machine.probe.kernel_kills() is None


# The trigger


def test_no_trigger_is_no_trouble(machine: MachineOfFiles, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert machine.probe.stall_trigger() is None
    assert caplog.records == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here that refuses to be written")
def test_a_file_that_refuses_the_trigger_leaves_it_to_the_next_and_nothing_open(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    assert open_trigger([Path("/dev/full"), tmp_path / "nowhere"]) is None
    assert set(Path("/proc/self/fd").iterdir()) == before
    taken = tmp_path / "pressure"
    taken.write_text("")
    trigger = open_trigger([Path("/dev/full"), taken])
    assert trigger is not None
    os.close(trigger)
    assert taken.read_bytes() == b"some 150000 2000000\0"


@pytest.fixture
def trigger() -> int:
    """A real one, which the test or the watch closes."""
    descriptor = open_trigger([MACHINES_PRESSURE])
    if descriptor is None:
        pytest.skip("the kernel takes no trigger here")
    return descriptor


def test_the_watch_closes_its_trigger(trigger: int) -> None:
    watch = StallWatch(trigger)
    poller = zmq.Poller()
    watch.register(poller)
    watch.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(trigger)
    watch.close()


def test_the_watch_says_nothing_of_other_descriptors_and_without_a_trigger(trigger: int) -> None:
    poller = zmq.Poller()
    with contextlib.closing(StallWatch(trigger)) as watch:
        assert watch.read(poller, {trigger + 1: zmq.POLLIN}) is None
        assert watch.read(poller, {trigger: zmq.POLLPRI}) == StallNoticed()
    StallWatch(None).register(poller)
    assert StallWatch(None).read(poller, {trigger: zmq.POLLPRI}) is None


def test_the_trigger_of_a_cgroup_that_was_removed_is_given_up() -> None:
    folder = Path("/sys/fs/cgroup/unified") / f"embeddaemon-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a v2 cgroup here: {error}")
    try:
        trigger = open_trigger([folder / "memory.pressure"])
    finally:
        folder.rmdir()
    if trigger is None:
        pytest.skip("the kernel takes no trigger for a cgroup here")
    poller = zmq.Poller()
    with contextlib.closing(StallWatch(trigger)) as watch:
        watch.register(poller)
        assert watch.read(poller, dict(poller.poll(0))) is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(trigger)
        assert poller.poll(0) == []


THRASHING = """
import mmap, sys, time
sys.stdin.readline()
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        for first in range(0, len(pages), 1 << 20):
            sum(pages[first : first + (1 << 20) : 4096])
            if time.monotonic() > end:
                break
"""


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A v1 memory cgroup of 24 MiB."""
    folder = Path("/sys/fs/cgroup/memory") / f"embeddaemon-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a v1 memory cgroup here: {error}")
    try:
        (folder / "memory.limit_in_bytes").write_text(str(24 * MIB))
        yield folder
    finally:
        folder.rmdir()


def stalled_seconds() -> float:
    return int(MACHINES_PRESSURE.read_text().partition("total=")[2].split()[0]) / 1e6


@pytest.mark.slow
def test_a_process_whose_file_pages_do_not_fit_fires_the_trigger_and_shows_in_the_samples(
    trigger: int, small_cgroup: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.write(os.urandom(64 * MIB))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read again, its pages are charged to the child
    stalled_before, probe, poller = stalled_seconds(), SystemProbe(), zmq.Poller()
    command = [sys.executable, "-c", THRASHING, str(large), str(seconds(12))]
    with contextlib.closing(StallWatch(trigger)) as watch, subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        watch.register(poller)
        assert child.stdin is not None
        (small_cgroup / "cgroup.procs").write_text(str(child.pid))
        child.stdin.write(b"go\n")
        child.stdin.close()
        said = None
        while said is None and child.poll() is None:
            said = watch.read(poller, dict(poller.poll(100)))
        if said is None and stalled_seconds() - stalled_before < 1.0:
            pytest.skip("this disk is too fast for anybody to wait")
        assert said == StallNoticed()
        wait_until(
            lambda: (probe.observe(time.monotonic()).stall or Stall(0, 0, 0, is_ours=False)).some_percent > 0, 10
        )
        child.kill()
