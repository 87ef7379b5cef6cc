"""After ``kill -9`` of a worker, its template, the fork server or the supervisor: how soon is the next answer there?

Measured in the client, from just before the signal to the answer of a request that is sent as soon as the process, and
those that die with it, are gone: a moment in which a worker may still answer would make it lie. The time in which the
supervisor notices is in. The successor's vector is compared with the one before, so an answer that comes soon and wrong
does not count. ``under-load`` is the same while four other clients ask for eight texts at a time without a pause; what
the request then waits for them is in ``nobody``, where nothing is killed. A call of theirs that is not answered ends
the benchmark.

Of the supervisor: how long until no process of its is left, and how long a call that is under way then takes when the
next supervisor is started as soon as the first one is gone. The model is loaded anew in that time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._harness import ROOT, TEXT, Daemon, Demand, Form, Measurement, daemon, main
from benchmarks._pages import tree_of
from embeddaemon import Client

Vector = npt.NDArray[np.float32]

_WORKER = "kill -9 a worker: next answer from its successor, ms"
_SUPERVISOR = "kill -9 the supervisor: nothing of it is left, ms"

DEMANDS = (
    Demand(row=_WORKER, figure="recovery/worker/ours", must=300, goal=100, sense="at most"),
    Demand(row=_WORKER, figure="recovery/worker/under-load", must=300, goal=100, sense="at most"),
    Demand(row=_SUPERVISOR, figure="recovery/supervisor/all-gone", must=1000, goal=1000, sense="at most"),
)

_TIMEOUT_SECONDS = 60.0
_CONFIG = "[daemon]\nrestart_limit = 1000000\n"
"""So many deaths by our own hand are no reason for a quarantine."""


def measure(form: Form) -> Iterator[Measurement]:
    """Kill, ask, measure."""
    rounds = {
        "nobody": form.choose(quick=8, full=30),
        "worker": form.choose(quick=8, full=30),
        "template": form.choose(quick=3, full=12),
        "fork-server": form.choose(quick=1, full=10),
    }
    with daemon(config=_CONFIG) as running:
        running.wait_until_it_answers()
        yield from _below(running.endpoint, rounds, "ours")
        with _load(running.endpoint):
            yield from _below(running.endpoint, rounds, "under-load")
    yield from _supervisor(form.choose(quick=2, full=10))


def _below(endpoint: str, rounds: dict[str, int], who: str) -> Iterator[Measurement]:
    with Client(endpoint, timeout=_TIMEOUT_SECONDS) as client:
        for kind, count in rounds.items():
            values = tuple(_recovery_ms(client, kind) for _ in range(count))
            yield Measurement(name=f"recovery/{kind}/{who}", unit="ms", values=values)


def _recovery_ms(client: Client, kind: str) -> float:
    expected = client.embed(TEXT)
    doomed = [] if kind == "nobody" else tree_of(_victim(client, kind))
    start = time.perf_counter()
    if doomed:
        os.kill(doomed[0], signal.SIGKILL)
        _wait_until(lambda: not any(map(_is_alive, doomed)))
    vector = client.embed(TEXT)
    took = (time.perf_counter() - start) * 1000
    if float(vector @ expected) < 0.9999:
        raise RuntimeError(f"the successor of the {kind} computes something else")
    return took


def _victim(client: Client, kind: str) -> int:
    """The pid of a process of that kind that lives, by the name of its lease; the last one's may still be there."""
    last = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < last:
        for lease in client.status()["memory"]["leases"]:
            if lease["holder"].startswith(kind) and lease["pid"] and _is_alive(lease["pid"]):
                return int(lease["pid"])
        client.embed(TEXT)  # brings it, if it is not there
    raise RuntimeError(f"no {kind} within {_TIMEOUT_SECONDS:g} s")


@contextlib.contextmanager
def _load(endpoint: str) -> Iterator[None]:
    """Other clients, in a process of their own. Raises RuntimeError if one of their calls was not answered."""
    command = [sys.executable, "-m", "benchmarks._recovery_load", endpoint]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert clients.stdout is not None
    try:
        clients.stdout.readline()
        yield
        endings = json.loads(clients.communicate("", timeout=2 * _TIMEOUT_SECONDS)[0])
        if set(endings) != {"answered"}:
            raise RuntimeError(f"calls of the clients beside it ended so: {endings}")
    finally:
        clients.kill()
        clients.wait()


def _supervisor(rounds: int) -> Iterator[Measurement]:
    gone, answered = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="ed-bench-", dir="/tmp") as folder:
            first, second = _kill_supervisor(Path(folder))
        gone.append(first)
        answered.append(second)
    yield Measurement(name="recovery/supervisor/all-gone", unit="ms", values=tuple(gone))
    note = "of a call under way; the next supervisor starts as soon as nothing is left, and loads the model"
    yield Measurement(name="recovery/supervisor/answer", unit="ms", values=tuple(answered), note=note)


def _kill_supervisor(folder: Path) -> tuple[float, float]:
    """Milliseconds from the signal until nothing was left, and until a call that was under way was answered."""
    running = Daemon(folder, "", ())
    running.wait_until_it_answers()
    with Client(running.endpoint, timeout=_TIMEOUT_SECONDS) as client:
        expected = client.embed(TEXT)
        texts = [TEXT] * 2000
        call = _Call(lambda: client.embed(texts)[-1])
        call.start()
        _wait_until(lambda: client.status()["open"] > 0)
        below = tree_of(running.process.pid)
        start = time.perf_counter()
        running.process.kill()
        running.process.wait()
        _wait_until(lambda: not any(map(_is_alive, below)))
        gone = (time.perf_counter() - start) * 1000
        successor = Daemon(folder, "", ())
        try:
            call.join(_TIMEOUT_SECONDS + 10)
        finally:
            successor.stop()
        if call.vector is None or float(call.vector @ expected) < 0.9999:
            raise RuntimeError(f"a call that was under way was not answered: {call.error}")
        return gone, (call.ended_at - start) * 1000


class _Call(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, ask: Callable[[], Vector]) -> None:
        super().__init__(name="call", daemon=True)
        self._ask = ask
        self.vector: Vector | None = None
        self.error: Exception | None = None
        self.ended_at = 0.0

    def run(self) -> None:
        try:
            self.vector = self._ask()
        except Exception as error:  # noqa: BLE001 - whoever waits for us tells it
            self.error = error
        self.ended_at = time.perf_counter()


def _wait_until(holds: Callable[[], bool]) -> None:
    last = time.monotonic() + 30
    while not holds():
        if time.monotonic() > last:
            raise RuntimeError("not within 30 s")
        time.sleep(0.001)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
