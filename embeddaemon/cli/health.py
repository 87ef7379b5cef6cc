"""``health``: whether the daemon answers, is ready and really embeds, as an exit code for probes."""

from __future__ import annotations

from dataclasses import asdict

import click

from embeddaemon.cli import connect
from embeddaemon.cli.console import Exit, duration, put, put_json, put_table, say
from embeddaemon.client._actions import Patience
from embeddaemon.client.results import Health, ModelHealth
from embeddaemon.client.sync import Client

TIMEOUT_SECONDS = 5.0
"""A probe that waits longer tells nothing new."""

WAKE_TIMEOUT_SECONDS = 600.0
"""With --wake: the default of ``load_timeout``. Whether anybody answers is asked before, and with the other one."""

WRONG_QUESTIONS = frozenset({"unknown_model", "forbidden", "invalid_input", "malformed", "unsupported_version"})
"""Codes of errors that say nothing of anybody's health: the same question is wrong whenever it is asked."""


@click.command(name="health", short_help="Say whether the daemon and its models are well; for probes.")
@click.option("--model", "-m", metavar="NAME", help="Ask for this model alone.")
@click.option("--deep", is_flag=True, help="Have every model that is loaded (or the one named) really embed a text.")
@click.option(
    "--wake", is_flag=True, help="With --deep: load what is not loaded. Only for the daemon's own user or root."
)
@click.option("--json", "as_json", is_flag=True, help="What was found, for programs.")
@connect.endpoint_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help=f"Give up after so long without an answer.  [default: {TIMEOUT_SECONDS:g}; with --wake: "
    f"{WAKE_TIMEOUT_SECONDS:g}]",
)
@click.pass_context
def health_command(
    ctx: click.Context,
    /,
    *,
    model: str | None,
    deep: bool,
    wake: bool,
    as_json: bool,
    endpoint: str | None,
    timeout: float | None,
) -> None:
    """Say whether the daemon is ready, or one model.

    Ready: it does what its configuration promises. Models with `preload` are loaded once it has started, those with
    `pinned` stay, and the default one has not failed; models that come by need are ready to come. Asking wakes no
    model, keeps none in memory, and is answered however full the queues are.

    \b
    Exit codes:
      0  healthy
      1  it answers, and is not ready, or a model did not embed
      2  the question is wrong: no such model, or not for this user
      3  no daemon answers
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if wake and not deep:
        raise click.UsageError("--wake goes with --deep")
    # Nobody there is the answer: no waiting for one that may be starting.
    with Client(endpoint, timeout=TIMEOUT_SECONDS, patience=Patience(connect=0.0, reconnect=0.0)) as client:
        health = client.health(model, timeout=timeout and min(timeout, TIMEOUT_SECONDS)) if wake else None
        if health is None or health.error is None:
            default_seconds = WAKE_TIMEOUT_SECONDS if wake else TIMEOUT_SECONDS
            health = client.health(model, deep=deep, wake=wake, timeout=timeout or default_seconds)
    if as_json:
        put_json(asdict(health))
    else:
        _show(health)
    ctx.exit(exit_code_of(health))


def exit_code_of(health: Health) -> Exit:
    """0, 1, 2 for a question that is wrong, or 3 where nobody answers."""
    if not health.live:
        return Exit.UNREACHABLE
    if health.error in WRONG_QUESTIONS:
        return Exit.USAGE
    return Exit.OK if health.ok else Exit.FAILED


def _show(health: Health) -> None:
    put(_headline(health))
    for reason in health.why:
        say(reason)
    for warning in health.warnings:
        say(f"warning: {warning}")
    if health.models:
        put_table(("MODEL", "STATE", "READY", "WAITING", "EMBEDDED"), [_row(each) for each in health.models])


def _headline(health: Health) -> str:
    """In the words of the table's columns."""
    match exit_code_of(health):
        case Exit.OK:
            return "healthy"
        case Exit.USAGE:
            return "wrong question"
        case Exit.UNREACHABLE:
            return "no daemon answers"
        case _:
            return "ready, but not embedding" if health.ready else "not ready"


def _row(model: ModelHealth) -> tuple[str, ...]:
    waiting = f"{model.queued} (full)" if model.queue_full else str(model.queued)
    embedded = "-"
    if model.embedded is not None:
        embedded = f"in {duration(model.embedding_seconds)}" if model.embedded else "no"
    return (model.name, model.state, "yes" if model.ready else "no", waiting, embedded)
