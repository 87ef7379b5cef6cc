"""How soon after its start does the daemon answer HELLO, and how soon is the first vector there?

From the start of the process, Python's own start and every import included. The files are in the page cache after the
first round, so a machine that was just booted is slower; the first round is shown apart.
"""

from __future__ import annotations

import sys
import time

from benchmarks._harness import TEXT, daemon, machine, report
from embeddaemon import Client

ROUNDS = 5


def main() -> None:
    """Start, ask, measure."""
    sys.stdout.write(f"from the start of the daemon; {machine()}\n")
    answers, vectors = [], []
    for _ in range(ROUNDS):
        with daemon() as running:
            running.wait_until_it_answers()
            answers.append((time.monotonic() - running.started_at) * 1000)
            with Client(running.endpoint, timeout=60) as client:
                client.embed(TEXT)
            vectors.append((time.monotonic() - running.started_at) * 1000)
    for what, times in (("HELLO answered", answers), ("first vector", vectors)):
        report(f"  {what}, first round", times[:1])
        report(f"  {what}, later rounds", times[1:])


if __name__ == "__main__":
    main()
