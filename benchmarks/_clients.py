"""Many clients in one process and one thread, each with its own connection: to the daemon, or to a server over HTTP.

Each sends its next request as soon as it has an answer. The processor time that clients take is missing where the model
computes, so these do as little as they can: bodies are packed before the clock starts, vectors are received and not
decoded. Our own client costs more (the figure ``asyncclient`` of bench_concurrency.py), as every comfortable one does.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgpack
import zmq

_WARM_UP_ANSWERS = 2
"""Of each client: the first ones are not counted, everybody starts at once."""
_DEADLINE_MS = 60_000
_SILENCE_SECONDS = 60

C = TypeVar("C")


@dataclass(slots=True)
class Load:
    """What clients saw between ``start`` and ``end``, monotonic seconds."""

    start: float = 0.0
    end: float = 0.0
    seconds: list[float] = field(default_factory=list)
    """How long each answered request took."""
    at_worker_seconds: list[float] = field(default_factory=list)
    """The same without the wait in the supervisor's queue, where the answer tells it."""
    tokens: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    """Of this process, everything included."""

    @property
    def per_second(self) -> float:
        return len(self.seconds) / (self.end - self.start)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self.end - self.start)

    @property
    def cores(self) -> float:
        """Processor time that the clients took from the server, as a number of cores."""
        return self.cpu_seconds / (self.end - self.start)


@dataclass(frozen=True, slots=True)
class _Exchange(Generic[C]):
    """How one kind of connection is used."""

    send: Callable[[C], object]
    """Its next request."""
    ready: Callable[[], list[C]]
    """The connections with an answer; none after a second without any."""
    receive: Callable[[C], bytes | None]
    """An answer; None where it was something else."""
    count: Callable[[bytes, float, Load], None]
    """An answer that took so many seconds."""


def bodies_of(requests: Sequence[Sequence[str]]) -> list[bytes]:
    """What the daemon is sent, packed."""
    return [msgpack.packb({"texts": list(texts)}) for texts in requests]


def ask_daemon(
    endpoint: str, bodies: Sequence[bytes], clients: int, seconds: float, *, lane: str = "interactive"
) -> Load:
    """So many clients of the daemon for so long. Raises RuntimeError for any answer but a vector or a refusal."""
    supply = itertools.cycle(bodies)
    header = _header(lane)
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        poller = zmq.Poller()
        sockets = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(clients)]
        for one in sockets:
            one.setsockopt(zmq.LINGER, 0)
            one.connect(endpoint)
            poller.register(one, zmq.POLLIN)

        exchange: _Exchange[zmq.Socket[bytes]] = _Exchange(
            send=lambda one: one.send_multipart([header, next(supply)]),
            ready=lambda: [one for one, _ in poller.poll(1000)],
            receive=_answer,
            count=lambda answer, took, load: _count(msgpack.unpackb(answer), took, load),
        )
        return _loop(sockets, exchange, seconds)


def _answer(connection: zmq.Socket[bytes]) -> bytes | None:
    """The header of an answer; None for the daemon's sign of life (docs/protocol.md), which answers nothing."""
    header, *vectors = connection.recv_multipart()
    if not vectors and "waiting" in msgpack.unpackb(header):
        return None
    return header


def _count(answer: Mapping[str, Any], took: float, load: Load) -> None:
    match answer:
        case {"ok": True, "tokens": int() as tokens, "timings": {"queue_us": int() as queue_us}}:
            load.seconds.append(took)
            load.at_worker_seconds.append(took - queue_us / 1e6)
            load.tokens += tokens
        case {"ok": False, "error": {"code": "busy"}}:
            load.refused += 1
        case _:
            raise RuntimeError(f"the daemon answered {answer}")


def ask_http(address: tuple[str, int], path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """So many clients of an HTTP server, connections kept. Raises RuntimeError for an answer but 200, 429 or 503."""
    head = f"POST {path} HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\nContent-Length: "
    supply = itertools.cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])

    def count(answer: bytes, took: float, load: Load) -> None:
        status = int(answer.split(b" ", 2)[1])
        if status == 200:
            load.seconds.append(took)
        elif status in {429, 503}:
            load.refused += 1
        else:
            raise RuntimeError(f"the server answered {answer[:300]!r}")

    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(address)) for _ in range(clients)]
        for one in connections:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(one, selectors.EVENT_READ)
        exchange: _Exchange[socket.socket] = _Exchange(
            send=lambda one: one.sendall(next(supply)),
            ready=lambda: [key.fileobj for key, _ in selector.select(1) if isinstance(key.fileobj, socket.socket)],
            receive=_whole_answer,
            count=count,
        )
        return _loop(connections, exchange, seconds)


