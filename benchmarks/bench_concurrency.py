"""How many requests of one short text each does the daemon answer for 1 to 64 clients at once, and how soon?

A closed loop: every client sends its next request when it has an answer, so 64 clients keep 64 requests under way. The
rate is compared with the bulk rate of the same short texts in the same rounds, which is what batching could reach at
best, and with infinity's HTTP server in bf16 under the same loop where `make peers` has installed it.

Who the clients are matters on few cores. They are 64 connections in one process and one thread, with bodies packed
beforehand and vectors not decoded (benchmarks/_clients.py): the figure ``client-cores`` says what they took from the
model; both servers get the same. Processes of their own would cost a switch per request, threads wait for each other's
interpreter lock. ``asyncclient`` is our own client instead, one connection per task, which is what an application pays.

What would make it lie: texts sent again and answered by a cache (the daemon has none unless told to); a bulk rate that
its single client cannot feed (it has several calls under way); rates in a window so short that the last requests, which
are waited for and not counted, matter; somebody else's work on the same cores. Percentiles are of a closed loop: they
say how long 64 waiting clients wait, and not what would happen at a rate that the daemon cannot keep up with.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks._clients import Load, ask_daemon, ask_http, bodies_of
from benchmarks._harness import Demand, Form, Measurement, daemon, main, percentile
from benchmarks.corpus import queries
from benchmarks.peers import infinity_peer
from embeddaemon import AsyncClient, Client

_PEER = "infinity-bf16"
_MANY = "64 clients with one short text each"
_ROW_C8 = "seeds' targets: 200 queries/s with several clients, p95 below 50 ms"

DEMANDS = (
    Demand(row=_MANY, figure="concurrency/rate/ours@64", against="concurrency/bulk-rate/ours", must=0.8, goal=0.9),
    Demand(row=_MANY, figure="concurrency/rate/ours@64", against=f"concurrency/rate/{_PEER}@64", must=3),
    Demand(row=_MANY, figure="concurrency/refused/ours@64", must=0, sense="at most"),
    Demand(row=_ROW_C8, figure="concurrency/rate/ours@8", must=200),
    Demand(row=_ROW_C8, figure="concurrency/p95/ours@8", must=50, sense="at most"),
)

_LEVELS = (1, 2, 4, 8, 16, 32, 64)
_LEVELS_QUICK = (1, 8, 64)
_BULK_CALLS = 3
_BULK_TEXTS = 512

Contestant = Callable[[int, float], Load]
"""So many clients for so many seconds."""


def measure(form: Form) -> Iterator[Measurement]:
    """Level after level; at each, contestants in turn. Bulk in the rounds of the highest level."""
    levels = _LEVELS_QUICK if form is Form.QUICK else _LEVELS
    rounds, seconds = form.choose(quick=2, full=5), form.choose(quick=2, full=8)
    texts = queries()
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(daemon())
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=120) as client:
            client.embed(texts[0])
        contestants: dict[str, Contestant] = {"ours": partial(ask_daemon, running.endpoint, _bodies(texts))}
        if (peer := _peer(stack, texts)) is not None:
            contestants[_PEER] = peer
        bulk: list[float] = []
        for level in levels:
            loads: dict[str, list[Load]] = {name: [] for name in contestants}
            for _ in range(rounds):
                for name, ask in contestants.items():
                    loads[name].append(ask(level, seconds))
                if level == levels[-1]:
                    bulk.append(asyncio.run(_bulk(running.endpoint, texts, seconds)))
            for name, several in loads.items():
                yield from _figures(name, level, several)
        yield Measurement(
            name="concurrency/bulk-rate/ours", unit="texts/s", values=tuple(bulk), note="the same texts, bulk lane"
        )
        with_own = [asyncio.run(_own_clients(running.endpoint, texts, levels[-1], seconds)) for _ in range(rounds)]
        yield from _figures("asyncclient", levels[-1], with_own)
    if _PEER not in contestants:
        note = "is not installed (`make peers`), so it was not measured"
        yield Measurement(name=f"concurrency/missing/{_PEER}", unit="", values=(1,), note=note)


def _bodies(texts: Sequence[str]) -> list[bytes]:
    return bodies_of([[text] for text in texts])


def _peer(stack: contextlib.ExitStack, texts: Sequence[str]) -> Contestant | None:
    """Its server, where it is installed. Without requests it takes no time from the others."""
    try:
        address = stack.enter_context(infinity_peer.server("bf16"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return partial(ask_http, address, "/embeddings", [infinity_peer.body([text]) for text in texts])


def _figures(name: str, level: int, loads: Sequence[Load]) -> Iterator[Measurement]:
    """What one contestant did at one number of clients; a value for every round."""

    def figure(what: str, unit: str, value: Callable[[Load], float]) -> Measurement:
        values = tuple(value(load) for load in loads)
        return Measurement(name=f"concurrency/{what}/{name}", unit=unit, at=level, values=values)

    yield figure("rate", "texts/s", lambda load: load.per_second)
    yield figure("p50", "ms", lambda load: percentile(load.seconds, 50) * 1000)
    yield figure("p95", "ms", lambda load: percentile(load.seconds, 95) * 1000)
    yield figure("p99", "ms", lambda load: percentile(load.seconds, 99) * 1000)
    yield figure("refused", "requests", lambda load: load.refused)
    yield figure("client-cores", "cores", lambda load: load.cores)


async def _bulk(endpoint: str, texts: Sequence[str], seconds: float) -> float:
    """Texts a second: calls of several hundred texts, some at a time, each counted with its part of the seconds."""
    supply = itertools.cycle(texts)
    spans: list[tuple[float, float]] = []

    async def live(client: AsyncClient, until: float) -> None:
        while (sent := time.monotonic()) < until:
            await client.embed(list(itertools.islice(supply, _BULK_TEXTS)), lane="bulk")
            spans.append((sent, time.monotonic()))

    async with AsyncClient(endpoint, timeout=60) as client:
        await client.embed(list(itertools.islice(supply, _BULK_TEXTS)), lane="bulk")
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as lives:
            for _ in range(_BULK_CALLS):
                lives.create_task(live(client, end))
    return _BULK_TEXTS * sum((min(done, end) - sent) / (done - sent) for sent, done in spans) / seconds


async def _own_clients(endpoint: str, texts: Sequence[str], clients: int, seconds: float) -> Load:
    """So many of our own asynchronous clients, each with a connection of its own."""
    supply, load = itertools.cycle(texts), Load()

    async def live(client: AsyncClient, until: float) -> None:
        while (sent := time.monotonic()) < until:
            await client.embed(next(supply))
            load.seconds.append(time.monotonic() - sent)

    async with contextlib.AsyncExitStack() as stack:
        several = [await stack.enter_async_context(AsyncClient(endpoint, timeout=60)) for _ in range(clients)]
        for client in several:
            await client.hello()
        cpu, load.start = time.process_time(), time.monotonic()
        async with asyncio.TaskGroup() as lives:
            for client in several:
                lives.create_task(live(client, load.start + seconds))
        load.end, load.cpu_seconds = time.monotonic(), time.process_time() - cpu
    return load


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
