"""After ``kill -9`` of a worker, its template or the fork server: how soon is the next answer there?

Measured in the client, from just before the signal to the answer of a request that is sent right after it, so the time
in which the supervisor notices is in. It lies where a worker answers after all, in the milliseconds between its
template's death and its own: the smallest figure of a template may be such a one, the median is not.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from benchmarks._harness import TEXT, daemon, machine, report
from embeddaemon import Client

ROUNDS = {"worker": 20, "template": 6, "fork-server": 3}


def victim(client: Client, kind: str) -> int:
    """The pid of a process of that kind, by the name of its lease."""
    leases = client.status()["memory"]["leases"]
    return int(next(lease["pid"] for lease in leases if lease["holder"].startswith(kind)))


def main() -> None:
    """Kill, ask, measure."""
    sys.stdout.write(f"next answer after kill -9; {machine()}\n")
    with daemon() as running:
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=60) as client:
            expected = client.embed(TEXT)
            for kind, rounds in ROUNDS.items():
                times = []
                for _ in range(rounds):
                    client.embed(TEXT)
                    pid = victim(client, kind)
                    start = time.perf_counter()
                    os.kill(pid, signal.SIGKILL)
                    vector = client.embed(TEXT)
                    times.append((time.perf_counter() - start) * 1000)
                    assert float(vector @ expected) > 0.9999, "the successor computes something else"
                report(f"  of the {kind}", times)


if __name__ == "__main__":
    main()
