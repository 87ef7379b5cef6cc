"""cgroups for workers against trees of files: where they are made, what is written, and when none are.

A plain folder is no cgroup: the files that the kernel makes in a new one, and takes with it, are the test's to make.
v1 with a real kernel is in tests/integration/test_hard_limits.py.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddaemon.config.settings import HardLimits
from embeddaemon.errors import ConfigError
from embeddaemon.governor.cgroups import SUPERVISOR_LEAF as LEAF
from embeddaemon.supervisor.events import KernelKilled
from embeddaemon.supervisor.memory.hard_limits import LEAST_GROWTH_BYTES, HardLimiter
from embeddaemon.supervisor.memory.worker_cgroups import Unavailable, folder_name, worker_cgroups

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")

MIB = 1024 * 1024
PID = os.getpid()
NOBODY = 2**22 + 1
"""Above every pid that the kernel gives."""
PID_NAMESPACE = 4026531836
OURS = f"embeddaemon-{PID_NAMESPACE}-{PID}"


class Machine:
    """A root folder with /proc and a cgroup mount, in which this process lives in ``own``."""

    def __init__(self, root: Path, *, version: int, own: str = "/unit") -> None:
        self.root = root
        self.mount = root / "sys/fs/cgroup"
        self.folder = self.mount / own.lstrip("/")
        self.folder.mkdir(parents=True)
        proc = root / "proc/self"
        proc.mkdir(parents=True)
        if version == 2:
            (proc / "cgroup").write_text(f"0::{own}\n")
            (proc / "mountinfo").write_text("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        else:
            (proc / "cgroup").write_text(f"4:memory:{own}\n0::/\n")
            (proc / "mountinfo").write_text("1 0 0:1 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n")
        (proc / "ns").mkdir()
        (proc / "ns/pid").symlink_to(f"pid:[{PID_NAMESPACE}]")
        self.is_controlled(self.folder)

    def is_controlled(self, folder: Path) -> None:
        """The files of a cgroup with a memory controller."""
        for name in ("cgroup.procs", "cgroup.subtree_control", "memory.oom_control"):
            (folder / name).touch()
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")

    def mark_delegated(self, folder: Path) -> None:
        try:
            os.setxattr(folder, "user.delegate", b"1")
        except OSError as error:
            pytest.skip(f"no extended attributes in the temporary folder: {error}")


KERNEL_FILES = ("cgroup.procs", "cgroup.subtree_control", "memory.current", "memory.events", "memory.swap.max")


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder has the files of a cgroup; one without children and processes goes with its files."""
    make, remove = Path.mkdir, Path.rmdir

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        is_new = not path.exists()
        make(path, mode, parents, exist_ok)
        for name in KERNEL_FILES if is_new else ():
            (path / name).touch()

    def rmdir(path: Path) -> None:
        procs = path / "cgroup.procs"
        if procs.exists() and not procs.read_text() and not any(each.is_dir() for each in path.iterdir()):
            for file in path.iterdir():
                file.unlink()
        remove(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)


@pytest.fixture
def delegated(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, version=2)
    machine.mark_delegated(machine.folder)
    return machine


def limiter_of(machine: Machine, wanted: HardLimits = HardLimits.AUTO, kills: int = 0) -> HardLimiter:
    return HardLimiter(wanted, lambda: kills, root=machine.root)


