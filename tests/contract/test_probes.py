"""What every probe promises, and what the real one reads out of machines built of files, and out of a real cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import embeddaemon
from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.probes import Probe, PsutilProbe, SystemProbe, probe_for_this_machine
from embeddaemon.governor.samples import Limit
from tests.support.fake_probe import FakeProbe

needs_proc = pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no /proc on this system")
UNLIMITED_V1 = 9223372036854771712
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
            return FakeProbe(private_bytes={os.getpid(): 50 * MIB})


def test_a_limit_is_a_size_and_says_where_it_comes_from(probe: Probe) -> None:
    limit = probe.limit()
    assert limit.bytes > 0
    assert limit.source


def test_a_sample_carries_its_time_and_has_no_more_room_than_its_limit(probe: Probe) -> None:
    sample = probe.sample(123.5)
    assert sample.taken_at == 123.5
    assert 0 <= sample.free_bytes <= sample.limit.bytes
    assert sample.limit.bytes >= probe.limit().bytes


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


# Machines built of files


@dataclass(frozen=True, slots=True)
class MachineOfFiles:
    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def memory(self, total: int, available: int) -> None:
        self.write(
            "/proc/meminfo", f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"
        )

    def mounts(self, *lines: str) -> None:
        self.write("/proc/self/mountinfo", "".join(f"{line}\n" for line in lines))

    def own_cgroup(self, *lines: str) -> None:
        self.write("/proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def v2(
        self, path: str, *, current: int, maximum: int | str = "max", high: int | str = "max", cache: int = 0
    ) -> None:
        self.write(f"{path}/memory.max", f"{maximum}\n")
        self.write(f"{path}/memory.high", f"{high}\n")
        self.write(f"{path}/memory.current", f"{current}\n")
        self.write(f"{path}/memory.stat", f"anon 1\ninactive_file {cache - cache // 4}\nactive_file {cache // 4}\n")

    def v1(
        self, path: str, *, usage: int, limit: int = UNLIMITED_V1, cache: int = 0, hierarchical: int | None = None
    ) -> None:
        self.write(f"{path}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{path}/memory.usage_in_bytes", f"{usage}\n")
        smallest = limit if hierarchical is None else hierarchical
        self.write(
            f"{path}/memory.stat",
            f"inactive_file 7\nactive_file 7\nhierarchical_memory_limit {smallest}\n"
            f"total_inactive_file {cache - cache // 4}\ntotal_active_file {cache // 4}\n",
        )

    @property
    def probe(self) -> SystemProbe:
        return SystemProbe(self.root)


V2_MOUNT = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
V1_CPU_MOUNT = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
HYBRID_V2_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"


@pytest.fixture
def machine(tmp_path: Path) -> MachineOfFiles:
    machine = MachineOfFiles(tmp_path)
    machine.memory(16 * GIB, 12 * GIB)
    return machine


def in_v2_service(machine: MachineOfFiles) -> str:
    machine.mounts("23 1 254:0 / / rw - ext4 /dev/vda rw", V2_MOUNT)
    machine.own_cgroup("0::/system.slice/embed.service")
    return "/sys/fs/cgroup/system.slice/embed.service"


def in_v1_service(machine: MachineOfFiles) -> str:
    machine.mounts(V1_CPU_MOUNT, V1_MEMORY_MOUNT)
    machine.own_cgroup("5:cpu,cpuacct:/elsewhere", "4:memory:/system.slice/embed.service", "1:name=systemd:/elsewhere")
    return "/sys/fs/cgroup/memory/system.slice/embed.service"


def test_a_machine_without_cgroups_is_its_own_limit(machine: MachineOfFiles) -> None:
    assert machine.probe.limit() == Limit(16 * GIB, "machine MemTotal")
    assert machine.probe.sample(0.0).free_bytes == 12 * GIB


def test_an_old_kernel_without_memavailable_counts_free_and_file_pages(machine: MachineOfFiles) -> None:
    machine.write(
        "/proc/meminfo",
        "MemTotal: 4096 kB\nMemFree: 1000 kB\nActive(file): 200 kB\nInactive(file): 100 kB\nCached: 999 kB\n",
    )
    assert machine.probe.sample(0.0).free_bytes == 1300 * 1024


def test_v2_maximum_of_our_own_group_is_the_limit(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    assert machine.probe.limit() == Limit(4 * GIB, "cgroup v2 memory.max of /system.slice/embed.service")
    assert machine.probe.sample(0.0).free_bytes == 3 * GIB


def test_v2_high_is_a_limit_too_because_nothing_moves_above_it(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB, high=3 * GIB)
    assert machine.probe.limit() == Limit(3 * GIB, "cgroup v2 memory.high of /system.slice/embed.service")
    assert machine.probe.sample(0.0).free_bytes == 2 * GIB


def test_a_leaf_without_limit_has_that_of_its_parent_and_shares_its_room(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB)
    machine.v2("/sys/fs/cgroup/system.slice", current=5 * GIB, maximum=6 * GIB)
    sample = machine.probe.sample(0.0)
    assert machine.probe.limit() == Limit(6 * GIB, "cgroup v2 memory.max of /system.slice")
    assert (sample.free_bytes, sample.limit) == (1 * GIB, machine.probe.limit())


def test_the_limit_with_the_least_room_binds_and_need_not_be_the_smallest(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    machine.memory(16 * GIB, 2 * GIB)
    assert machine.probe.limit().bytes == 4 * GIB
    assert machine.probe.sample(0.0).free_bytes == 2 * GIB
    assert machine.probe.sample(0.0).limit == Limit(16 * GIB, "machine MemTotal")


def test_page_cache_is_room(machine: MachineOfFiles) -> None:
    full = 4 * GIB
    machine.v2(in_v2_service(machine), current=full, maximum=full, cache=3 * GIB)
    assert machine.probe.sample(0.0).free_bytes == 3 * GIB


def test_a_group_above_its_limit_has_no_room_and_not_less(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=5 * GIB, high=4 * GIB)
    assert machine.probe.sample(0.0).free_bytes == 0


def test_more_cache_than_usage_does_not_make_room_beyond_the_limit(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB, cache=2 * GIB)
    assert machine.probe.sample(0.0).free_bytes == 4 * GIB


def test_a_container_that_sees_only_its_own_group_finds_it_at_the_mount(machine: MachineOfFiles) -> None:
    machine.mounts("30 23 0:27 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro")
    machine.own_cgroup("0::/docker/abc/inner")
    machine.v2("/sys/fs/cgroup/inner", current=0, maximum=3 * GIB)
    machine.v2("/sys/fs/cgroup", current=0, maximum=2 * GIB)
    assert machine.probe.limit() == Limit(2 * GIB, "cgroup v2 memory.max of /docker/abc")


def test_a_container_in_its_own_namespace_finds_its_group_at_the_root(machine: MachineOfFiles) -> None:
    machine.mounts(V2_MOUNT)
    machine.own_cgroup("0::/")
    machine.v2("/sys/fs/cgroup", current=0, maximum=2 * GIB)
    assert machine.probe.limit() == Limit(2 * GIB, "cgroup v2 memory.max of /")


@pytest.mark.parametrize("own", ["/../elsewhere", "/not/below/the/mount"])
def test_a_group_out_of_view_falls_back_to_what_is_mounted(machine: MachineOfFiles, own: str) -> None:
    top = "/" if own.startswith("/..") else "/docker/abc"
    machine.mounts(f"30 23 0:27 {top} /sys/fs/cgroup ro - cgroup2 cgroup ro")
    machine.own_cgroup(f"0::{own}")
    machine.v2("/sys/fs/cgroup", current=0, maximum=2 * GIB)
    assert machine.probe.limit().bytes == 2 * GIB


def test_the_mount_that_shows_most_ancestors_is_read(machine: MachineOfFiles) -> None:
    machine.mounts("29 23 0:27 /slice/leaf /mnt/leaf ro - cgroup2 cgroup ro", V2_MOUNT)
    machine.own_cgroup("0::/slice/leaf")
    machine.v2("/mnt/leaf", current=0)
    machine.v2("/sys/fs/cgroup/slice/leaf", current=0)
    machine.v2("/sys/fs/cgroup/slice", current=0, maximum=2 * GIB)
    assert machine.probe.limit().bytes == 2 * GIB


def test_a_mount_point_with_a_blank_is_found(machine: MachineOfFiles) -> None:
    machine.mounts(r"30 23 0:27 / /sys/fs/c\040group rw - cgroup2 cgroup2 rw")
    machine.own_cgroup("0::/leaf")
    machine.v2("/sys/fs/c group/leaf", current=0, maximum=2 * GIB)
    assert machine.probe.limit().bytes == 2 * GIB


def test_v1_limit_of_our_memory_group_is_the_limit(machine: MachineOfFiles) -> None:
    machine.v1(in_v1_service(machine), usage=1 * GIB, limit=4 * GIB)
    assert machine.probe.limit() == Limit(4 * GIB, "cgroup v1 memory.limit_in_bytes of /system.slice/embed.service")
    assert machine.probe.sample(0.0).free_bytes == 3 * GIB


def test_v1_page_cache_of_the_whole_group_is_room(machine: MachineOfFiles) -> None:
    machine.v1(in_v1_service(machine), usage=4 * GIB, limit=4 * GIB, cache=3 * GIB)
    assert machine.probe.sample(0.0).free_bytes == 3 * GIB


def test_v1_ancestor_limits_a_leaf_without_one(machine: MachineOfFiles) -> None:
    machine.v1(in_v1_service(machine), usage=1 * GIB, hierarchical=6 * GIB)
    machine.v1("/sys/fs/cgroup/memory/system.slice", usage=5 * GIB, limit=6 * GIB)
    machine.v1("/sys/fs/cgroup/memory", usage=7 * GIB)
    assert machine.probe.limit() == Limit(6 * GIB, "cgroup v1 memory.limit_in_bytes of /system.slice")
    assert machine.probe.sample(0.0).free_bytes == 1 * GIB


def test_v1_tells_of_ancestors_that_are_not_mounted(machine: MachineOfFiles) -> None:
    machine.mounts("35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory")
    machine.own_cgroup("4:memory:/docker/abc/inner")
    machine.v1("/sys/fs/cgroup/memory/inner", usage=1 * GIB, hierarchical=3 * GIB)
    machine.v1("/sys/fs/cgroup/memory", usage=2 * GIB, hierarchical=3 * GIB)
    assert machine.probe.limit() == Limit(3 * GIB, "cgroup v1 hierarchical_memory_limit of /docker/abc")
    assert machine.probe.sample(0.0).free_bytes == 1 * GIB, "the neighbours that we can see count too"


@pytest.mark.parametrize("limit", [UNLIMITED_V1, 64 * GIB])
def test_a_limit_above_the_machine_is_none(machine: MachineOfFiles, limit: int) -> None:
    machine.v1(in_v1_service(machine), usage=1 * GIB, limit=limit)
    assert machine.probe.limit() == Limit(16 * GIB, "machine MemTotal")
    assert machine.probe.sample(0.0).free_bytes == 12 * GIB


def test_hybrid_finds_v1_memory_beside_a_v2_mount_with_other_controllers(machine: MachineOfFiles) -> None:
    machine.mounts(V1_CPU_MOUNT, V1_MEMORY_MOUNT, HYBRID_V2_MOUNT)
    machine.own_cgroup("4:memory:/sidecar", "1:cpu:/", "0::/")
    machine.write("/sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n")
    machine.v1("/sys/fs/cgroup/memory/sidecar", usage=1 * GIB, limit=2 * GIB)
    assert machine.probe.limit() == Limit(2 * GIB, "cgroup v1 memory.limit_in_bytes of /sidecar")


def test_a_group_that_was_just_removed_limits_nothing(machine: MachineOfFiles) -> None:
    in_v2_service(machine)
    assert machine.probe.limit() == Limit(16 * GIB, "machine MemTotal")


def test_a_limit_that_cannot_be_read_for_another_reason_is_an_error_and_not_no_limit(
    machine: MachineOfFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    (machine.root / "sys/fs/cgroup/system.slice/embed.service/memory.max").unlink()
    (machine.root / "sys/fs/cgroup/system.slice/embed.service/memory.max").mkdir()
    with pytest.raises(OSError, match="directory"):
        machine.probe.limit()


@pytest.mark.parametrize(
    ("rollup", "expected"),
    [
        (
            "Rss: 900 kB\nPss_Anon: 126 kB\nPrivate_Clean: 70 kB\nPrivate_Dirty: 14 kB\nPrivate_Hugetlb: 2 kB\n",
            16 * 1024,
        ),
        ("Private_Dirty: 14 kB\n", 14 * 1024),
        ("", None),
    ],
)
def test_private_bytes_are_what_is_neither_shared_nor_reclaimable(
    machine: MachineOfFiles, rollup: str, expected: int | None
) -> None:
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
sample = probe.sample(0.0)
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


def test_a_process_in_a_real_cgroup_finds_the_limit_of_its_parent_and_room_in_its_cache(
    limited_cgroup: Path, tmp_path: Path
) -> None:
    repository = Path(embeddaemon.__path__[0]).parent
    command = [sys.executable, "-c", CHILD, str(tmp_path / "cached")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository) as child:
        try:
            (limited_cgroup / "cgroup.procs").write_text(str(child.pid))
            output, _ = child.communicate("go\n", timeout=30)
        finally:
            child.kill()
    usage = int((limited_cgroup.parent / "memory.usage_in_bytes").read_text())
    limit, free, source = output.strip().split("\t")
    assert child.returncode == 0
    assert int(limit) == 64 * MIB
    assert source == f"cgroup v1 memory.limit_in_bytes of /{limited_cgroup.parent.name}"
    if usage < 40 * MIB:
        pytest.skip(f"{tmp_path} leaves no page cache: the limit was found, the room could not be tried")
    assert int(free) > 64 * MIB - usage + 30 * MIB
