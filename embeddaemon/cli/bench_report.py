"""What ``bench`` found: its figures, and how a person sees them. Measuring is in bench.py and bench_load.py."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from embeddaemon.cli.bench_load import Phase
from embeddaemon.cli.console import duration, put, put_table
from embeddaemon.client.results import ModelInfo, ServerInfo

_NOTABLE_CORES = 0.1
_HEADINGS = ("", "TOKENS/TEXT", "CALLS", "P50 MS", "P90 MS", "P99 MS", "TEXTS/S", "TOKENS/S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One line of the table. Times are of whole calls, as the client saw them."""

    what: str
    lane: str
    texts_per_call: int
    calls: int
    seconds: float
    tokens_per_text: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    texts_per_second: float
    tokens_per_second: float
    client_cores: float
    """Cores that measuring took."""
    queue_ms: float
    tokenize_ms: float
    compute_ms: float
    elsewhere_ms: float
    """Medians of the four parts of a call; the last is client, socket and supervisor."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What is shown. Grows while measuring, so that an interrupted run shows what it has."""

    model: ModelInfo
    server: ServerInfo
    texts: str
    client_version: str
    machine: str
    workers: int
    threads: int | None
    first_answer_seconds: float
    """Of the first call. Much longer than ``p50_ms`` where the model had to be loaded."""
    figures: list[Figures] = field(default_factory=list)
    refused: int = 0
    """Requests that the daemon refused meanwhile, whoever sent them; a client tries again by itself."""
    texts_of_others: int = 0
    interrupted: bool = False


def figures_of(what: str, lane: str, phase: Phase) -> Figures:
    """The line of one phase."""
    texts = sum(call.texts for call in phase.calls)
    return Figures(
        what=what,
        lane=lane,
        texts_per_call=phase.calls[0].texts,
        calls=len(phase.calls),
        seconds=phase.seconds,
        tokens_per_text=sum(call.tokens for call in phase.calls) / texts,
        p50_ms=phase.percentile_ms(50),
        p90_ms=phase.percentile_ms(90),
        p99_ms=phase.percentile_ms(99),
        texts_per_second=phase.per_second(lambda call: call.texts),
        tokens_per_second=phase.per_second(lambda call: call.tokens),
        client_cores=phase.client_cpu_seconds / phase.seconds,
        queue_ms=phase.median_ms(lambda call: call.queue_ms),
        tokenize_ms=phase.median_ms(lambda call: call.tokenize_ms),
        compute_ms=phase.median_ms(lambda call: call.compute_ms),
        elsewhere_ms=phase.median_ms(lambda call: call.elsewhere_ms),
    )


def show(report: Report) -> None:
    """The table, with what is needed to read it."""
    model = report.model
    workers = counted(report.workers, "worker")
    threads = "" if report.threads is None else f" of {counted(report.threads, 'thread')}"
    put(f"model    {model.name} ({model.family}), {model.dimension} dimensions, at most {model.max_tokens} tokens")
    put(f"computes {model.device}, {model.precision}, {workers}{threads}, token budget {model.token_budget}")
    put(f"daemon   embeddaemon {report.server.version}, pid {report.server.pid}; client {report.client_version}")
    put(f"machine  {report.machine}")
    put(f"texts    {report.texts}")
    put(f"first    answer after {duration(report.first_answer_seconds)}")
    if not report.figures:
        return
    put("")
    put_table(_HEADINGS, [_row(one) for one in report.figures])
    put("")
    _put_notes(report)


def _row(one: Figures) -> tuple[str, ...]:
    """Nobody waits for one call of bulk: its times are in the JSON alone."""
    times = ["-"] * 3 if one.lane == "bulk" else [_ms(time_ms) for time_ms in (one.p50_ms, one.p90_ms, one.p99_ms)]
    rates = (f"{one.texts_per_second:,.0f}", f"{one.tokens_per_second:,.0f}")
    return (one.what, f"{one.tokens_per_text:.0f}", f"{one.calls:,}", *times, *rates)


def _put_notes(report: Report) -> None:
    one = report.figures[0]
    parts = {"waiting": one.queue_ms, "tokenizing": one.tokenize_ms, "computing": one.compute_ms}
    spent = ", ".join(f"{_ms(value)} ms {name}" for name, value in parts.items())
    put(f"{one.what}: {spent}, {_ms(one.elsewhere_ms)} ms in client, socket and supervisor (medians)")
    for figures in report.figures[1:]:
        if figures.client_cores >= _NOTABLE_CORES:
            put(f"{figures.what}: measuring itself took {figures.client_cores:.2f} of {os.cpu_count()} cores")
    if report.refused:
        put(f"refused meanwhile: {report.refused} requests; a client tries them again by itself")
    if report.texts_of_others:
        put(f"others had {report.texts_of_others:,} texts embedded meanwhile: alone, the daemon does more than this")


def counted(number: int, noun: str) -> str:
    """Such as "1 client", "16 clients"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
