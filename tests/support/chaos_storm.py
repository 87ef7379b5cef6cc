"""A storm from beginning to end: a daemon, programs of clients, faults, and what must hold of all of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError
from tests.support.chaos_daemon import ChaosDaemon, chaos_daemon
from tests.support.chaos_faults import Faults
from tests.support.chaos_tally import Plan, Tally, Vectors, tally_from
from tests.support.waiting import seconds, wait_until

_CLIENT = Path(__file__).with_name("chaos_client.py")
_MIB = 1 << 20
MOST_GROWTH_BYTES = 20 * _MIB
_RECOVERY_SECONDS = 60

ALLOWED = ("worker_crashed", "backing_off", "expired", "busy", "load_failed", "draining", "unreachable", "poisoned")
"""What an innocent request may end with while processes are being killed: one that is stopped is like one that a
text keeps busy for ever."""

REFUSED = ("backing_off", "busy", "draining", "load_failed", "unreachable")
"""Those of them that end at once: a client that asks again and again adds many while nothing can be served."""

LEAST_ANSWERED = 0.6
"""Of the requests that were taken. Some are withdrawn, some have 0.3 s, and some meet a worker that stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What is to happen. ``menu`` is chaos_faults.py's."""

    settings: Mapping[str, Any]
    weights: Mapping[str, int]
    """Which models are asked, and how often."""
    texts: Sequence[str]
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    """Of the texts, by model; of models that are not here: what the daemon itself says at rest."""
    exact: Mapping[str, str] = field(default_factory=dict)
    """Models whose reference is another model's vectors, at rest."""
    least_cosine: float
    menu: Mapping[str, float]
    duration_seconds: float
    mean_pause_seconds: float
    seed: int
    programs: int = 2
    think_seconds: float = 0.0
    most_texts: int = 60


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of it."""

    seed: int
    tally: Tally = field(default_factory=Tally)
    provoked: Tally = field(default_factory=Tally)
    faults: Counter[str] = field(default_factory=Counter)
    growth_bytes: int | None = None
    """Of the supervisor's private memory from the first quarter on; None when it was not one supervisor."""
    slowest_end_seconds: float = 0.0
    slowest_start_seconds: float = 0.0
    recovery_seconds: float = 0.0
    exit_code: int | None = None
    left_behind: Sequence[str] = ()

    def broken(self) -> list[str]:
        """What does not hold of what must; empty when all is well."""
        found = [*self.tally.wrong, *self.provoked.wrong, *(f"left behind: {each}" for each in self.left_behind)]
        for name, tally in (("clients", self.tally), ("provoker", self.provoked)):
            if tally.begun != tally.endings.total():
                found.append(f"{name}: {tally.begun} requests were begun, {tally.endings.total()} ended")
        taken = self.tally.endings.total() - sum(self.tally.endings[code] for code in REFUSED)
        if self.tally.endings["answered"] < taken * LEAST_ANSWERED:
            found.append(f"too few of the requests that were not refused were answered: {dict(self.tally.endings)}")
        if self.tally.lost_connections and not self.faults["supervisor killed"]:
            found.append(f"{self.tally.lost_connections} connections were lost, and no supervisor was killed")
        if self.slowest_end_seconds > seconds(1):
            found.append(f"{self.slowest_end_seconds:.2f} s until nothing was left of a killed supervisor")
        if self.growth_bytes is not None and self.growth_bytes > MOST_GROWTH_BYTES:
            found.append(f"the supervisor grew by {self.growth_bytes / _MIB:.0f} MiB")
        if self.exit_code != 0:
            found.append(f"exit code {self.exit_code}")
        return found

    def __str__(self) -> str:
        tally, grown = self.tally, "not one supervisor"
        if self.growth_bytes is not None:
            grown = f"{self.growth_bytes / _MIB:+.1f} MiB"
        return (
            f"seed {self.seed}: {self.faults.total()} faults, {tally.endings.total()} requests of clients and "
            f"{self.provoked.endings.total()} provoked ones\n"
            f"  faults: {_counts(self.faults)}\n"
            f"  clients: {_counts(tally.endings)}; {tally.texts} vectors compared, least cosine "
            f"{tally.least_cosine:.6f}; {tally.lost_connections} connections lost\n"
            f"  provoked: {_counts(self.provoked.endings)}\n"
            f"  latest end after its deadline: {tally.longest_overdue_seconds:+.3f} s of clients, "
            f"{self.provoked.longest_overdue_seconds:+.3f} s provoked; slowest hello, models or status "
            f"{tally.slowest_document_seconds:.3f} s\n"
            f"  supervisor's memory: {grown}; all gone {self.slowest_end_seconds:.3f} s after its kill at the latest, "
            f"the next one answers {self.slowest_start_seconds:.3f} s later; "
            f"every model serves {self.recovery_seconds:.1f} s after the storm\n"
        )


