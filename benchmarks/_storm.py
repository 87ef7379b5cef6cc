"""A storm from beginning to end: references, a budget, traffic and trouble, and what was promised of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._harness import ROOT
from benchmarks._storm_client import LATE_SECONDS, LEAST_COSINE, Known, Plan, Tally, tally_from
from benchmarks._storm_daemon import StormDaemon, storm_daemon
from benchmarks._storm_models import MIB, Needs, StormModel, budget_for, leased_for, likeness, texts
from benchmarks._storm_observer import Observation
from benchmarks._storm_trouble import Rates, Trouble, Troublemaker
from benchmarks._storm_watch import Spans, Watch
from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError

_TEXTS = 240
_QUIET_BUDGET_BYTES = 6 * 2**30
_CLIENTS_PER_PROGRAM = 5
_TURN_SECONDS, _TURN_LOADS = 5.0, 4.0
"""What docs/memory.md says of a turn: at least so long, and at least so many times what loading the model takes."""
_DRAIN_SECONDS = 3.0
_LOADED_MACHINE = 3.0
"""Loading takes so many times as long beside twenty clients as it took alone."""
_KILLED_SECONDS = 15.0
"""What kills may add to one model's wait beside starts of the fork server: a back-off passes, a load begins again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found out with a daemon at rest, one model after the other."""

    models: Sequence[StormModel]
    settings: Sequence[Mapping[str, Any]]
    known: Path
    needs: Mapping[str, Needs]
    fork_server_bytes: int
    fork_server_seconds: float
    likeness: float

    @property
    def budget_bytes(self) -> int:
        """For about two of the models."""
        return budget_for(list(self.needs.values()), self.fork_server_bytes)

    @property
    def bound_seconds(self) -> float:
        """What clients wait for an answer: the bound, should everything take as long as beside twenty clients."""
        loads = [each.load_seconds * _LOADED_MACHINE for each in self.needs.values()]
        return bound_of_wait(loads, [self.fork_server_seconds])

    def bound_that_was(self, events: Sequence[Mapping[str, Any]]) -> float:
        """The bound, from how long loads and starts really took in this storm."""
        loads = {name: each.load_seconds for name, each in self.needs.items()}
        for event in events:
            if event["event"] == "template_ready":
                loads[event["model"]] = max(loads[event["model"]], float(event["seconds"]))
        starts = [float(event["seconds"]) for event in events if event["event"] == "fork_server_ready"]
        return bound_of_wait(list(loads.values()), starts)


def bound_of_wait(loads: Sequence[float], fork_server_starts: Sequence[float]) -> float:
    """Longest wait of a model: every other has its turn and drains, each loads; and what kills add. All in seconds."""
    turns = sum(max(_TURN_SECONDS, _TURN_LOADS * load) + _DRAIN_SECONDS + load for load in loads)
    return turns + sum(fork_server_starts) + _KILLED_SECONDS


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything that came of a storm."""

    budget_bytes: int
    bound_seconds: float
    patience_seconds: float
    """The longest deadline that clients set."""
    seconds: float
    likeness: float
    tally: Tally = field(default_factory=Tally)
    trouble: Trouble = field(default_factory=Trouble)
    observation: Observation
    spans: Mapping[str, Spans] = field(default_factory=dict)
    lowest_headroom_bytes: int = 0
    slowest_status_seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    status: Mapping[str, Any] = field(default_factory=dict)
    left_over: Sequence[str] = ()
    """Leases at the end beside the fork server's."""
    exit_code: int | None = None
    hung: Sequence[str] = ()
    """Clients or operations that had to be ended by us, or models that could not be unloaded."""

    def broken(self) -> list[str]:
        """The promises that were not kept, in words; empty when all is well."""
        seen = self.observation
        found = [
            *(f"wrong: {text}" for text in (*self.tally.wrong, *self.trouble.wrong)),
            *(f"refused without numbers: {text}" for text in self.tally.without_numbers),
            *(f"late: {text}" for text in self.tally.late),
            *(f"starved: {text}" for text in self.tally.starved if self.patience_seconds >= self.bound_seconds),
            *(f"hung: {text}" for text in self.hung),
            *(f"lease left over: {holder}" for holder in self.left_over),
        ]
        if seen.peak_held_bytes > self.budget_bytes:
            over = f"{seen.peak_held_bytes / MIB:.0f} MiB held, the budget is {self.budget_bytes / MIB:.0f}"
            found.append(f"memory: {over}; {seen.samples_over} of {seen.samples} samples above it")
        for model, spans in self.spans.items():
            if (longest := max(spans.unserved, default=0.0)) > self.bound_seconds:
                found.append(f"wait: {model} was not served for {longest:.1f} s, the bound is {self.bound_seconds:.1f}")
        if not self.tally.endings["answered"]:
            found.append("no request was answered")
        if self.status.get("open") or self.status.get("queued"):
            found.append(f"requests are open at the end: {self.status['open']}, queued: {self.status['queued']}")
        if self.exit_code != 0:
            found.append(f"the daemon ended with {self.exit_code}")
        return found


