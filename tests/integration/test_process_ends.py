"""How processes end that nobody told to, or that nobody reports, seen from the shell that starts and reaps them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embeddaemon.config.settings import HardLimits
from embeddaemon.protocol import control
from embeddaemon.supervisor.commands import LimitMemory, StartFetcher, StartForkServer, StartWorker
from embeddaemon.supervisor.events import ChildReaped, ControlLost, Event, ForkerSaid, KernelKilled
from embeddaemon.supervisor.memory.hard_limits import HardLimiter
from embeddaemon.supervisor.processes import process
from embeddaemon.supervisor.processes.living import Living
from embeddaemon.supervisor.processes.process import Processes
from tests.support.daemon import running_daemon, stub_folder
from tests.support.memory_cgroup import memory_cgroup
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfds and who was killed by the kernel are Linux's")

MIB = 1024 * 1024
FORK_SERVER = 1
KEEPS_CONTROL = "import signal; signal.pause()"
CLOSES_CONTROL = "import os, signal, sys; os.close(int(sys.argv[2])); signal.pause()"
WORKER = StartWorker(child=2, worker=0, incarnation=1, threads=1, template=None, order=None)


class Shell:
    """``Processes`` with a fork server that does what it is told here; ``kernel_kills`` is what the kernel counts."""

    def __init__(self, program: str, wanted: HardLimits = HardLimits.OFF) -> None:
        self.kernel_kills = 0
        self._limiter = limiter = HardLimiter(wanted, lambda: self.kernel_kills)
        command = (sys.executable, "-c", program)
        self.processes = Processes("ipc:///tmp/nowhere", 0.5, limiter, fork_server_command=command)
        assert self.processes.start_fork_server(StartForkServer(FORK_SERVER)) is None
        self.fork_server_pid = self.processes._processes[FORK_SERVER].pid

    def close(self) -> None:
        if FORK_SERVER in self.processes._processes:
            self.processes.kill(FORK_SERVER)
            self.events_until(ChildReaped)
        self.processes.close()
        self._limiter.close()

    def events_until(self, last: type[Event]) -> list[Event]:
        events: list[Event] = []

        def is_told() -> bool:
            events.extend((*self.processes.read_controls(), *self.processes.reap()))
            return any(isinstance(event, last) for event in events)

        wait_until(is_told, 10, describe=lambda: events)
        return events


@contextlib.contextmanager
def shell(program: str, wanted: HardLimits = HardLimits.OFF) -> Iterator[Shell]:
    one = Shell(program, wanted)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(autouse=True)
def no_subreaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "become_subreaper", lambda: None)  # the test's own process is none


KILLED_BY_KERNEL = [
    KernelKilled(FORK_SERVER, by_hard_limit=False),
    ChildReaped(FORK_SERVER, -9, orphan=False),
]


def test_kill_after_its_control_socket_was_lost_hides_no_kill_by_the_kernel() -> None:
    with shell(CLOSES_CONTROL) as one:
        assert one.events_until(ControlLost) == [ControlLost(FORK_SERVER)]
        one.kernel_kills += 1
        one.processes.kill(FORK_SERVER)
        assert one.events_until(ChildReaped) == KILLED_BY_KERNEL


def test_kill_after_an_order_found_its_control_socket_closed_hides_no_kill_by_the_kernel() -> None:
    with shell(CLOSES_CONTROL) as one:
        wait_until(lambda: one.processes.start_worker(WORKER) == ControlLost(FORK_SERVER), 10)
        one.kernel_kills += 1
        one.processes.kill(FORK_SERVER)
        assert one.events_until(ChildReaped)[-2:] == KILLED_BY_KERNEL


def test_process_that_we_killed_was_not_killed_by_the_kernel_although_its_control_socket_ended_then() -> None:
    with shell(KEEPS_CONTROL) as one:
        one.kernel_kills += 1
        one.processes.kill(FORK_SERVER)
        events = one.events_until(ChildReaped)
        one.processes.kill(FORK_SERVER)
        assert not any(isinstance(event, KernelKilled) for event in events)


def test_template_that_the_kernel_killed_is_named_so_by_the_daemon(socket_folder: Path, tmp_path: Path) -> None:
    models = [{"name": "m", "source": f"path:{stub_folder(tmp_path, load='eat 4000MiB')}", "preload": True}]
    with (
        memory_cgroup(limit_bytes=1024 * MIB) as group,
        running_daemon(socket_folder, launcher=group.launcher, models=models, memory_reserve=64 * MIB) as running,
    ):
        ends = ("template_died", "template_stopped")

        def told() -> list[str]:
            return [line for line in running.output().splitlines() if any(end in line for end in ends)]

        wait_until(lambda: bool(told()), 30, describe=running.output)
        assert "machine_out_of_memory" in told()[0], running.output()


def test_forgotten_worker_that_was_never_born_leaves_no_cgroup() -> None:
    with memory_cgroup(limit_bytes=1024 * MIB):  # skips where there are none
        pass
    with shell(KEEPS_CONTROL, HardLimits.CGROUP) as one:
        one.processes.start_worker(WORKER)
        limiter = one.processes._limiter
        assert limiter._cgroups is not None
        folder = limiter._cgroups.folder / str(WORKER.child)
        assert folder.exists()
        one.processes.forget(WORKER.child)
        one.processes.forget(WORKER.child)
        assert not folder.exists()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_forgotten_processes_leave_no_descriptors() -> None:
    with shell(KEEPS_CONTROL) as one:
        before = open_descriptors()
        assert one.processes.start_fetcher(StartFetcher(2, "hub:some/model")) is None
        one.processes._note(2, one.fork_server_pid)
        assert open_descriptors() > before
        one.processes.forget(2)
        assert list(one.processes.descriptors.values()) == [FORK_SERVER]
        assert open_descriptors() == before


def test_process_that_is_forgotten_while_its_news_are_read_says_no_more() -> None:
    with shell(KEEPS_CONTROL) as one:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.processes._add_control(2, ours)
        with theirs:
            for _ in range(2):
                theirs.send(control.encode(control.Forked(3, one.fork_server_pid)))
            events = []
            for event in one.processes.read_control(2):
                events.append(event)
                one.processes.forget(2)
        one.processes.forget(3)
        assert [type(event) for event in events] == [ForkerSaid]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else, who got the number of a process that was ours."""
    with subprocess.Popen([sys.executable, "-c", KEEPS_CONTROL]) as one:
        yield one
        assert one.poll() is None, "killed in the place of another"
        one.kill()


