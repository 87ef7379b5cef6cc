"""What ``bench`` puts on the daemon and measures: calls one after the other, clients side by side, bulk.

Everything here is an ordinary client of the daemon. A phase ends with the first call that ends after its time, so a
slow model is measured too, by few calls.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from embeddaemon.client.aio import AsyncClient
from embeddaemon.client.results import Embeddings
from embeddaemon.client.sync import Client

BULK_CALLS = 3
"""Bulk calls side by side: while one ends and the next begins, the daemon has the others."""
_BULK_CALL_SECONDS = 0.5
_BULK_CALL_TEXTS = range(8, 513)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was answered; monotonic seconds."""

    start: float
    end: float
    texts: int
    tokens: int
    queue_ms: float
    tokenize_ms: float
    compute_ms: float

    @property
    def ms(self) -> float:
        return (self.end - self.start) * 1000

    @property
    def elsewhere_ms(self) -> float:
        """In the client, on the socket, in the supervisor."""
        return max(0.0, self.ms - self.queue_ms - self.tokenize_ms - self.compute_ms)


@dataclass(frozen=True, slots=True)
class Phase:
    """Some calls of one kind, all of them within ``start`` and the end of the last one."""

    start: float
    until: float
    """The end of the time that counts."""
    calls: Sequence[Call]
    client_cpu_seconds: float
    """What measuring itself took; the daemon would have had it otherwise, where the cores are few."""

    @property
    def seconds(self) -> float:
        return self.until - self.start

    def per_second(self, amount: Callable[[Call], int]) -> float:
        """A rate. Calls that end after ``until`` count with the part of them that lies before it."""
        return sum(amount(call) * self._share(call) for call in self.calls) / self.seconds

    def _share(self, call: Call) -> float:
        return (min(call.end, self.until) - call.start) / (call.end - call.start)

    def percentile_ms(self, percent: int) -> float:
        """By nearest rank: a time that some call really took."""
        times = sorted(call.ms for call in self.calls)
        return times[math.ceil(len(times) * percent / 100) - 1]

    def median_ms(self, part: Callable[[Call], float]) -> float:
        """The median of one part of the calls' times."""
        return statistics.median(map(part, self.calls))


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked."""

    endpoint: str
    model: str
    timeout_seconds: float


def one_after_the_other(client: Client, target: Target, supply: Iterator[str], texts: int, seconds: float) -> Phase:
    """Calls of so many texts, each sent when the one before it was answered."""
    start, cpu = time.monotonic(), time.process_time()
    calls: list[Call] = []
    while not calls or calls[-1].end < start + seconds:
        several = list(itertools.islice(supply, texts))
        sent = time.monotonic()
        calls.append(_call(sent, client.embed_detailed(several, model=target.model, lane="interactive")))
    return Phase(start, calls[-1].end, calls, time.process_time() - cpu)


def side_by_side(target: Target, supply: Iterator[str], clients: int, seconds: float) -> Phase:
    """So many clients, each with a connection of its own and one text at a time."""
    return _run(target, supply, _Load(clients=clients, lives=1, texts=1, lane="interactive"), seconds)


def bulk(target: Target, supply: Iterator[str], texts_per_second: float, seconds: float) -> Phase:
    """As much as goes through, in the bulk lane: others' interactive requests still go first."""
    wanted = int(texts_per_second * _BULK_CALL_SECONDS)
    texts = min(max(wanted, _BULK_CALL_TEXTS[0]), _BULK_CALL_TEXTS[-1])
    return _run(target, supply, _Load(clients=1, lives=BULK_CALLS, texts=texts, lane="bulk"), seconds)


@dataclass(frozen=True, slots=True)
class _Load:
    clients: int
    lives: int
    """Of each client: how many calls it has under way."""
    texts: int
    lane: str


def _run(target: Target, supply: Iterator[str], load: _Load, seconds: float) -> Phase:
    try:
        return asyncio.run(_measure(target, supply, load, seconds))
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    """Of the errors that ended a group of tasks: they fail alike, and a person needs one of them."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _measure(target: Target, supply: Iterator[str], load: _Load, seconds: float) -> Phase:
    calls: list[Call] = []

    async def live(client: AsyncClient, until: float) -> None:
        while (sent := time.monotonic()) < until:
            several = list(itertools.islice(supply, load.texts))
            calls.append(_call(sent, await client.embed_detailed(several, model=target.model, lane=load.lane)))

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(target.endpoint, target.timeout_seconds))
            for _ in range(load.clients)
        ]
        for client in clients:
            await client.hello()
        start, cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as lives:
            for client in clients:
                for _ in range(load.lives):
                    lives.create_task(live(client, start + seconds))
        return Phase(start, start + seconds, calls, time.process_time() - cpu)


def _call(sent: float, answer: Embeddings) -> Call:
    spent = answer.timings
    return Call(
        start=sent,
        end=time.monotonic(),
        texts=len(answer.vectors),
        tokens=answer.tokens,
        queue_ms=spent.queue_us / 1000,
        tokenize_ms=spent.tokenize_us / 1000,
        compute_ms=spent.compute_us / 1000,
    )
