"""Does a person's query wait behind somebody's bulk job, and does the bulk job suffer from the person?

Interactive requests, one short text each, come at a set rate (20 a second) whether the earlier ones are answered or
not, and their time counts from when they were due. Bulk is 16 requests of 16 paragraphs each under way all the time, in
the bulk lane. Three phases in turn: interactive alone, bulk alone, both. p99 is compared with a *dispatch time*, and
the bulk rate beside interactive requests with the bulk rate alone.

A dispatch is what the supervisor hands a worker at once. Its time is measured: under saturation a worker always holds
two dispatches, so a bulk request is with the worker for two dispatch times; that stay is the time of its answer less
the wait in the queue that the answer tells (``queue_us``), and half of its median is the dispatch time, taken in the
phase with bulk alone. It includes 0.2 ms of sockets; with several workers it is the time of one worker's dispatch.

What would make it lie: bulk that does not saturate (then a worker holds less than two dispatches; the note has the
median wait in the queue, which must be above zero); few interactive samples, of which the p99 is simply the slowest
(the note has their number; the quick form takes the p99 of all rounds together); dispatches made long on purpose, which
makes any wait look short beside them: so the p99 itself is a figure too.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks._clients import Load, ask_at_rate, ask_daemon, bodies_of
from benchmarks._harness import Daemon, Demand, Form, Measurement, daemon, main, percentile
from benchmarks.corpus import prose, queries
from embeddaemon import Client

_ROW = "interactive p99 while bulk saturates: at most so many dispatch times; what bulk keeps"

DEMANDS = (
    Demand(
        row=_ROW,
        figure="fairness/p99-beside-bulk/ours",
        against="fairness/dispatch-time/ours",
        must=3,
        goal=2,
        sense="at most",
    ),
    Demand(row=_ROW, figure="fairness/bulk-beside-interactive/ours", against="fairness/bulk-alone/ours", must=0.9),
)

_PER_SECOND = 20
_BULK_REQUESTS = 16
_BULK_TEXTS = 16
_SETTLE_SECONDS = 0.5
"""Of bulk before the first interactive request: it saturates by then."""


@dataclass(slots=True)
class _Seen:
    """The loads of each phase, one per round."""

    alone: list[Load] = field(default_factory=list)
    beside: list[Load] = field(default_factory=list)
    bulk_alone: list[Load] = field(default_factory=list)
    bulk_beside: list[Load] = field(default_factory=list)


def measure(form: Form) -> Iterator[Measurement]:
    """The three phases in turn."""
    rounds, seconds = form.choose(quick=2, full=6), form.choose(quick=4, full=30)
    seen = _Seen()
    with daemon() as running:
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=120) as client:
            client.embed(list(prose()[:200]))
        for _ in range(rounds):
            _round(running, seconds, seen)
    yield from _interactive("alone", seen.alone, form)
    yield from _interactive("beside-bulk", seen.beside, form)
    for what, loads in (("bulk-alone", seen.bulk_alone), ("bulk-beside-interactive", seen.bulk_beside)):
        yield Measurement(
            name=f"fairness/{what}/ours", unit="tok/s", values=tuple(load.tokens_per_second for load in loads)
        )
    yield _dispatch_time(seen.bulk_alone)


def _round(running: Daemon, seconds: float, seen: _Seen) -> None:
    short = bodies_of([[text] for text in queries()])
    texts = prose()
    pieces = [texts[start : start + _BULK_TEXTS] for start in range(0, len(texts) - _BULK_TEXTS, _BULK_TEXTS)]
    bulk = bodies_of(pieces)
    seen.alone.append(ask_at_rate(running.endpoint, short, _PER_SECOND, seconds))
    seen.bulk_alone.append(ask_daemon(running.endpoint, bulk, _BULK_REQUESTS, seconds, lane="bulk"))
    with ThreadPoolExecutor(1) as pool:  # some twenty bulk requests a second: its thread hardly runs
        loading = pool.submit(
            ask_daemon, running.endpoint, bulk, _BULK_REQUESTS, seconds + _SETTLE_SECONDS, lane="bulk"
        )
        seen.beside.append(ask_at_rate(running.endpoint, short, _PER_SECOND, seconds, after=_SETTLE_SECONDS))
        seen.bulk_beside.append(loading.result())


def _interactive(what: str, loads: Sequence[Load], form: Form) -> Iterator[Measurement]:
    groups = [load.seconds for load in loads]
    if form is Form.QUICK:
        groups = [[one for group in groups for one in group]]
    refused = sum(load.refused for load in loads)
    note = f"{_PER_SECOND} a second, {len(groups[0])} requests for each value, {refused} refused"
    for percent in (50, 99):
        values = tuple(percentile(group, percent) * 1000 for group in groups)
        yield Measurement(name=f"fairness/p{percent}-{what}/ours", unit="ms", values=values, note=note)


def _dispatch_time(loads: Sequence[Load]) -> Measurement:
    queued = [
        took - at_worker for load in loads for took, at_worker in zip(load.seconds, load.at_worker_seconds, strict=True)
    ]
    return Measurement(
        name="fairness/dispatch-time/ours",
        unit="ms",
        values=tuple(statistics.median(load.at_worker_seconds) * 1000 / 2 for load in loads),
        note=f"bulk requests waited {statistics.median(queued) * 1000:.0f} ms in the queue (median)",
    )


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
