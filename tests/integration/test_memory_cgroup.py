"""A storm inside a real memory cgroup, a tenth above the budget: the kernel kills nobody. Then a worker that takes
memory without bound: it dies, is named, and nobody else notices.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._storm import Prepared, Weather, prepare, weather
from benchmarks._storm_client import read_known
from benchmarks._storm_daemon import StormDaemon, storm_daemon
from benchmarks._storm_models import MIB, THREE
from benchmarks._storm_trouble import WITHOUT_BOUND, Rates
from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError
from tests.support.memory_cgroup import MemoryCgroup, memory_cgroup
from tests.support.sockets import short_folder
from tests.support.waiting import seconds, wait_until

pytestmark = pytest.mark.slow

SECONDS = 20
RATES = Rates(kill=3, kill_fork_server=None, reload=4, bloat=3, eat_without_bound=None)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def cgroup() -> Iterator[MemoryCgroup]:
    """Its limit is set when the budget is known."""
    with memory_cgroup(limit_bytes=4096 * MIB) as group:
        yield group


_EATS = "kept = [bytearray(b'x') * (4 << 20) for _ in range(64)]"


def test_group_notices_who_dies_at_its_own_limit_and_not_at_one_below() -> None:
    command = [sys.executable, "-c", _EATS]
    with memory_cgroup(limit_bytes=512 * MIB) as group:
        below = group.folder / "below"
        below.mkdir()
        (below / "memory.limit_in_bytes").write_text(str(64 * MIB))
        assert subprocess.run([*MemoryCgroup(below, -1).launcher, *command], check=False).returncode == -signal.SIGKILL
        assert not group.has_run_out()
        (group.folder / "memory.limit_in_bytes").write_text(str(64 * MIB))
        assert subprocess.run([*group.launcher, *command], check=False).returncode == -signal.SIGKILL
        assert group.has_run_out()


@pytest.fixture(scope="module")
def prepared(cgroup: MemoryCgroup, folder: Path) -> Prepared:
    return prepare(folder, THREE)


@pytest.fixture
def daemon(cgroup: MemoryCgroup, prepared: Prepared, folder: Path, tmp_path: Path) -> Iterator[StormDaemon]:
    """Inside the cgroup with everything below it."""
    (cgroup.folder / "memory.limit_in_bytes").write_text(str(prepared.budget_bytes * 11 // 10))
    settings = {"models": prepared.settings, "memory_budget": prepared.budget_bytes, "state_folder": str(tmp_path)}
    place = folder / tmp_path.name[:20]
    place.mkdir()
    with storm_daemon(place, settings, cgroup.launcher) as daemon:
        assert daemon.pid in cgroup.pids()
        yield daemon
    assert cgroup.below() == [], "the daemon left groups behind"


def test_kernel_kills_nobody_in_a_storm_a_tenth_below_its_limit(
    daemon: StormDaemon, cgroup: MemoryCgroup, prepared: Prepared
) -> None:
    how = Weather(seconds=SECONDS, clients=8, rates=RATES)
    report = weather(daemon, prepared, how, prepared.budget_bytes)
    report = dataclasses.replace(report, exit_code=daemon.stop())
    sys.stdout.write(
        f"{report.tally.endings}, {report.trouble.done}; at its limit {cgroup.times_at_limit} times, held at most "
        f"{report.observation.peak_held_bytes >> 20} of {report.budget_bytes >> 20} MiB\n"
    )
    assert not cgroup.has_run_out(), daemon.log.read_text()[-5000:]
    assert not [death for death in deaths(daemon) if death["death"] == "machine_out_of_memory"]
    assert report.broken() == [], daemon.log.read_text()[-5000:]


def test_worker_that_takes_memory_without_bound_dies_alone_and_is_named(
    daemon: StormDaemon, cgroup: MemoryCgroup, prepared: Prepared
) -> None:
    known = read_known(prepared.known)
    with Client(daemon.endpoint, timeout=seconds(30)) as client:
        for model in ("mini", "small"):
            client.load(model)
        before = pids_by_holder(client)
        with pytest.raises(EmbedDaemonError) as caught:
            client.embed(WITHOUT_BOUND, model="small")
        assert caught.value.code in {"poisoned", "worker_crashed", "no_headroom"}, caught.value
        wait_until(lambda: deaths(daemon), 10, describe=lambda: daemon.log.read_text()[-5000:])
        assert not cgroup.has_run_out(), "it died at its own limit, before the limit of all"
        named = deaths(daemon)
        assert all(death["worker"].startswith("small") for death in named), named
        assert {death["death"] for death in named} == {"out_of_memory"}, named
        after = pids_by_holder(client)
        others = {holder: pid for holder, pid in before.items() if not holder.startswith("worker:small")}
        assert {holder: after.get(holder) for holder in others} == others
        assert of_model(client, "small")["deaths"].keys() == {"out_of_memory"}
        assert not of_model(client, "mini")["deaths"]
        for model in ("mini", "small"):
            client.load(model)  # asked for by hand, no back-off counts
            vectors = client.embed(known.texts[:20], model=model)
            assert np.abs(vectors - known.vectors[model][:20]).max() < 2e-2


def pids_by_holder(client: Client) -> dict[str, int]:
    return {str(lease["holder"]): int(lease["pid"]) for lease in client.status()["memory"]["leases"] if lease["pid"]}


def of_model(client: Client, name: str) -> dict[str, Any]:
    return next(dict(model) for model in client.status()["models"] if model["name"] == name)


def deaths(daemon: StormDaemon) -> list[dict[str, Any]]:
    return [event for event in daemon.events() if event["event"] == "worker_died"]
