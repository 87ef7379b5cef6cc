"""How soon after its start does the daemon answer, how soon is the first vector there, and how soon a 1 GB model?

From the start of the process, Python's own start and every import included, to HELLO's answer and to the first vector
of the bundled model; against a program that imports sentence-transformers, loads the same model and encodes one text.
They take turns. Then a model of about 1 GB (BERT's layout, 20 layers of 1024, random weights, made for the run):
``load`` asked of a daemon that has just started, torch's import included, and asked again after ``unload``, as when a
model comes back into memory. Ready means that its worker has said so; the first vector follows within milliseconds.

What would make it lie: files that are not in the page cache (after booting everything is slower; the first round of
each is therefore shown apart and not counted); a machine whose clock is busy elsewhere, since imports are one thread's
work; the page cache given up for the 1 GB file between its making and its loading (each round reads it, look at the
spread). The weights are float32 on disk and are converted, which a model published in bfloat16 does not need.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks._harness import TEXT, Daemon, Demand, Form, Measurement, daemon, in_turn, main
from benchmarks._in_process import programs
from embeddaemon import Client
from tests.support.checkpoints import TinyBert

DEMANDS = (
    Demand(
        row="daemon answering HELLO after start, ms",
        figure="startup/hello/ours",
        must=500,
        goal=300,
        sense="at most",
    ),
    Demand(
        row="cold first vector after `serve`, ms",
        figure="startup/first-vector/ours",
        must=5000,
        goal=3000,
        sense="at most",
    ),
    Demand(row="seeds' targets", figure="startup/1gb-ready/ours", must=5000, sense="at most"),
)

_LARGE = TinyBert(hidden=1024, layers=20, heads=16, intermediate=4096, positions=512)
_TIMEOUT_SECONDS = 300


def measure(form: Form) -> Iterator[Measurement]:
    """The bundled model beside the program, then the large one."""
    rounds = form.choose(quick=2, full=10)
    contestants = {"hello": _hello, "ours": _first_vector, "st-fp32": _program}
    first = in_turn(contestants, 1)
    later = in_turn(contestants, rounds)
    yield _figure("hello/ours", later["hello"], first["hello"])
    for name in ("ours", "st-fp32"):
        yield _figure(f"first-vector/{name}", later[name], first[name])
    yield from _large(form.choose(quick=1, full=5))


def _figure(what: str, values: tuple[float, ...], first: tuple[float, ...]) -> Measurement:
    note = f"{first[0]:.0f} ms in the first round, which is not counted"
    return Measurement(name=f"startup/{what}", unit="ms", values=values, note=note)


def _hello() -> float:
    with daemon() as running:
        running.wait_until_it_answers()
        return _ms_since_start(running)


def _first_vector() -> float:
    with daemon() as running:
        running.wait_until_it_answers()
        with Client(running.endpoint, timeout=_TIMEOUT_SECONDS) as client:
            client.embed(TEXT)
        return _ms_since_start(running)


def _ms_since_start(running: Daemon) -> float:
    return (time.monotonic() - running.started_at) * 1000


def _program() -> float:
    start = time.monotonic()
    with programs(1):
        return (time.monotonic() - start) * 1000


def _large(rounds: int) -> Iterator[Measurement]:
    cold, again = [], []
    with tempfile.TemporaryDirectory(prefix="ed-bench-", dir="/tmp") as folder:
        source = _LARGE.write(Path(folder) / "large")
        gigabytes = (source / "model.safetensors").stat().st_size / 1e9
        for _ in range(rounds + 1):
            with daemon(config=f'[models.large]\nsource = "path:{source}"\n') as running:
                running.wait_until_it_answers()
                with Client(running.endpoint, timeout=_TIMEOUT_SECONDS) as client:
                    cold.append(_load_ms(client))
                    client.unload("large")
                    again.append(_load_ms(client))
    note = f"{gigabytes:.2f} GB on disk, daemon just started; {cold[0]:.0f} ms in the first round, which is not counted"
    yield Measurement(name="startup/1gb-ready/ours", unit="ms", values=tuple(cold[1:]), note=note)
    yield Measurement(name="startup/1gb-again/ours", unit="ms", values=tuple(again[1:]), note="after `unload`")


def _load_ms(client: Client) -> float:
    start = time.monotonic()
    client.load("large", timeout=_TIMEOUT_SECONDS)
    return (time.monotonic() - start) * 1000


if __name__ == "__main__":
    assert __spec__ is not None
    main(__spec__.name, measure)
