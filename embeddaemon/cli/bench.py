"""``bench``: what a running daemon does with one of its models on this machine, as a table or as JSON.

It measures the daemon as it is, with whatever else it has to do: other clients' texts during the run are counted and
reported. What loads it is in bench_load.py, the texts are in bench_texts.py, the table in bench_report.py. How
embeddaemon compares with others is another question, which benchmarks/ answers.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

import embeddaemon
from embeddaemon.cli import connect
from embeddaemon.cli.bench_load import Phase, Target, bulk, one_after_the_other, side_by_side
from embeddaemon.cli.bench_report import Report, counted, figures_of, show
from embeddaemon.cli.bench_texts import Texts, built_in_texts, own_texts, without_repeats
from embeddaemon.cli.console import Exit, put_json, say
from embeddaemon.client.sync import Client

LOAD_TIMEOUT_SECONDS = 600.0
"""Of the first call: the model may have to come from the hub."""

_SEVERAL = (8, 32)
_SHARES = {"warm-up": 0.06, "1 text": 0.18, "several": 0.13, "clients": 0.22, "bulk": 0.28}
"""Of the seconds. ``several`` comes twice."""


@click.command(name="bench", short_help="Measure the running daemon: latency, clients side by side, bulk.")
@click.option("-m", "--model", metavar="NAME", help="Model to measure. Default: the daemon's default.")
@click.option(
    "-i",
    "--input",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your texts, one per line (.jsonl: field `text`). Default: docstrings of Python's standard library.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="How long to measure, about."
)
@click.option(
    "--clients",
    type=click.IntRange(1, 512),
    default=16,
    show_default=True,
    help="Clients side by side, each with one text.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@connect.endpoint_option
@connect.timeout_option()
def bench_command(
    *,
    model: str | None,
    source: Path | None,
    seconds: float,
    clients: int,
    as_json: bool,
    endpoint: str | None,
    timeout: float,
) -> None:
    """Measure what the running daemon does with a model on this machine.

    Calls of 1, 8 and 32 texts one after the other, then clients side by side with one text each, then as many texts as
    go through. Bulk texts go in the bulk lane, so other clients' requests still go first. Calls that are longer than
    their share of --seconds are waited for. Ctrl-C ends it and shows what was measured so far.

    \b
    Examples:
      embeddaemon bench
      embeddaemon bench -m search -i texts.txt --seconds 60
      embeddaemon bench --json > today.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    with Client(endpoint, timeout=timeout) as client:
        client.hello()  # before the texts: who has no daemon should learn it at once
        texts = built_in_texts() if source is None else own_texts(source)
        report = _begin(client, model, texts)
        target = Target(client.endpoint, report.model.name, timeout)
        try:
            _measure(client, target, texts, report, _Plan(seconds, clients))
        except KeyboardInterrupt:
            report.interrupted = True
    if as_json:
        put_json(asdict(report))
    else:
        show(report)
    if report.interrupted:
        say("interrupted")
        sys.exit(Exit.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Plan:
    seconds: float
    clients: int

    def seconds_of(self, share: str) -> float:
        return self.seconds * _SHARES[share]


def _begin(client: Client, name: str | None, texts: Texts) -> Report:
    """Brings the model into memory, which is not measured beyond its first answer."""
    server = client.hello()
    model = client.model_info(name)
    with _shown("first answer"):
        start = time.monotonic()
        client.embed(f"{texts.short[0]} (first)", model=model.name, timeout=LOAD_TIMEOUT_SECONDS)
        first_answer_seconds = time.monotonic() - start
    workers = [worker for worker in client.status().get("workers", []) if worker.get("model") == model.name]
    return Report(
        model=client.model_info(model.name),
        server=server,
        texts=texts.origin,
        client_version=embeddaemon.__version__,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        workers=len(workers),
        threads=workers[0].get("threads") if workers else None,
        first_answer_seconds=first_answer_seconds,
    )


def _measure(client: Client, target: Target, texts: Texts, report: Report, plan: _Plan) -> None:
    short, mixed = without_repeats(texts.short), without_repeats(texts.mixed)
    before = client.status()
    calls = partial(one_after_the_other, client, target)
    phases = [_phase("warm-up", partial(calls, mixed, _SEVERAL[-1]), plan.seconds_of("warm-up"))]

    def add(what: str, lane: str, load: Callable[[float], Phase], share: str) -> None:
        phases.append(_phase(what, load, plan.seconds_of(share)))
        report.figures.append(figures_of(what, lane, phases[-1]))

    add("1 text", "interactive", partial(calls, short, 1), "1 text")
    for count in _SEVERAL:
        add(f"{count} texts", "interactive", partial(calls, mixed, count), "several")
    pace = report.figures[-1].texts_per_second
    add(counted(plan.clients, "client"), "interactive", partial(side_by_side, target, short, plan.clients), "clients")
    add("bulk", "bulk", partial(bulk, target, mixed, pace), "bulk")
    _count_others(report, before, client.status(), sum(call.texts for phase in phases for call in phase.calls))


def _phase(what: str, load: Callable[[float], Phase], seconds: float) -> Phase:
    with _shown(what):
        return load(seconds)


@contextmanager
def _shown(what: str) -> Iterator[None]:
    """What is being done, on a terminal, while it is being done."""
    if not sys.stderr.isatty():
        yield
        return
    line = f"measuring: {what} ..."
    click.echo(line, err=True, nl=False)
    try:
        yield
    finally:
        click.echo(f"\r{' ' * len(line)}\r", err=True, nl=False)


def _count_others(report: Report, before: Mapping[str, Any], after: Mapping[str, Any], own_texts: int) -> None:
    def more(group: str, name: str) -> int:
        return int(after.get(group, {}).get(name, 0)) - int(before.get(group, {}).get(name, 0))

    report.refused = more("requests", "refused")
    report.texts_of_others = max(0, more("counts", "texts") - own_texts)