def _whole_answer(connection: socket.socket) -> bytes:
    """Head and body; the rest of an answer whose beginning is here comes at once."""
    answer = connection.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += _more(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].partition(b":")[2]) - len(body)
    while missing > 0:
        missing -= len(_more(connection))
    return answer


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise RuntimeError("the server closed a connection in the middle of an answer")
    return part


def ask_at_rate(
    endpoint: str, bodies: Sequence[bytes], per_second: float, seconds: float, *, after: float = 0.0
) -> Load:
    """One client of the daemon's interactive lane that sends at set times, whatever became of the requests before.

    A request's time counts from the moment when it was due, so a daemon that answers late cannot hide it by being asked
    less often. The first request is due ``after`` seconds from now.
    """
    load, due_at = Load(), dict[int, float]()
    supply = itertools.cycle(bodies)
    with zmq.Context() as context, context.socket(zmq.DEALER) as one:
        one.setsockopt(zmq.LINGER, 0)
        one.connect(endpoint)
        cpu, load.start = time.process_time(), time.monotonic() + after
        load.end = load.start + seconds
        for number in range(1, int(per_second * seconds) + 1):
            due_at[number] = load.start + number / per_second
        waiting = dict.fromkeys(due_at)
        sent = 0
        while waiting:
            now = time.monotonic()
            while sent < len(due_at) and due_at[sent + 1] <= now:
                sent += 1
                one.send_multipart([_header("interactive", sent), next(supply)])
            pause = max(0.0, due_at[sent + 1] - now) if sent < len(due_at) else _SILENCE_SECONDS
            if one.poll(math.ceil(pause * 1000)):
                if (packed := _answer(one)) is None:
                    continue
                answer = msgpack.unpackb(packed)
                del waiting[answer["id"]]
                _count(answer, time.monotonic() - due_at[answer["id"]], load)
            elif sent == len(due_at):
                raise RuntimeError(f"no answer to {len(waiting)} requests for {_SILENCE_SECONDS} s")
        load.cpu_seconds = time.process_time() - cpu
    return load


def _header(lane: str, number: int = 1) -> bytes:
    header: bytes = msgpack.packb({"v": 1, "id": number, "op": "embed", "deadline_ms": _DEADLINE_MS, "lane": lane})
    return header


def _loop(connections: Sequence[C], how: _Exchange[C], seconds: float) -> Load:
    """Every connection in a closed loop. What is under way at the end is waited for and not counted."""
    load = Load()
    sent_at: dict[C, float] = {}
    warm_up = _WARM_UP_ANSWERS * len(connections)
    for one in connections:
        sent_at[one] = time.monotonic()
        how.send(one)
    while warm_up > 0:
        for one in _some(how.ready):
            if how.receive(one) is not None:
                sent_at[one] = time.monotonic()
                how.send(one)
                warm_up -= 1
    cpu, load.start = time.process_time(), time.monotonic()
    while (now := time.monotonic()) < load.start + seconds:
        for one in _some(how.ready):
            if (answer := how.receive(one)) is None:
                continue
            now = time.monotonic()
            how.count(answer, now - sent_at[one], load)
            sent_at[one] = now
            how.send(one)
    load.end, load.cpu_seconds = now, time.process_time() - cpu
    while sent_at:
        for one in _some(how.ready):
            if how.receive(one) is not None:
                del sent_at[one]
    return load


def _some(ready: Callable[[], list[C]]) -> list[C]:
    """The connections that have something, at least one. Raises RuntimeError where nothing comes any more."""
    last = time.monotonic() + _SILENCE_SECONDS
    while not (several := ready()):
        if time.monotonic() > last:
            raise RuntimeError(f"no answer to anybody for {_SILENCE_SECONDS} s")
    return several