def gone(*_: object) -> int:
    raise ProcessLookupError


def test_process_that_was_gone_before_we_heard_of_it_is_not_killed_by_its_number(
    bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pidfd_open", gone)
    one = Living(bystander.pid)
    assert not one.is_there()
    one.kill()
    one.let_go()


def test_system_without_pidfds_kills_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with subprocess.Popen([sys.executable, "-c", KEEPS_CONTROL]) as child:
        one = Living(child.pid)
        assert one.is_there()
        one.kill()
        assert child.wait(10) == -9
        assert not one.is_there()
        one.kill()


def test_limit_of_a_process_that_was_reaped_is_not_set_on_who_has_its_number_now(
    bystander: subprocess.Popen[bytes],
) -> None:
    with shell(KEEPS_CONTROL, HardLimits.RLIMIT) as one:
        one.processes._limiter.prepare(2, 1)
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            one.processes._note(2, ended.pid)
        one.processes._limiter.born(2, bystander.pid)  # as if the number had come round
        one.processes.limit_memory(LimitMemory(2, MIB))
        assert resource.prlimit(bystander.pid, resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
        one.processes.forget(2)


@pytest.mark.parametrize(
    "packet", [b"\xc1 nothing", control.encode(control.ForkFetcher(3, "hub:a/b"))], ids=["garbage", "an order"]
)
def test_fork_server_that_talks_nonsense_is_ended(packet: bytes) -> None:
    says_it = f"import os, signal, sys; os.write(int(sys.argv[2]), {packet!r}); signal.pause()"
    with shell(says_it) as one:
        events = one.events_until(ChildReaped)
    assert events == [ControlLost(FORK_SERVER), ChildReaped(FORK_SERVER, -9, orphan=False)]


def spawning(program: str) -> Processes:
    limiter = HardLimiter(HardLimits.OFF, lambda: 0)
    return Processes("ipc:///tmp/nowhere", 0.5, limiter, spawn_command=(sys.executable, "-c", program))


def reaped(processes: Processes) -> list[Event]:
    events: list[Event] = []

    def is_any() -> bool:
        events.extend(processes.reap())
        return bool(events)

    wait_until(is_any, 10)
    return events


SPAWNED = replace(WORKER, spawn=True)


@pytest.mark.parametrize("program", ["import os; os.close(0)", "import os; os.close(0); import signal; signal.pause()"])
def test_spawned_worker_that_does_not_read_its_order_is_collected_as_any_other(program: str) -> None:
    processes = spawning(program)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert processes.start_worker(SPAWNED) is None
        if "pause" in program:
            processes.kill(SPAWNED.child)
        assert [type(event) for event in reaped(processes)] == [ChildReaped]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    processes.close()


def test_long_order_waits_for_no_spawned_worker() -> None:
    processes = spawning("import signal; signal.pause()")
    processes._link_endpoint = "x" * 100_000
    assert processes.start_worker(SPAWNED) is None
    processes.kill(SPAWNED.child)
    assert [type(event) for event in reaped(processes)] == [ChildReaped]
    processes.close()
