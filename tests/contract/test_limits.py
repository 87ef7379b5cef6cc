"""Which limit on memory holds, and what is free below it: read out of machines built of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.samples import Limit
from tests.support.machine_of_files import (
    HYBRID_V2_MOUNT,
    UNLIMITED_V1,
    V1_CPU_MOUNT,
    V1_MEMORY_MOUNT,
    V2_MOUNT,
    MachineOfFiles,
)


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
    assert machine.sample().free_bytes == 12 * GIB


def test_an_old_kernel_without_memavailable_counts_free_and_file_pages(machine: MachineOfFiles) -> None:
    machine.write(
        "/proc/meminfo",
        "MemTotal: 4096 kB\nMemFree: 1000 kB\nActive(file): 200 kB\nInactive(file): 100 kB\nCached: 999 kB\n",
    )
    assert machine.sample().free_bytes == 1300 * 1024


def test_v2_maximum_of_our_own_group_is_the_limit(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    assert machine.probe.limit() == Limit(4 * GIB, "cgroup v2 memory.max of /system.slice/embed.service")
    assert machine.sample().free_bytes == 3 * GIB


def test_v2_high_is_a_limit_too_because_nothing_moves_above_it(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB, high=3 * GIB)
    assert machine.probe.limit() == Limit(3 * GIB, "cgroup v2 memory.high of /system.slice/embed.service")
    assert machine.sample().free_bytes == 2 * GIB


def test_a_leaf_without_limit_has_that_of_its_parent_and_shares_its_room(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB)
    machine.v2("/sys/fs/cgroup/system.slice", current=5 * GIB, maximum=6 * GIB)
    sample = machine.sample()
    assert machine.probe.limit() == Limit(6 * GIB, "cgroup v2 memory.max of /system.slice")
    assert (sample.free_bytes, sample.limit) == (1 * GIB, machine.probe.limit())


def test_the_limit_with_the_least_room_binds_and_need_not_be_the_smallest(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    machine.memory(16 * GIB, 2 * GIB)
    assert machine.probe.limit().bytes == 4 * GIB
    assert machine.sample().free_bytes == 2 * GIB
    assert machine.sample().limit == Limit(16 * GIB, "machine MemTotal")


def test_page_cache_is_room(machine: MachineOfFiles) -> None:
    full = 4 * GIB
    machine.v2(in_v2_service(machine), current=full, maximum=full, cache=3 * GIB)
    assert machine.sample().free_bytes == 3 * GIB


def test_the_kernels_own_reclaimable_caches_are_room(machine: MachineOfFiles) -> None:
    full = 4 * GIB
    machine.v2(in_v2_service(machine), current=full, maximum=full, cache=1 * GIB, slab=1 * GIB)
    assert machine.sample().free_bytes == 2 * GIB


def test_of_limits_at_several_levels_the_smallest_holds_and_the_fullest_binds(machine: MachineOfFiles) -> None:
    machine.mounts(V2_MOUNT)
    machine.own_cgroup("0::/a.slice/b.slice/c.slice/leaf")
    machine.v2("/sys/fs/cgroup/a.slice", current=9 * GIB, maximum=10 * GIB)
    machine.v2("/sys/fs/cgroup/a.slice/b.slice", current=3 * GIB, maximum=9 * GIB, high=8 * GIB)
    machine.v2("/sys/fs/cgroup/a.slice/b.slice/c.slice", current=3 * GIB)
    machine.v2("/sys/fs/cgroup/a.slice/b.slice/c.slice/leaf", current=3 * GIB, maximum=11 * GIB)
    assert machine.probe.limit() == Limit(8 * GIB, "cgroup v2 memory.high of /a.slice/b.slice")
    sample = machine.sample()
    assert (sample.free_bytes, sample.limit) == (1 * GIB, Limit(10 * GIB, "cgroup v2 memory.max of /a.slice"))


def test_the_root_of_the_hierarchy_has_no_files_of_memory_and_limits_nothing(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    machine.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    machine.write("/sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 5\n")
    assert machine.probe.limit().bytes == 4 * GIB
    assert machine.sample().free_bytes == 3 * GIB


def test_a_leaf_without_the_memory_controller_has_the_limit_of_its_parent(machine: MachineOfFiles) -> None:
    leaf = in_v2_service(machine)
    machine.write(f"{leaf}/cgroup.controllers", "pids\n")
    machine.v2("/sys/fs/cgroup/system.slice", current=1 * GIB, maximum=6 * GIB)
    assert machine.sample().free_bytes == 5 * GIB


def test_a_limit_that_is_changed_while_we_run_holds_at_once(machine: MachineOfFiles) -> None:
    service = in_v2_service(machine)
    machine.v2(service, current=1 * GIB)
    probe = machine.probe
    assert probe.limit().bytes == 16 * GIB
    machine.write(f"{service}/memory.high", f"{3 * GIB}\n")
    assert probe.limit() == Limit(3 * GIB, "cgroup v2 memory.high of /system.slice/embed.service")
    assert probe.observe(0.0).samples[0].free_bytes == 2 * GIB
    machine.write(f"{service}/memory.high", "max\n")
    assert probe.limit().bytes == 16 * GIB


def test_a_process_that_is_moved_while_we_run_has_the_limit_of_where_it_is(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB)
    machine.v2("/sys/fs/cgroup/other.slice", current=1 * GIB, maximum=2 * GIB)
    probe = machine.probe
    assert probe.limit().bytes == 4 * GIB
    machine.own_cgroup("0::/other.slice")
    assert probe.limit().bytes == 2 * GIB


def test_swap_is_no_room(machine: MachineOfFiles) -> None:
    machine.write(
        "/proc/meminfo",
        "MemTotal: 4096 kB\nMemAvailable: 1024 kB\nMemFree: 9 kB\nSwapTotal: 999999 kB\nSwapFree: 9 kB\n",
    )
    assert machine.sample().free_bytes == 1 * MIB
    service = in_v2_service(machine)
    machine.memory(16 * GIB, 12 * GIB)
    machine.v2(service, current=3 * GIB, maximum=4 * GIB)
    machine.write(f"{service}/memory.swap.max", "max\n")
    machine.write(f"{service}/memory.swap.current", f"{2 * GIB}\n")
    assert machine.sample().free_bytes == 1 * GIB


def test_a_group_above_its_limit_has_no_room_and_not_less(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=5 * GIB, high=4 * GIB)
    assert machine.sample().free_bytes == 0


def test_more_cache_than_usage_does_not_make_room_beyond_the_limit(machine: MachineOfFiles) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=4 * GIB, cache=2 * GIB)
    assert machine.sample().free_bytes == 4 * GIB


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


@pytest.mark.parametrize("own", ["/", "/inner"])
def test_a_mount_of_an_outer_namespace_is_searched_for_the_group_that_we_are_in(
    machine: MachineOfFiles, own: str
) -> None:
    machine.mounts("30 23 0:27 /../.. /sys/fs/cgroup ro - cgroup2 cgroup ro")
    machine.own_cgroup(f"0::{own}")
    machine.v2("/sys/fs/cgroup/docker/other", current=0, maximum=1 * GIB)
    machine.write("/sys/fs/cgroup/docker/other/cgroup.procs", "4711\n")
    machine.v2("/sys/fs/cgroup/docker/abc", current=0, maximum=2 * GIB)
    machine.write(f"/sys/fs/cgroup/docker/abc{own}/cgroup.procs", f"4712\n{os.getpid()}\n")
    machine.v2("/sys/fs/cgroup/docker", current=7 * GIB, maximum=8 * GIB)
    assert machine.probe.limit() == Limit(2 * GIB, "cgroup v2 memory.max of /")
    assert machine.sample().limit == Limit(8 * GIB, "cgroup v2 memory.max of /..")


def test_an_outer_namespace_in_which_nobody_is_us_limits_as_far_as_is_known(machine: MachineOfFiles) -> None:
    machine.mounts("30 23 0:27 /.. /sys/fs/cgroup ro - cgroup2 cgroup ro")
    machine.own_cgroup("0::/")
    machine.v2("/sys/fs/cgroup/abc", current=0, maximum=1 * GIB)
    machine.v2("/sys/fs/cgroup", current=0, maximum=2 * GIB)
    assert machine.probe.limit().bytes == 2 * GIB


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
    assert machine.sample().free_bytes == 3 * GIB


def test_v1_page_cache_of_the_whole_group_is_room(machine: MachineOfFiles) -> None:
    machine.v1(in_v1_service(machine), usage=4 * GIB, limit=4 * GIB, cache=3 * GIB)
    assert machine.sample().free_bytes == 3 * GIB


def test_v1_limit_on_memory_and_swap_together_binds_where_swap_is_used(machine: MachineOfFiles) -> None:
    service = in_v1_service(machine)
    machine.v1(service, usage=2 * GIB, limit=4 * GIB)
    machine.v1_with_swap(service, usage=5 * GIB, limit=6 * GIB)
    assert machine.probe.limit().bytes == 4 * GIB
    sample = machine.sample()
    assert sample.free_bytes == 1 * GIB
    assert sample.limit.source == "cgroup v1 memory.memsw.limit_in_bytes of /system.slice/embed.service"


def test_v1_ancestor_limits_a_leaf_without_one(machine: MachineOfFiles) -> None:
    machine.v1(in_v1_service(machine), usage=1 * GIB, hierarchical=6 * GIB)
    machine.v1("/sys/fs/cgroup/memory/system.slice", usage=5 * GIB, limit=6 * GIB)
    machine.v1("/sys/fs/cgroup/memory", usage=7 * GIB)
    assert machine.probe.limit() == Limit(6 * GIB, "cgroup v1 memory.limit_in_bytes of /system.slice")
    assert machine.sample().free_bytes == 1 * GIB


def test_v1_tells_of_ancestors_that_are_not_mounted(machine: MachineOfFiles) -> None:
    machine.mounts("35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory")
    machine.own_cgroup("4:memory:/docker/abc/inner")
    machine.v1("/sys/fs/cgroup/memory/inner", usage=1 * GIB, hierarchical=3 * GIB)
    machine.v1("/sys/fs/cgroup/memory", usage=2 * GIB, hierarchical=3 * GIB)
    assert machine.probe.limit() == Limit(3 * GIB, "cgroup v1 hierarchical_memory_limit of /docker/abc")
    assert machine.sample().free_bytes == 1 * GIB, "the neighbours that we can see count too"


@pytest.mark.parametrize("limit", ["max", 64 * GIB])
def test_v2_limit_above_the_machine_is_none(machine: MachineOfFiles, limit: int | str) -> None:
    machine.v2(in_v2_service(machine), current=1 * GIB, maximum=limit)
    assert machine.probe.limit() == Limit(16 * GIB, "machine MemTotal")
    assert machine.sample().free_bytes == 12 * GIB


@pytest.mark.parametrize("limit", [UNLIMITED_V1, UNLIMITED_V1 - 61440, 64 * GIB])
def test_v1_limit_above_the_machine_is_none(machine: MachineOfFiles, limit: int) -> None:
    machine.v1(in_v1_service(machine), usage=1 * GIB, limit=limit)
    assert machine.probe.limit() == Limit(16 * GIB, "machine MemTotal")
    assert machine.sample().free_bytes == 12 * GIB


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
