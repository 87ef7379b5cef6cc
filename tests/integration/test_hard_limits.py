"""Hard limits of real processes: who takes too much dies, alone and by name, and nothing is left in the cgroup tree.

v2 cannot be had beside v1; it is tested against trees of files in tests/unit/supervisor/test_worker_cgroups.py.
"""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embeddaemon.config.settings import HardLimits
from embeddaemon.governor.probes import probe_for_this_machine
from embeddaemon.protocol.messages import ErrorAnswer, Vectors
from embeddaemon.supervisor.events import KernelKilled
from embeddaemon.supervisor.memory.hard_limits import HardLimiter, limit_data
from embeddaemon.supervisor.memory.worker_cgroups import Unavailable, WorkerCgroups, folder_name, worker_cgroups
from tests.support.daemon import RunningDaemon, is_gone, kill, running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.waiting import seconds, wait_until

MIB = 1024 * 1024
GROWTH_BYTES = 100 * MIB
CHILD = 7
PROC = Path("/proc")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hard limits are Linux's")

EATER = """
import sys
from embeddaemon.workers import guard
guard.enter_cgroup(sys.argv[1] or None)
print("inside", flush=True)
kept = []
for line in sys.stdin:
    mebibytes = int(line)
    for _ in range(abs(mebibytes)):
        kept.append(b"x" * (1 << 20))
    if mebibytes < 0:
        kept.clear()
    print("full", flush=True)
"""


class Eater:
    """A process that takes memory when it is told to."""

    def __init__(self, cgroup: str | None) -> None:
        command = [sys.executable, "-c", EATER, cgroup or ""]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._said() == "inside"

    @property
    def pid(self) -> int:
        return self.process.pid

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def eats(self, size_mib: int) -> bool:
        """Whether it lives to tell."""
        return self._does(size_mib)

    def takes_and_gives_back(self, size_mib: int) -> bool:
        """The same, and then it has no more than at first."""
        return self._does(-size_mib)

    def _does(self, size_mib: int) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{size_mib}\n")
        self.process.stdin.flush()
        return self._said() == "full"

    def exit_code(self) -> int:
        return self.process.wait(seconds(10))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def eater(cgroup: str | None) -> Iterator[Eater]:
    one = Eater(cgroup)
    try:
        yield one
    finally:
        one.close()


def cgroups_or_skip() -> WorkerCgroups:
    if not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        pytest.skip("no v1 memory controller; under v2 the test's own process would have to move")
    try:
        return worker_cgroups(is_asked_for=False)
    except Unavailable as error:
        pytest.skip(f"no cgroups for workers here: {error}")


@pytest.fixture
def limiter() -> Iterator[HardLimiter]:
    cgroups_or_skip().close()
    one = HardLimiter(HardLimits.CGROUP, probe_for_this_machine().kernel_kills)
    yield one
    one.close()


def test_process_that_passes_its_own_limit_is_killed_for_it(limiter: HardLimiter) -> None:
    with eater(limiter.prepare(CHILD, 1)) as one:
        limiter.limit(CHILD, GROWTH_BYTES)
        assert one.eats(60)
        assert not one.eats(60)
        assert limiter.kernel_kill(CHILD, one.exit_code(), was_told_to_die=False) == KernelKilled(
            CHILD, by_hard_limit=True
        )


def test_limit_counts_from_what_is_held_and_is_only_ever_raised(limiter: HardLimiter) -> None:
    with eater(limiter.prepare(CHILD, 1)) as one:
        assert one.eats(150), "no limit before it is told"
        limiter.limit(CHILD, GROWTH_BYTES)
        assert one.eats(60)
        limiter.limit(CHILD, GROWTH_BYTES)
        assert one.eats(60)
        limiter.limit(CHILD, 20 * MIB)
        assert one.eats(30), "as far as it might before"
        assert not one.eats(60)
        assert one.exit_code() == -signal.SIGKILL


def test_kill_by_a_limit_above_is_not_blamed_on_the_workers_own(limiter: HardLimiter) -> None:
    folder = Path(limiter.prepare(CHILD, 1) or "")
    with eater(str(folder)) as one:
        limiter.limit(CHILD, 10 * GROWTH_BYTES)
        assert one.eats(1)
        (folder.parent / "memory.limit_in_bytes").write_text(str(GROWTH_BYTES))
        assert not one.eats(200)
        assert limiter.kernel_kill(CHILD, one.exit_code(), was_told_to_die=False) == KernelKilled(
            CHILD, by_hard_limit=False
        )