def test_delegated_cgroup_is_divided_into_a_leaf_for_us_and_one_for_each_worker(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    assert limiter.kind == "cgroup v2"
    assert (delegated.folder / LEAF / "cgroup.procs").read_text() == "0", "we are in it"
    assert (delegated.folder / "cgroup.subtree_control").read_text() == "+memory"
    worker = delegated.folder / OURS / "7"
    assert limiter.prepare(7, 1) == str(worker)
    assert (worker.parent / "cgroup.subtree_control").read_text() == "+memory"
    assert (worker / "memory.swap.max").read_text() == "0"
    assert not (worker / "memory.max").exists(), "no limit while it loads"


def test_limit_is_what_the_worker_holds_and_the_growth(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    worker = Path(limiter.prepare(7, 1) or "")
    (worker / "cgroup.procs").write_text("4711\n")
    (worker / "memory.current").write_text(f"{30 * MIB}\n")
    limiter.limit(7, 100 * MIB)
    assert int((worker / "memory.max").read_text()) == 130 * MIB
    (worker / "memory.current").write_text(f"{50 * MIB}\n")
    limiter.limit(7, 200 * MIB)
    assert int((worker / "memory.max").read_text()) == 250 * MIB
    (worker / "memory.current").write_text(f"{40 * MIB}\n")
    limiter.limit(7, 100 * MIB)
    assert int((worker / "memory.max").read_text()) == 250 * MIB, "what it gave back meanwhile it may take again"


def test_worker_may_always_grow_a_little(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    worker = Path(limiter.prepare(7, 1) or "")
    (worker / "cgroup.procs").write_text("4711\n")
    (worker / "memory.current").write_text(f"{30 * MIB}\n")
    for growth_bytes in (0, -50 * MIB):
        limiter.limit(7, growth_bytes)
        assert int((worker / "memory.max").read_text()) == 30 * MIB + LEAST_GROWTH_BYTES


def test_what_is_no_worker_gets_no_limit(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    limiter.born(8, PID)
    limiter.limit(8, 0)
    assert not list(delegated.folder.glob("embeddaemon-*/8"))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("oom 1\noom_kill 1\n", KernelKilled(7, by_hard_limit=True)),
        ("oom 0\noom_kill 1\n", KernelKilled(7, by_hard_limit=False)),
        ("oom 0\noom_kill 0\n", None),
    ],
)
def test_events_of_its_cgroup_tell_why_a_worker_died(
    delegated: Machine, events: str, expected: KernelKilled | None
) -> None:
    limiter = limiter_of(delegated)
    worker = Path(limiter.prepare(7, 1) or "")
    (worker / "memory.events").write_text(events)
    assert limiter.kernel_kill(7, -9, was_told_to_die=False) == expected
    assert limiter.kernel_kill(7, -11, was_told_to_die=False) is None, "the kernel kills with SIGKILL"


def test_kill_in_a_workers_cgroup_that_is_counted_above_explains_no_other_death(delegated: Machine) -> None:
    kills = 0
    limiter = HardLimiter(HardLimits.AUTO, lambda: kills, root=delegated.root)
    worker = Path(limiter.prepare(7, 1) or "")
    (worker / "memory.events").write_text("oom 1\noom_kill 1\n")
    kills = 1
    assert limiter.kernel_kill(7, -9, was_told_to_die=False) == KernelKilled(7, by_hard_limit=True)
    assert limiter.kernel_kill(2, -9, was_told_to_die=False) is None


def test_kill_in_our_own_cgroup_explains_one_death_that_was_not_ours(delegated: Machine) -> None:
    kills = 5
    limiter = HardLimiter(HardLimits.OFF, lambda: kills, root=delegated.root)
    assert limiter.kernel_kill(1, -9, was_told_to_die=False) is None, "those were before us"
    kills = 6
    assert limiter.kernel_kill(2, -9, was_told_to_die=True) is None
    assert limiter.kernel_kill(3, -9, was_told_to_die=False, is_orphan=True) is None
    assert limiter.kernel_kill(4, -9, was_told_to_die=False) == KernelKilled(4, by_hard_limit=False)
    assert limiter.kernel_kill(5, -9, was_told_to_die=False) is None


def test_kill_in_our_own_cgroup_does_not_explain_the_death_of_a_worker_that_has_its_own(delegated: Machine) -> None:
    kills = 0
    limiter = HardLimiter(HardLimits.AUTO, lambda: kills, root=delegated.root)
    worker = Path(limiter.prepare(7, 1) or "")
    (worker / "cgroup.procs").write_text("4711\n")
    (worker / "memory.current").write_text("0\n")
    limiter.limit(7, MIB)
    kills = 1
    assert limiter.kernel_kill(7, -9, was_told_to_die=False) is None
    assert limiter.kernel_kill(2, -9, was_told_to_die=False) == KernelKilled(2, by_hard_limit=False)


def test_worker_that_never_entered_its_cgroup_is_limited_once_its_pid_is_known(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    limiter.prepare(7, 1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        limiter.limit(7, 100 * MIB)
        limiter.born(7, process.pid)
        soft, _ = resource.prlimit(process.pid, resource.RLIMIT_DATA)
        assert 100 * MIB < soft < 1000 * MIB


def test_kill_that_nobody_of_ours_died_of_is_forgotten(delegated: Machine) -> None:
    kills = 0
    limiter = HardLimiter(HardLimits.OFF, lambda: kills, root=delegated.root)
    kills = 1
    limiter.tidy()
    limiter.tidy()
    assert limiter.kernel_kill(1, -9, was_told_to_die=False) is None


def test_folder_is_removed_after_the_worker_and_all_of_it_at_the_end(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    worker = Path(limiter.prepare(7, 1) or "")
    limiter.ended(7)
    assert not worker.exists()
    limiter.close()
    assert [path.name for path in delegated.folder.glob("*/")] == [LEAF]


def test_folder_that_the_kernel_still_holds_is_removed_later(delegated: Machine) -> None:
    limiter = limiter_of(delegated)
    worker = Path(limiter.prepare(7, 1) or "")
    (worker / "cgroup.procs").write_text("4711\n")
    limiter.ended(7)
    assert worker.exists()
    (worker / "cgroup.procs").write_text("")
    limiter.tidy()
    assert not worker.exists()


def test_folders_of_a_dead_daemon_are_removed_at_the_start_and_a_living_ones_stay(delegated: Machine) -> None:
    folders = {pid: delegated.folder / folder_name(delegated.root / "proc", pid) for pid in (NOBODY, PID, 1)}
    for folder in folders.values():
        (folder / "3").mkdir(parents=True)
    (delegated.root / "proc/1").mkdir()
    limiter_of(delegated)
    assert not folders[NOBODY].exists()
    assert not folders[PID].exists(), "of one that had our pid before us"
    assert (folders[1] / "3").exists()


def test_folders_that_another_daemon_removes_at_the_same_time_are_not_in_the_way(
    delegated: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftovers = [delegated.folder / folder_name(delegated.root / "proc", pid) for pid in (NOBODY, NOBODY + 1)]
    for folder in leftovers:
        (folder / "3").mkdir(parents=True)
    look = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == leftovers[0].name:
            shutil.rmtree(path)
        return look(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    limiter = limiter_of(delegated)
    assert not any(folder.exists() for folder in leftovers)
    limiter.prepare(1, 1)
    own = delegated.folder / folder_name(delegated.root / "proc", PID)
    leftovers[0] = own
    limiter.close()
    assert not own.exists()


def test_folders_of_daemons_in_other_pid_namespaces_stay(delegated: Machine) -> None:
    """What lives there is not in our /proc."""
    ours = delegated.folder / folder_name(delegated.root / "proc", NOBODY)
    elsewhere = delegated.folder / ours.name.replace(f"-{PID_NAMESPACE}-", f"-{PID_NAMESPACE + 1}-")
    for folder in (ours, elsewhere):
        (folder / "3").mkdir(parents=True)
    limiter_of(delegated)
    assert not ours.exists()
    assert (elsewhere / "3").exists()


def test_daemon_that_was_started_in_the_leaf_uses_the_cgroup_above(tmp_path: Path) -> None:
    machine = Machine(tmp_path, version=2, own=f"/unit/{LEAF}")
    machine.is_controlled(machine.folder.parent)
    machine.mark_delegated(machine.folder.parent)
    limiter = limiter_of(machine)
    assert limiter.prepare(1, 1) == str(machine.folder.parent / OURS / "1")
    assert (machine.folder / "cgroup.procs").read_text() == "", "we are where we belong"


def test_root_of_a_cgroup_namespace_is_ours(tmp_path: Path) -> None:
    assert limiter_of(Machine(tmp_path, version=2, own="/")).kind == "cgroup v2"


def test_cgroup_that_nobody_delegated_is_left_alone_unless_we_are_told_to_use_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, version=2)
    before = sorted(machine.folder.iterdir())
    assert limiter_of(machine).kind == "rlimit"
    assert sorted(machine.folder.iterdir()) == before
    assert limiter_of(machine, HardLimits.CGROUP).kind == "cgroup v2"


def test_cgroup_without_memory_controller_is_not_used(delegated: Machine) -> None:
    (delegated.folder / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(Unavailable, match="no memory controller"):
        worker_cgroups(delegated.root, is_asked_for=True)


def test_we_move_back_where_the_kernel_refuses_controllers(delegated: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def refuse(path: Path, text: str) -> int:
        if path.name == "cgroup.subtree_control":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if path == delegated.folder / "cgroup.procs":
            write(delegated.folder / LEAF / "cgroup.procs", "")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(Unavailable, match="other processes live in it"):
        worker_cgroups(delegated.root, is_asked_for=False)
    assert (delegated.folder / "cgroup.procs").read_text() == "0"
    assert not (delegated.folder / LEAF).exists()


def test_v1_that_does_not_count_upwards_is_not_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path, version=1)
    (machine.folder / "memory.use_hierarchy").write_text("0\n")
    with pytest.raises(Unavailable, match="escape"):
        worker_cgroups(machine.root, is_asked_for=True)


def test_v1_needs_no_delegation_and_no_move(tmp_path: Path) -> None:
    machine = Machine(tmp_path, version=1)
    limiter = limiter_of(machine)
    assert limiter.kind == "cgroup v1"
    assert limiter.prepare(3, 1) == str(machine.folder / OURS / "3")
    assert (machine.folder / "cgroup.procs").read_text() == ""


def test_v1_peaks_of_loading_are_forgotten_when_a_limit_is_set(tmp_path: Path) -> None:
    limiter = limiter_of(Machine(tmp_path, version=1))
    worker = Path(limiter.prepare(3, 1) or "")
    (worker / "cgroup.procs").write_text("4711\n")
    (worker / "memory.usage_in_bytes").write_text(f"{100 * MIB}\n")
    for name in ("memory", "memory.memsw"):
        (worker / f"{name}.limit_in_bytes").write_text(f"{2**62}\n")
        (worker / f"{name}.max_usage_in_bytes").write_text(f"{900 * MIB}\n")
    limiter.limit(3, 200 * MIB)
    for name in ("memory", "memory.memsw"):
        assert int((worker / f"{name}.limit_in_bytes").read_text()) == 300 * MIB
        assert int((worker / f"{name}.max_usage_in_bytes").read_text()) == 0


def test_v1_that_does_not_count_swap_is_limited_in_memory_alone(tmp_path: Path) -> None:
    limiter = limiter_of(Machine(tmp_path, version=1))
    worker = Path(limiter.prepare(3, 1) or "")
    (worker / "cgroup.procs").write_text("4711\n")
    (worker / "memory.usage_in_bytes").write_text(f"{100 * MIB}\n")
    (worker / "memory.limit_in_bytes").write_text(f"{2**62}\n")
    limiter.limit(3, 200 * MIB)
    assert int((worker / "memory.limit_in_bytes").read_text()) == 300 * MIB
    assert not list(worker.glob("memory.memsw.*"))


def test_daemon_that_must_have_cgroups_and_may_not_make_any_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"hard_limits.*no memory cgroup"):
        HardLimiter(HardLimits.CGROUP, lambda: 0, root=tmp_path)
    assert HardLimiter(HardLimits.AUTO, lambda: None, root=tmp_path).kind == "rlimit"
    assert HardLimiter(HardLimits.OFF, lambda: None, root=tmp_path).kind == "none"
