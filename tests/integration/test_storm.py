"""Seeded storms: clients that check every vector and count every ending, while processes are killed, stopped and
crashed at every stage of their lives and models come and go in a budget that is too small for all of them.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from embeddaemon.protocol import bodies, codec
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import (
    Answer,
    Document,
    Embed,
    ErrorAnswer,
    Hello,
    Lane,
    Load,
    Models,
    Request,
    Status,
    Unload,
    Vectors,
)
from tests.support.daemon import RunningDaemon, running_daemon, stub_folder
from tests.support.raw_client import RawClient
from tests.support.stub_engine import plain_vector
from tests.support.waiting import seconds, wait_until

MIB = 1024 * 1024
LATE_SECONDS = 1.0
"""After its deadline every request has ended."""
DEADLINE_MS = 8_000
POISON_SHARE = 0.001
WINDOW = 24
CLIENTS = 4
MODELS = {"tiny": 8, "wide": 16, "slow": 12, "scaled": 24}
"""Name to dimensions: a vector of another model is not taken for the right one."""

ALLOWED = frozenset({"worker_crashed", "backing_off", "expired", "busy", "load_failed", "poisoned"})
"""What a request may end with that is not at fault itself, while processes are being killed: one that is stopped is
like one that a text keeps busy for ever."""
VICTIMS = ("ed-worker", "ed-worker", "ed-worker", "ed-template", "ed-template", "ed-fork-server")
POISON = ("crash", "segv", "exit 9", "die")
"""Texts that kill whoever computes them."""
BLOWS = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGSTOP)


@dataclass
class Pending:
    """A request on its way; times are monotonic."""

    request: Request
    texts: list[str]
    sent_at: float
    ends_by: float


@dataclass
class Tally:
    """How the requests of one client ended."""

    sent: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest_hello: float = 0.0


class StormClient(threading.Thread):
    """Keeps a window of random requests open until told to finish, then waits for all of them."""

    def __init__(self, endpoint: str, seed: int, finish: threading.Event) -> None:
        super().__init__(name=f"storm client {seed}")
        self._client = RawClient(endpoint)
        self._choose = random.Random(seed)
        self._finish = finish
        self._open: dict[int, Pending] = {}
        self.tally = Tally()
        self.daemon = True

    def run(self) -> None:
        with self._client:
            while not self._finish.is_set() or self._open:
                while len(self._open) < WINDOW and not self._finish.is_set():
                    self._send()
                self._receive()
                self._complain_of_late_ones()

    def _send(self) -> None:
        id_ = self._client.next_id()
        texts: list[str] = []
        body = codec.EMPTY_BODY
        request: Request
        match self._choose.random():
            case chance if chance < 0.02:
                request = self._choose.choice((Hello, Models, Status))(id=id_)
            case chance if chance < 0.03:
                operation = self._choose.choice((Load, Unload))
                request = operation(id=id_, model=self._model(), deadline_ms=DEADLINE_MS)
            case chance:
                texts = [self._text() for _ in range(self._choose.choice((1, 1, 1, 2, 8, 60)))]
                if chance > 1 - POISON_SHARE:
                    texts[-1] = self._choose.choice(POISON)
                request = Embed(
                    id=id_,
                    model=self._model(),
                    lane=self._choose.choice(tuple(Lane)),
                    deadline_ms=self._choose.choice((DEADLINE_MS,) * 30 + (1, 50, 600)),
                )
                body = bodies.encode_texts(texts, Limits())
        now = time.monotonic()
        limit = DEADLINE_MS if request.deadline_ms is None else request.deadline_ms
        self._open[id_] = Pending(request, texts, now, now + limit / 1000 + seconds(LATE_SECONDS))
        self.tally.sent += 1
        self._client.send(request, body)

    def _model(self) -> str:
        return self._choose.choices(list(MODELS), weights=(6, 3, 1, 6))[0]

    def _text(self) -> str:
        return " ".join(f"word{self._choose.randrange(1000)}" for _ in range(self._choose.randrange(1, 20)))

    def _receive(self) -> None:
        if not self._client.has_answer(0.05):
            return
        answer, frames = self._client.receive()
        pending = self._open.pop(answer.id, None)
        if pending is None:
            self.tally.wrong.append(f"an answer to a request that has ended: {answer}")
            return
        self._check(pending, answer, frames)

    def _check(self, pending: Pending, answer: Answer, frames: list[bytes]) -> None:
        ending = answer.code if isinstance(answer, ErrorAnswer) else "answered"
        self.tally.endings[ending] += 1
        match answer, pending.request:
            case Vectors(), Embed(model=str(model)) if pending.texts[-1] not in POISON:
                self.tally.texts += len(pending.texts)
                self._compare(pending.texts, model, answer, frames)
            case ErrorAnswer(), Embed() | Load() | Unload() if answer.code in ALLOWED:
                pass
            case Document(), Hello():
                self.tally.slowest_hello = max(self.tally.slowest_hello, time.monotonic() - pending.sent_at)
            case Document(), Models() | Status() | Load() | Unload():
                pass
            case _:
                self.tally.wrong.append(f"{pending.request} ended with {answer}")

    def _compare(self, texts: list[str], model: str, answer: Vectors, frames: list[bytes]) -> None:
        got = np.frombuffer(frames[0], dtype="<f4").reshape(answer.count, answer.dim)
        wanted = expected(texts, MODELS[model])
        if got.shape != wanted.shape or np.abs(got - wanted).max() > 1e-6:
            self.tally.wrong.append(f"wrong vectors of {model} for {len(texts)} texts")

    def _complain_of_late_ones(self) -> None:
        now = time.monotonic()
        for id_ in [id_ for id_, pending in self._open.items() if now > pending.ends_by]:
            self.tally.wrong.append(f"not ended in time: {self._open.pop(id_).request}")


def expected(texts: list[str], dim: int) -> npt.NDArray[np.float32]:
    """Unit vectors of the stub engine."""
    rows = np.stack([plain_vector(text, dim) for text in texts])
    unit: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


class Vanisher(threading.Thread):
    """One client after the other that asks for much and leaves without reading an answer."""

    def __init__(self, endpoint: str, finish: threading.Event) -> None:
        super().__init__(name="vanisher", daemon=True)
        self._endpoint = endpoint
        self._finish = finish

    def run(self) -> None:
        while not self._finish.wait(0.5):
            with RawClient(self._endpoint) as client:
                for number in range(20):
                    client.ask([f"left behind {number}"] * 50, model="tiny", deadline_ms=DEADLINE_MS)
                client.send_frames(b"garbage", b"")
                client.has_answer(0.01)


class Blows:
    """Picks victims below the daemon and strikes; whoever was stopped goes on a moment later, if it still can."""

    def __init__(self, daemon: RunningDaemon, seed: int) -> None:
        self._daemon = daemon
        self._choose = random.Random(seed)
        self._stopped: list[tuple[float, psutil.Process]] = []
        self.dealt: Counter[str] = Counter()

    def strike(self) -> None:
        if self._choose.random() < 0.01:
            self._stop(psutil.Process(self._daemon.process.pid), self._choose.uniform(0.05, 0.3))
            self.dealt["supervisor SIGSTOP"] += 1
            return
        name, blow = self._choose.choice(VICTIMS), self._choose.choice(BLOWS)
        with contextlib.suppress(psutil.NoSuchProcess):
            alive = self._daemon.named(name)
            if not alive:
                return
            victim = self._choose.choice(alive)
            if blow is not signal.SIGSTOP:
                victim.send_signal(blow)
            self.dealt[f"{name} {blow.name}"] += 1
            if blow is signal.SIGSTOP:
                self._stop(victim, self._choose.uniform(0.05, 1.5))

    def _stop(self, victim: psutil.Process, duration: float) -> None:
        victim.suspend()
        self._stopped.append((time.monotonic() + duration, victim))

    def release(self, now: float) -> None:
        for due, victim in [each for each in self._stopped if now >= each[0]]:
            self._stopped.remove((due, victim))
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGCONT)

    def pause(self) -> float:
        return self._choose.choice((0.01, 0.05, 0.1, 0.3, 0.6))


@pytest.fixture
def stormy(socket_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningDaemon]:
    start_method, budget_mib = request.param
    estimate = (200 if start_method == "fork" else 450) * MIB

    def model(name: str, **options: Any) -> dict[str, Any]:
        load = "slow 0.3" if name == "slow" else "ok"
        folder = stub_folder(tmp_path / name, dim=MODELS[name], load=load)
        return {"name": name, "source": f"path:{folder}", "estimate": estimate, "threads": 1, **options}

    models = [
        model("tiny"),
        model("wide", keep_alive_seconds=0.2),
        model("slow"),
        model("scaled", workers={"min": 1, "max": 3}),
    ]
    settings: dict[str, Any] = {"memory_budget": budget_mib * MIB, "min_residence_seconds": 0.2}
    settings |= {"max_queued_requests": 48, "start_method": start_method, "heartbeat_seconds": 0.1}
    settings |= {"restart_limit": 1_000_000}  # a model in quarantine would have an easy time
    with running_daemon(socket_folder, models=models, **settings) as running:
        yield running


def weather_the_storm(daemon: RunningDaemon, duration: float, seed: int) -> None:
    supervisor = psutil.Process(daemon.process.pid)
    finish = threading.Event()
    clients = [StormClient(daemon.endpoint, seed * 100 + number, finish) for number in range(CLIENTS)]
    blows = Blows(daemon, seed)
    vanisher = Vanisher(daemon.endpoint, finish)
    for thread in (*clients, vanisher):
        thread.start()
    until = time.monotonic() + duration
    early_rss, early_at = 0, time.monotonic() + duration / 4
    while (now := time.monotonic()) < until:
        blows.strike()
        time.sleep(blows.pause())
        blows.release(time.monotonic())
        if not early_rss and now > early_at:
            early_rss = supervisor.memory_info().rss
    blows.release(float("inf"))
    finish.set()
    for client in clients:
        client.join(seconds(DEADLINE_MS / 1000 + 10))
        assert not client.is_alive(), daemon.output()[-5000:]
    vanisher.join(seconds(10))
    assert not vanisher.is_alive()
    tallies = [client.tally for client in clients]
    late_rss = supervisor.memory_info().rss
    endings: Counter[str] = sum((tally.endings for tally in tallies), Counter())
    sys.stdout.write(
        f"seed {seed}: {sum(endings.values())} ended {dict(endings)}, {sum(tally.texts for tally in tallies)} texts; "
        f"blows {dict(blows.dealt)}; slowest hello {max(tally.slowest_hello for tally in tallies):.3f} s; "
        f"supervisor {early_rss >> 20} -> {late_rss >> 20} MiB\n"
    )
    assert [tally.wrong for tally in tallies] == [[]] * CLIENTS, daemon.output()[-5000:]
    assert [tally.endings.total() for tally in tallies] == [tally.sent for tally in tallies]
    assert endings["answered"] > endings.total() / 4
    assert late_rss - early_rss < 16 * MIB
    assert_recovered(daemon)


def assert_recovered(daemon: RunningDaemon) -> None:
    """The same supervisor serves every model again, and when they have gone their leases are back."""
    with daemon.client(timeout_seconds=40) as client:
        assert client.hello()["pid"] == daemon.process.pid
        for name, dim in MODELS.items():
            load = client.load(name, deadline_ms=30_000)
            assert isinstance(load, Document), (load, daemon.output()[-5000:])
            got = client.embed(["after the storm"], model=name, deadline_ms=30_000)
            assert np.abs(got - expected(["after the storm"], dim)).max() < 1e-6
        status = client.status()
        assert status["open"] == status["queued"] == 0
        for name in MODELS:
            unloaded = client.unload(name)
            assert isinstance(unloaded, Document), (unloaded, daemon.output()[-5000:])
        wait_until(
            lambda: {each["holder"] for each in client.status()["memory"]["leases"]} <= {"fork-server"},
            15,
            describe=lambda: client.status()["memory"],
        )
        wait_until(
            lambda: not daemon.named("ed-worker") and not daemon.named("ed-template"), 5, describe=daemon.descendants
        )


@pytest.mark.parametrize("stormy", [("fork", 1100), ("spawn", 2200)], indirect=True, ids=["fork", "spawn"])
@pytest.mark.parametrize(("duration", "seed"), [(5, 1), pytest.param(300, 2, marks=pytest.mark.soak)])
def test_storm_of_deaths_loses_no_request(stormy: RunningDaemon, duration: float, seed: int) -> None:
    weather_the_storm(stormy, duration, seed)