def weather(storm: Storm, folder: Path) -> Report:
    """All of it. Raises AssertionError, with the daemon's output, when something must not be."""
    report = Report(seed=storm.seed)
    with chaos_daemon(folder, storm.settings) as daemon:
        try:
            known = _known(storm, daemon, folder)
            with _clients(storm, daemon, folder / "known.npz", report):
                _strike_on(storm, daemon, report)
            _recover(storm, daemon, known, report)
            report.exit_code = daemon.stop()
            (folder / "known.npz").unlink()
            report.left_behind = daemon.left_behind()
        finally:
            sys.stdout.write(str(report))
        broken = report.broken()
        if broken:
            told = "\n  ".join(broken)
            raise AssertionError(f"seed {storm.seed}:\n  {told}\n{daemon.running.output()[-20_000:]}")
    return report


def _known(storm: Storm, daemon: ChaosDaemon, folder: Path) -> dict[str, Vectors]:
    """The reference of each model that is asked; written to a file for the clients."""
    known = dict(storm.vectors)
    with Client(daemon.endpoint, timeout=seconds(60)) as client:
        for name, exact in storm.exact.items():
            known[name] = client.embed(list(storm.texts), model=exact)
            client.unload(exact)
    np.savez(folder / "known.npz", texts=np.array(storm.texts), **known)  # type: ignore[arg-type]  # names are free
    return known


@contextlib.contextmanager
def _clients(storm: Storm, daemon: ChaosDaemon, known: Path, report: Report) -> Iterator[None]:
    """They stop asking by themselves; afterwards what they counted is in the report."""
    programs = []
    try:
        for number in range(storm.programs):
            plan = Plan(
                endpoint=daemon.endpoint,
                seconds=storm.duration_seconds,
                seed=storm.seed * 100 + number,
                models=storm.weights,
                known=str(known),
                least_cosine=storm.least_cosine,
                allowed=ALLOWED,
                think_seconds=storm.think_seconds,
                most_texts=storm.most_texts,
            )
            command = [sys.executable, str(_CLIENT), plan.as_argument()]
            programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        yield
        for number, program in enumerate(programs):
            try:
                said, _ = program.communicate(timeout=seconds(storm.duration_seconds + 60))
                report.tally.merge(tally_from(said))
            except (subprocess.TimeoutExpired, ValueError) as error:
                report.tally.complain(f"clients {number} did not come back: {type(error).__name__}")
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def _strike_on(storm: Storm, daemon: ChaosDaemon, report: Report) -> None:
    """Fault after fault until the time is over."""
    faults = Faults(daemon, list(storm.weights), storm.menu, storm.seed)
    begun, wait = time.monotonic(), threading.Event()
    early: tuple[int, int] | None = None
    try:
        while (now := time.monotonic()) < begun + storm.duration_seconds:
            faults.strike()
            wait.wait(faults.pause(storm.mean_pause_seconds))
            if early is None and now > begun + storm.duration_seconds / 4:
                early = daemon.pid, _private_bytes(daemon.pid)
    finally:
        faults.close()
        report.faults, report.provoked = faults.done, faults.provoker.tally
        report.slowest_end_seconds = daemon.slowest_end_seconds
        report.slowest_start_seconds = daemon.slowest_start_seconds
    if early is not None and early[0] == daemon.pid:
        report.growth_bytes = _private_bytes(daemon.pid) - early[1]


def _private_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().uss)


def _recover(storm: Storm, daemon: ChaosDaemon, known: Mapping[str, Vectors], report: Report) -> None:
    """Every model serves again, right, and gives everything back when it is told to go."""
    begun = time.monotonic()
    with Client(daemon.endpoint, timeout=seconds(10)) as client:
        for name in storm.weights:
            _wait_until_right(client, storm, name, known[name][:3], daemon)
        report.recovery_seconds = time.monotonic() - begun
        for name in storm.weights:
            wait_until(partial(_is_unloaded, client, name), 30, describe=client.status)
        wait_until(
            lambda: {each["holder"] for each in client.status()["memory"]["leases"]} <= {"fork-server"},
            15,
            describe=lambda: client.status()["memory"],
        )
        status = client.status()
        assert status["open"] == status["queued"] == 0, status
    wait_until(lambda: not daemon.below("ed-worker") and not daemon.below("ed-template"), 5, describe=daemon.below)


def _wait_until_right(client: Client, storm: Storm, name: str, wanted: Vectors, daemon: ChaosDaemon) -> None:
    def is_right() -> bool:
        try:
            got = client.embed(list(storm.texts[:3]), model=name)
        except EmbedDaemonError:
            return False
        assert (got * wanted).sum(axis=1).min() >= storm.least_cosine
        return True

    wait_until(is_right, _RECOVERY_SECONDS, describe=lambda: daemon.running.output()[-10_000:])


def _is_unloaded(client: Client, name: str) -> bool:
    try:
        client.unload(name)
    except EmbedDaemonError:
        return False
    return True


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