def prepare(folder: Path, models: Sequence[StormModel]) -> Prepared:
    """Write the checkpoints, ask for every text once, and see what each model is leased and how long it loads."""
    settings = [model.settings(folder / "models") for model in models]
    asked = texts(_TEXTS)
    needs: dict[str, Needs] = {}
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    leases: list[dict[str, Any]] = []
    place = folder / "quiet"
    place.mkdir()
    with (
        storm_daemon(place, {"models": settings, "memory_budget": _QUIET_BUDGET_BYTES}) as daemon,
        Client(daemon.endpoint, timeout=120) as client,
    ):
        fork_server_seconds = _start_fork_server(client, models[0].name)
        for model in models:
            began = time.monotonic()
            client.load(model.name)
            took = time.monotonic() - began
            leases = client.status()["memory"]["leases"]
            needs[model.name] = leased_for(leases, took)
            vectors[model.name] = client.embed(asked, model=model.name, timeout=300)
            client.unload(model.name)
        fork_server_bytes = next(int(one["declared_bytes"]) for one in leases if one["holder"] == "fork-server")
    nearest = max(likeness(each) for each in vectors.values())
    assert nearest < LEAST_COSINE, f"texts too alike to tell a wrong answer: {nearest}"
    known = Known(asked, vectors)
    known.write(folder / "known.npz")
    return Prepared(
        models=models,
        settings=settings,
        known=folder / "known.npz",
        needs=needs,
        fork_server_bytes=fork_server_bytes,
        fork_server_seconds=fork_server_seconds,
        likeness=nearest,
    )


def _start_fork_server(client: Client, model: str) -> float:
    began = time.monotonic()
    client.load(model)
    took = time.monotonic() - began
    client.unload(model)
    return took


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad it gets."""

    seconds: float
    clients: int
    rates: Rates
    seed: int = 1


def weather(daemon: StormDaemon, prepared: Prepared, how: Weather, budget_bytes: int) -> Report:
    """Traffic and trouble for so long, then every model unloaded; the daemon lives on."""
    report = Report(
        budget_bytes=budget_bytes,
        bound_seconds=prepared.bound_seconds,
        patience_seconds=prepared.bound_seconds,
        seconds=how.seconds,
        likeness=prepared.likeness,
        observation=Observation(budget_bytes),
    )
    names = [model.name for model in prepared.models]
    trouble = Troublemaker(daemon.endpoint, daemon.pid, names, how.rates, how.seed)
    watch = Watch(daemon.endpoint)
    with observed(daemon.pid, budget_bytes, report), _clients(daemon, prepared, how) as programs:
        watch.start()
        trouble.start()
        until = time.monotonic() + how.seconds
        while time.monotonic() < until and daemon.is_alive():
            time.sleep(0.1)
        trouble.stop()
        report.tally, hung = _collected(programs, prepared.bound_seconds)
        watch.stop()
        report.status, left = calm_down(daemon, names)
    report.trouble, report.spans = trouble.trouble, watch.spans
    report.lowest_headroom_bytes = watch.lowest_headroom_bytes or 0
    report.slowest_status_seconds = watch.slowest_status_seconds
    report.left_over = [holder for holder in _holders(report.status) if holder not in ("fork-server", "cache")]
    report.hung = [*hung, *left]
    report.events = daemon.event_counts()
    report.bound_seconds = prepared.bound_that_was(daemon.events())
    return report


@contextlib.contextmanager
def observed(pid: int, budget_bytes: int, report: Report) -> Iterator[None]:
    """A process of its own samples the tree of ``pid`` meanwhile; its observation ends up in the report."""
    command = [sys.executable, "-m", "benchmarks._storm_observer", str(pid), str(budget_bytes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        yield
        said, _ = process.communicate("", timeout=60)
        report.observation = Observation(**json.loads(said))
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _clients(daemon: StormDaemon, prepared: Prepared, how: Weather) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs of several clients each, which stop asking by themselves; none is left at the end."""
    longest = prepared.bound_seconds + LATE_SECONDS
    programs: list[subprocess.Popen[str]] = []
    try:
        for number in range(0, how.clients, _CLIENTS_PER_PROGRAM):
            plan = Plan(
                endpoint=daemon.endpoint,
                seconds=how.seconds,
                seed=how.seed * 100 + number,
                clients=min(_CLIENTS_PER_PROGRAM, how.clients - number),
                weights={model.name: model.weight for model in prepared.models},
                timeouts=(longest,) * 6 + (15.0,) * 3 + (1.0,),
                known=str(prepared.known),
            )
            command = [sys.executable, "-m", "benchmarks._storm_client", plan.as_argument()]
            programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True))
        yield programs
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def _collected(programs: Sequence[subprocess.Popen[str]], longest_seconds: float) -> tuple[Tally, list[str]]:
    """What all clients counted once the last of them has its answer, and which of them never came back."""
    total, hung = Tally(), []
    last = time.monotonic() + longest_seconds + 30
    for number, program in enumerate(programs):
        try:
            said, _ = program.communicate(timeout=max(1.0, last - time.monotonic()))
            total.merge(tally_from(said))
        except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            hung.append(f"clients {number}: {type(error).__name__}, exit code {program.poll()}")
    return total, hung


def calm_down(daemon: StormDaemon, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Unload everything and wait until the leases are back; the last status, and what did not go."""
    hung = []
    status: dict[str, Any] = {}
    try:
        with Client(daemon.endpoint, timeout=60) as client:
            for name in names:
                with contextlib.suppress(EmbedDaemonError):  # what does not go is seen by its lease
                    client.unload(name, timeout=60)
            last = time.monotonic() + 30
            while time.monotonic() < last:
                status = client.status()
                if set(_holders(status)) <= {"fork-server", "cache"} and not status["open"]:
                    break
                time.sleep(0.2)
    except EmbedDaemonError as error:
        hung.append(f"the daemon does not answer after the storm: {error}")
    return status, hung


def _holders(status: Mapping[str, Any]) -> list[str]:
    return [str(lease["holder"]) for lease in status.get("memory", {}).get("leases", ())]
