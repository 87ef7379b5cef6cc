"""Clients that ask without a pause while something is killed: ``python -m benchmarks._recovery_load ENDPOINT``.

Prints a line when everybody has had an answer, and goes on until its standard input ends. Then it prints as JSON how
many calls were answered, and what the others ended with.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter

from embeddaemon import Client
from embeddaemon.errors import EmbedDaemonError

CLIENTS = 4
TEXTS = tuple(f"number {number} of the texts that keep the workers busy" for number in range(8))
_TIMEOUT_SECONDS = 60.0


def ask(endpoint: str, begun: threading.Barrier, finish: threading.Event, endings: Counter[str]) -> None:
    """One client."""
    with Client(endpoint, timeout=_TIMEOUT_SECONDS) as client:
        client.embed(TEXTS)
        begun.wait()
        while not finish.is_set():
            try:
                client.embed(TEXTS)
                endings["answered"] += 1
            except EmbedDaemonError as error:
                endings[error.code] += 1


def main(endpoint: str) -> None:
    """All of them."""
    begun, finish = threading.Barrier(CLIENTS + 1), threading.Event()
    counters: list[Counter[str]] = [Counter() for _ in range(CLIENTS)]
    threads = [threading.Thread(target=ask, args=(endpoint, begun, finish, each)) for each in counters]
    for thread in threads:
        thread.start()
    begun.wait()
    print("asking", flush=True)
    sys.stdin.read()
    finish.set()
    for thread in threads:
        thread.join()
    print(json.dumps(sum(counters, Counter())))


if __name__ == "__main__":
    main(sys.argv[1])
