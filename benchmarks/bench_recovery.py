"""After ``kill -9`` of a worker, its template or the fork server: how soon is the next answer there?

Measured in the client, from just before the signal to the answer of a request that is sent right after it, so the time
in which the supervisor notices is in. It lies where a worker answers after all, in the milliseconds between its
template's death and its own: the smallest figure of a template may be such a one, the median is not. The successor's
vector is compared with the one before, so an answer that comes soon and wrong does not count.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

from benchmarks._harness import TEXT, Demand, Form, Measurement, daemon, main
from embeddaemon import Client

DEMANDS = (
    Demand(
        row="kill -9 a worker: next answer from its successor, ms",
        figure="recovery/worker/ours",
        must=300,
        goal=100,
        sense="at most",
    ),
)


def measure(form: Form) -> Iterator[Measurement]:
    """Kill, ask, measure."""
    rounds = {
        "worker": form.choose(quick=8, full=30),
        "template": form.choose(quick=3, full=10),
        "fork-server": form.choose(quick=1, full=5),
    }
    with daemon() as running:
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=120) as client:
            for kind, count in rounds.items():
                values = tuple(_recovery_ms(client, kind) for _ in range(count))
                yield Measurement(name=f"recovery/{kind}/ours", unit="ms", values=values)


def _recovery_ms(client: Client, kind: str) -> float:
    expected = client.embed(TEXT)
    pid = _victim(client, kind)
    start = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    vector = client.embed(TEXT)
    took = (time.perf_counter() - start) * 1000
    if float(vector @ expected) < 0.9999:
        raise RuntimeError(f"the successor of the {kind} computes something else")
    return took


def _victim(client: Client, kind: str) -> int:
    """The pid of a process of that kind, by the name of its lease."""
    leases = client.status()["memory"]["leases"]
    return int(next(lease["pid"] for lease in leases if lease["holder"].startswith(kind)))


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
