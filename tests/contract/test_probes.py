"""What every probe promises, and what the real one reads out of machines built of files, and out of a real cgroup."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

import embeddaemon
from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.probes import Probe, PsutilProbe, SystemProbe, probe_for_this_machine
from tests.support.fake_probe import FakeCard, FakeProbe
from tests.support.machine_of_files import MachineOfFiles
from tests.support.waiting import seconds

needs_proc = pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no /proc on this system")
PID_OF_NOBODY = 2**22 + 1  # above the largest pid that Linux gives out


# What every probe promises


@pytest.fixture(
    params=[pytest.param("system", marks=needs_proc), pytest.param("psutil"), pytest.param("fake")],
)
def probe(request: pytest.FixtureRequest) -> Probe:
    match request.param:
        case "system":
            return SystemProbe()
        case "psutil":
            return PsutilProbe()
        case _:
            return FakeProbe(private_bytes={os.getpid(): 50 * MIB}, cards={"cuda:0": FakeCard(80 * GIB, 79 * GIB)})


def test_a_limit_is_a_size_and_says_where_it_comes_from(probe: Probe) -> None:
    limit = probe.limit()
    assert limit.bytes > 0
    assert limit.source


def test_a_sample_carries_its_time_and_has_no_more_room_than_its_limit(probe: Probe) -> None:
    samples = probe.observe(123.5).samples
    assert [sample.device for sample in samples] == ["ram", *probe.device_limits()]
    assert samples[0].limit.bytes >= probe.limit().bytes
    for sample in samples:
        assert sample.taken_at == 123.5
        assert 0 <= sample.free_bytes <= sample.limit.bytes


def test_an_observation_says_what_the_observer_itself_holds(probe: Probe) -> None:
    own_bytes = probe.observe(0.0).own_bytes
    private = probe.process_private_bytes(os.getpid())
    assert private is not None
    assert abs(own_bytes - private) < 8 * MIB


def test_stalls_are_shares_of_the_time(probe: Probe) -> None:
    stall = probe.observe(123.5).stall
    if stall is None:
        pytest.skip("no PSI on this system")
    assert stall.taken_at == 123.5
    assert 0 <= stall.full_percent <= stall.some_percent <= 100


def test_kills_of_the_kernel_are_counted_upwards_or_not_at_all(probe: Probe) -> None:
    before, after = probe.kernel_kills(), probe.kernel_kills()
    assert (before is None) == (after is None)
    assert 0 <= (before or 0) <= (after or 0)


def test_a_stall_trigger_can_be_polled_and_belongs_to_who_asked_for_it(probe: Probe) -> None:
    trigger = probe.stall_trigger()
    if trigger is None:
        pytest.skip("no stall triggers here")
    assert not os.get_inheritable(trigger)
    poller = zmq.Poller()
    poller.register(trigger, zmq.POLLPRI)
    assert dict(poller.poll(0)).get(trigger, 0) & zmq.POLLERR == 0
    os.close(trigger)


def test_a_living_process_has_private_bytes_and_a_dead_one_none(probe: Probe) -> None:
    private = probe.process_private_bytes(os.getpid())
    assert private is not None
    assert 1 * MIB < private < probe.limit().bytes
    assert probe.process_private_bytes(PID_OF_NOBODY) is None


@needs_proc
def test_linux_is_read_from_proc_because_psutil_does_not_know_cgroups() -> None:
    assert isinstance(probe_for_this_machine(), SystemProbe)


@needs_proc
def test_what_a_process_takes_shows_in_its_private_bytes() -> None:
    before = SystemProbe().process_private_bytes(os.getpid())
    taken = b"x" * (64 * MIB)
    after = SystemProbe().process_private_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert 60 * MIB < after - before < 80 * MIB
    del taken


# Out of files


@pytest.mark.parametrize(
    ("rollup", "expected"),
    [
        (
            "Rss: 900 kB\nPss_Anon: 126 kB\nPrivate_Clean: 70 kB\nPrivate_Dirty: 14 kB\nPrivate_Hugetlb: 2 kB\n",
            16 * 1024,
        ),
        ("Private_Dirty: 14 kB\nSwap: 5 kB\nSwapPss: 3 kB\n", 19 * 1024),
        ("", None),
    ],
)
def test_private_bytes_are_what_is_neither_shared_nor_reclaimable(
    tmp_path: Path, rollup: str, expected: int | None
) -> None:
    machine = MachineOfFiles(tmp_path)
    machine.write("/proc/77/smaps_rollup", f"5639c6592000-7ffc24228000 ---p 00000000 00:00 0 [rollup]\n{rollup}")
    assert machine.probe.process_private_bytes(77) == expected


# A real cgroup

CHILD = """
import sys
from embeddaemon.governor.probes import SystemProbe
sys.stdin.readline()
with open(sys.argv[1], "wb") as file:
    for _ in range(48):
        file.write(bytes(1 << 20))
    file.flush()