def test_kill_by_a_limit_above_is_not_blamed_on_a_worker_that_once_held_more_than_its_limit(
    limiter: HardLimiter,
) -> None:
    folder = Path(limiter.prepare(CHILD, 1) or "")
    with eater(str(folder)) as one:
        assert one.takes_and_gives_back(300), "as loading does"
        limiter.limit(CHILD, 2 * GROWTH_BYTES)
        (folder.parent / "memory.limit_in_bytes").write_text(str(GROWTH_BYTES))
        assert not one.eats(150)
        assert limiter.kernel_kill(CHILD, one.exit_code(), was_told_to_die=False) == KernelKilled(
            CHILD, by_hard_limit=False
        )


def test_kill_by_a_person_is_not_the_kernels(limiter: HardLimiter) -> None:
    with eater(limiter.prepare(CHILD, 1)) as one:
        limiter.limit(CHILD, GROWTH_BYTES)
        one.process.kill()
        assert limiter.kernel_kill(CHILD, one.exit_code(), was_told_to_die=False) is None


def test_limit_of_swap_and_memory_together_is_the_same(limiter: HardLimiter) -> None:
    folder = Path(limiter.prepare(CHILD, 1) or "")
    both = folder / "memory.memsw.limit_in_bytes"
    if not both.exists():
        pytest.skip("the kernel does not count swap")
    with eater(str(folder)):
        limiter.limit(CHILD, GROWTH_BYTES)
        assert both.read_text() == (folder / "memory.limit_in_bytes").read_text()
        assert int(both.read_text()) >= GROWTH_BYTES


