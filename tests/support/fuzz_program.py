"""The hostile side as a program of its own: ``python tests/support/fuzz_program.py PATH MESSAGES PEERS RATE SEED``.

Sends so many messages and opens so many raw connections, RATE messages a second, and prints one JSON line: how they
were answered, and what must not be among it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a program: its own folder is on the path, the root is not

import zmq

from tests.support.fuzz_messages import CODES, code_of, hostile_message
from tests.support.fuzz_peers import HostilePeers

_PEERS_AT_ONCE = 300
_CROWD = 400
"""More than the daemon of the test has descriptors."""
_MESSAGES_PER_CONNECTION = 250
_MESSAGES_PER_CROWD = 2000


class Sender:
    """One connection after the other; some of them never read what they are answered."""

    def __init__(self, path: Path, choose: random.Random) -> None:
        self.codes: Counter[str] = Counter()
        self._endpoint = f"ipc://{path}"
        self._choose = choose
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sent = 0
        self._connect()

    def _connect(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.sndtimeo = 2000
        self._socket.connect(self._endpoint)
        self._reads = self._choose.random() < 0.8

    def send(self) -> None:
        try:
            self._socket.send_multipart(hostile_message(self._choose))
        except zmq.Again:
            self.codes["not taken"] += 1
        self._sent += 1
        if self._reads:
            self._read(0)
        if self._sent % _MESSAGES_PER_CONNECTION == 0:
            self._read(200)
            self._socket.close()
            self._connect()

    def _read(self, longest_ms: int) -> None:
        while self._reads and self._socket.poll(longest_ms):
            self.codes[code_of(self._socket.recv_multipart())] += 1

    def close(self) -> None:
        self._read(500)
        self._socket.close()
        self._context.term()


def main(path: Path, messages: int, peers: int, rate: float, seed: int) -> dict[str, Any]:
    """All of it, in turn."""
    choose = random.Random(seed)
    sender, hostile = Sender(path, choose), HostilePeers(path, choose, _PEERS_AT_ONCE)
    begun = time.monotonic()
    for number in range(messages):
        sender.send()
        if number * peers // messages != (number + 1) * peers // messages:
            hostile.connect()
        if number % _MESSAGES_PER_CROWD in (500, 1500):
            hostile.crowd(_CROWD if number % _MESSAGES_PER_CROWD == 500 else 0)
        ahead = begun + number / rate - time.monotonic()
        if ahead > 0.01:
            time.sleep(ahead)
    took = time.monotonic() - begun
    sender.close()
    hostile.close()
    wrong = {code: count for code, count in sender.codes.items() if code not in CODES | {"ok", "not taken"}}
    return {"seconds": took, "codes": sender.codes, "peers": hostile.outcomes, "wrong": wrong}


if __name__ == "__main__":
    place, *numbers = sys.argv[1:]
    outcome = main(Path(place), int(numbers[0]), int(numbers[1]), float(numbers[2]), int(numbers[3]))
    sys.stdout.write(json.dumps(outcome))