probe = SystemProbe()
sample = probe.observe(0.0).samples[0]
print(probe.limit().bytes, sample.free_bytes, probe.limit().source, sep="\\t")
"""


@pytest.fixture
def limited_cgroup() -> Iterator[Path]:
    """A v1 memory cgroup of 64 MiB, in which a second one has no limit of its own; the second is given."""
    parent = Path("/sys/fs/cgroup/memory") / f"embeddaemon-test-{uuid.uuid4().hex[:8]}"
    try:
        parent.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a v1 memory cgroup here: {error}")
    leaf = parent / "leaf"
    try:
        leaf.mkdir()
        (parent / "memory.limit_in_bytes").write_text(str(64 * MIB))
        yield leaf
    finally:
        for directory in (leaf, parent):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()


def run_in(cgroup: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that begins when its cgroup is set, which it learns by a line."""
    command = [sys.executable, "-c", program, *arguments]
    repository = Path(embeddaemon.__path__[0]).parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository) as child:
        try:
            (cgroup / "cgroup.procs").write_text(str(child.pid))
            output, _ = child.communicate("go\n", timeout=seconds(30))
        finally:
            child.kill()
    return subprocess.CompletedProcess(command, child.returncode, output)


def test_a_process_in_a_real_cgroup_finds_the_limit_of_its_parent_and_room_in_its_cache(
    limited_cgroup: Path, tmp_path: Path
) -> None:
    child = run_in(limited_cgroup, CHILD, str(tmp_path / "cached"))
    usage = int((limited_cgroup.parent / "memory.usage_in_bytes").read_text())
    limit, free, source = child.stdout.strip().split("\t")
    assert child.returncode == 0
    assert int(limit) == 64 * MIB
    assert source == f"cgroup v1 memory.limit_in_bytes of /{limited_cgroup.parent.name}"
    if usage < 40 * MIB:
        pytest.skip(f"{tmp_path} leaves no page cache: the limit was found, the room could not be tried")
    assert int(free) > 64 * MIB - usage + 30 * MIB


GREEDY = """
import os, sys
from embeddaemon.governor.probes import SystemProbe
sys.stdin.readline()
probe = SystemProbe()
before = probe.kernel_kills()
child = os.fork()
if not child:
    taken = bytearray(256 << 20)
    taken[::4096] = bytes([1]) * len(taken[::4096])
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), probe.kernel_kills() - before)
"""


def test_a_process_that_the_kernel_ends_in_a_real_cgroup_is_counted_there(limited_cgroup: Path) -> None:
    child = run_in(limited_cgroup, GREEDY)
    assert child.stdout.split() == [str(-signal.SIGKILL), "1"]


IN_A_NAMESPACE = """
import ctypes, sys
sys.stdin.readline()
CLONE_NEWCGROUP = 0x02000000
if ctypes.CDLL(None).unshare(CLONE_NEWCGROUP):
    sys.exit("no namespace")
from embeddaemon.governor.probes import SystemProbe
print(SystemProbe().limit().bytes)
"""


def test_a_process_in_a_namespace_that_hides_the_name_of_its_cgroup_finds_the_limit(limited_cgroup: Path) -> None:
    (limited_cgroup / "memory.limit_in_bytes").write_text(str(48 * MIB))
    child = run_in(limited_cgroup, IN_A_NAMESPACE)
    if child.returncode:
        pytest.skip("cannot make a cgroup namespace here")
    assert child.stdout.split() == [str(48 * MIB)]