def test_setting_a_limit_takes_less_than_a_millisecond(limiter: HardLimiter) -> None:
    with eater(limiter.prepare(CHILD, 1)):
        took = []
        for _ in range(50):
            start = time.perf_counter()
            limiter.limit(CHILD, GROWTH_BYTES)
            took.append(time.perf_counter() - start)
        assert sorted(took)[len(took) // 2] < seconds(0.001)


def test_data_limit_counts_from_what_is_mapped_and_can_be_raised() -> None:
    with eater(None) as one:
        limit_data(one.pid, 60 * MIB, 0)
        assert one.eats(50)
        limit_data(one.pid, 60 * MIB, 0)
        assert one.eats(50)
        assert not one.eats(50)
        assert one.exit_code() == 1, "MemoryError in the process itself"


def test_data_limit_of_a_process_that_is_gone_is_nothing() -> None:
    with eater(None) as one:
        one.process.kill()
        one.exit_code()
        limit_data(one.pid, GROWTH_BYTES, 0)


def test_data_limit_is_never_above_the_hard_one() -> None:
    with eater(None) as one:
        resource.prlimit(one.pid, resource.RLIMIT_DATA, (1000 * MIB, 2000 * MIB))
        limit_data(one.pid, 5000 * MIB, 0)
        assert resource.prlimit(one.pid, resource.RLIMIT_DATA) == (2000 * MIB, 2000 * MIB)


def model(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "source": f"path:{stub_folder(folder / name)}", **options}


@pytest.fixture(params=["cgroup", "rlimit"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "cgroup":
        cgroups_or_skip().close()
    return str(request.param)


def worker_pids(running: RunningDaemon) -> set[int]:
    return {process.pid for process in running.named("ed-worker")}


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_that_takes_too_much_dies_and_nobody_else_notices(
    socket_folder: Path, tmp_path: Path, way: str, start_method: str
) -> None:
    models = [model(tmp_path, "hungry"), model(tmp_path, "modest")]
    settings: dict[str, Any] = {"hard_limits": way, "start_method": start_method}
    with running_daemon(socket_folder, models=models, **settings) as running, running.client() as client:
        assert client.embed(["hello"], model="modest").shape == (1, 8)
        modest = worker_pids(running)
        assert client.embed(["eat 20MiB"], model="hungry").shape == (1, 8), "so much is within its lease"
        (hungry,) = worker_pids(running) - modest
        asked = [client.ask([f"stall 0.01 {i}"], model="modest") for i in range(20)]
        eating = client.ask(["eat 4000MiB"], model="hungry")
        answers = {answer.id: answer for answer in (client.receive()[0] for _ in (*asked, eating))}
        assert all(isinstance(answers[id_], Vectors) for id_ in asked), running.output()
        died = answers[eating]
        assert isinstance(died, ErrorAnswer)
        assert died.code == "poisoned", "two workers reached their own limits by this text alone"
        assert died.details["death"] == "out_of_memory"
        assert "died of them (out_of_memory)" in died.message
        deaths = [line for line in running.output().splitlines() if "worker_died" in line]
        assert deaths
        assert all("death=out_of_memory" in line and "worker=hungry/" in line for line in deaths), deaths
        wait_until(lambda: hungry not in worker_pids(running), describe=running.output)
        assert modest <= worker_pids(running), "the other model's worker lives"
        wait_until(lambda: is_served(client, "hungry"), 10, describe=running.output)


def is_served(client: RawClient, model: str) -> bool:
    client.ask(["hello again"], model=model)
    return isinstance(client.receive()[0], Vectors)


def test_worker_without_hard_limit_may_take_what_it_wants(socket_folder: Path, tmp_path: Path) -> None:
    models = [model(tmp_path, "hungry")]
    with running_daemon(socket_folder, models=models, hard_limits="off") as running, running.client() as client:
        assert client.embed(["eat 400MiB"]).shape == (1, 8)
        assert "hard_limits kind=none" in running.output()
        assert not _folders_of(running)
        for worker in worker_pids(running):
            assert resource.prlimit(worker, resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


def _folders_of(running: RunningDaemon) -> list[Path]:
    """The cgroups of its workers."""
    return list((_own_folder() / folder_name(PROC, running.process.pid)).glob("*/"))


def _own_folder() -> Path:
    own = re.search(r"^\d+:(?:\S*,)?memory(?:,\S*)?:(/.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    return Path("/sys/fs/cgroup/memory") / own[1].lstrip("/") if own else Path("/nowhere")


def test_only_workers_live_in_cgroups_of_their_own_and_none_is_left_after_the_stop(
    socket_folder: Path, tmp_path: Path
) -> None:
    cgroups_or_skip().close()
    models = [model(tmp_path, "one"), model(tmp_path, "two")]
    with running_daemon(socket_folder, models=models, hard_limits="cgroup") as running, running.client() as client:
        for name in ("one", "two"):
            client.embed(["hello"], model=name)
        inside = {int(pid) for folder in _folders_of(running) for pid in (folder / "cgroup.procs").read_text().split()}
        assert inside == worker_pids(running)
        assert len(inside) == 2
        kill(worker_pids(running).pop())
        wait_until(lambda: len(_folders_of(running)) == 1 or len(worker_pids(running)) == 2, describe=running.output)
        assert running.stop() == 0
        assert not (_own_folder() / folder_name(PROC, running.process.pid)).exists()


def test_kill_by_a_person_or_because_of_others_is_not_called_the_workers_fault(
    socket_folder: Path, tmp_path: Path
) -> None:
    cgroups_or_skip().close()
    models = [model(tmp_path, "m")]
    with running_daemon(socket_folder, models=models, hard_limits="cgroup") as running, running.client() as client:
        client.embed(["hello"])
        kill(worker_pids(running).pop())
        wait_until(lambda: "death=killed" in running.output(), describe=running.output)
        wait_until(lambda: is_served(client, "m"), 10, describe=running.output)
        all_workers = _own_folder() / folder_name(PROC, running.process.pid)
        (all_workers / "memory.limit_in_bytes").write_text(str(60 * MIB))
        client.ask(["eat 100MiB"])
        wait_until(lambda: "death=machine_out_of_memory" in running.output(), 10, describe=running.output)
        (all_workers / "memory.limit_in_bytes").write_text("-1")
        assert isinstance(client.receive()[0], Vectors), "the request was not to blame either"


def test_cgroups_of_a_killed_daemon_are_removed_by_the_next(socket_folder: Path, tmp_path: Path) -> None:
    cgroups_or_skip().close()
    models = [model(tmp_path, "m")]
    with running_daemon(socket_folder, models=models) as killed, killed.client() as client:
        client.embed(["hello"])
        below = killed.descendants()
        assert len(_folders_of(killed)) == 1
        killed.kill_supervisor()
        wait_until(lambda: all(is_gone(process) for process in below))
        assert len(_folders_of(killed)) == 1
    with running_daemon(socket_folder, models=models):
        assert not (_own_folder() / folder_name(PROC, killed.process.pid)).exists()


def test_kernel_takes_workers_before_templates_and_the_supervisor_last(socket_folder: Path, tmp_path: Path) -> None:
    with running_daemon(socket_folder, models=[model(tmp_path, "m")]) as running, running.client() as client:
        client.embed(["hello"])
        scores = [_oom_score(running.process.pid)]
        for name in ("ed-fork-server", "ed-template", "ed-worker"):
            (process,) = running.named(name)
            scores.append(_oom_score(process.pid))
        assert scores == sorted(set(scores)), "supervisor, fork server, template, worker"


def _oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
