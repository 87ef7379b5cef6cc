"""``status``, ``ps``, ``models``, ``load``, ``unload``: what the daemon says about itself, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from embeddaemon.cli import connect
from embeddaemon.cli.calibrate import calibrate_command
from embeddaemon.cli.console import duration, put, put_json, put_table, say
from embeddaemon.client.results import ModelInfo
from embeddaemon.client.sync import Client
from embeddaemon.governor.budget import format_bytes

LOAD_TIMEOUT_SECONDS = 600.0
"""A large model from a slow disk, or from the hub."""

_json_option = click.option("--json", "as_json", is_flag=True, help="The daemon's own document, for programs.")


@click.command(name="status", short_help="Show what the daemon is doing: models, requests, memory.")
@_json_option
@connect.endpoint_option
@connect.timeout_option()
def status_command(*, as_json: bool, endpoint: str | None, timeout: float) -> None:
    """Show what the daemon is doing: models, requests, memory."""
    with Client(endpoint, timeout=timeout) as client:
        status = client.status()
    if as_json:
        put_json(status)
        return
    state = "draining" if status.get("draining") else "running"
    put(f"daemon    embeddaemon {status.get('version')}, pid {status.get('pid')}, {state} for {_up(status)}")
    requests = status.get("requests", {})
    counts = ", ".join(f"{requests.get(name, 0)} {name}" for name in ("answered", "failed", "expired", "refused"))
    put(f"requests  {counts}; {status.get('queued', 0)} waiting")
    put(f"memory    {_memory(status.get('memory', {}))}")
    put("")
    _put_models(status)
    put("")
    _put_leases(status.get("memory", {}))


def _up(status: Mapping[str, Any]) -> str:
    return duration(status.get("uptime_seconds"))


def _memory(memory: Mapping[str, Any]) -> str:
    return (
        f"{_bytes(memory.get('leased_bytes'))} leased of {_bytes(memory.get('budget_bytes'))}, "
        f"{_bytes(memory.get('headroom_bytes'))} headroom; limit {_bytes(memory.get('limit_bytes'))} "
        f"({memory.get('limit_source', 'unknown')})"
    )


def _put_models(status: Mapping[str, Any]) -> None:
    workers = [worker.get("model") for worker in status.get("workers", [])]
    rows = []
    for model in status.get("models", []):
        name = str(model.get("name"))
        note = model.get("waiting_for") or ""
        rows.append((name, str(model.get("state", "-")), str(workers.count(name)), str(model.get("queued", 0)), note))
    put_table(("MODEL", "STATE", "WORKERS", "WAITING", ""), rows)


def _put_leases(memory: Mapping[str, Any]) -> None:
    leases = memory.get("leases", [])
    rows = [(str(one.get("holder")), _bytes(one.get("bytes")), _bytes(one.get("resident_bytes"))) for one in leases]
    put_table(("MEMORY OF", "LEASED", "USED"), rows)


@click.command(name="ps", short_help="List the daemon's workers.")
@_json_option
@connect.endpoint_option
@connect.timeout_option()
def ps_command(*, as_json: bool, endpoint: str | None, timeout: float) -> None:
    """List the daemon's workers: one line per process, with its private memory and what it was leased."""
    with Client(endpoint, timeout=timeout) as client:
        workers = client.status().get("workers", [])
    if as_json:
        put_json(workers)
        return
    headings = ("MODEL", "WORKER", "PID", "STATE", "IN FLIGHT", "PRIVATE", "LEASE", "IDLE")
    put_table(headings, [_worker_row(worker) for worker in workers])


def _worker_row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(worker.get("model", "-")),
        f"{worker.get('worker', '-')}.{worker.get('incarnation', '-')}",
        str(worker.get("pid") or "-"),
        str(worker.get("state", "-")),
        str(worker.get("in_flight", "-")),
        _bytes(worker.get("private_bytes")),
        _bytes(worker.get("lease_bytes")),
        "-" if worker.get("busy") else duration(worker.get("idle_seconds")),
    )


@click.group(
    name="models", invoke_without_command=True, short_help="List the configured models; calibrate one for int8."
)
@_json_option
@connect.endpoint_option
@connect.timeout_option()
@click.pass_context
def models_command(ctx: click.Context, /, *, as_json: bool, endpoint: str | None, timeout: float) -> None:
    """List the configured models; * marks the one that is asked when a request names none."""
    if ctx.invoked_subcommand is not None:
        return
    with Client(endpoint, timeout=timeout) as client:
        default = client.hello().default_model
        models = client.models()
    if as_json:
        put_json({"default_model": default, "models": [asdict(model) for model in models]})
        return
    headings = ("MODEL", "STATE", "DIMENSIONS", "MAX TOKENS", "TASKS", "DEVICE", "PRECISION", "SOURCE")
    put_table(headings, [_model_row(model, default) for model in models])
    for model in models:
        if model.error:
            say(f"{model.name} failed: {model.error}")


models_command.add_command(calibrate_command)


def _model_row(model: ModelInfo, default: str | None) -> tuple[str, ...]:
    dimensions = model.dimensions or ((model.dimension,) if model.dimension else ())
    return (
        f"{model.name}{' *' if model.name == default else ''}",
        model.state,
        " ".join(map(str, dimensions)) or "-",
        str(model.max_tokens or "-"),
        " ".join(model.tasks) or "-",
        model.device or "-",
        model.precision or "-",
        model.source or "-",
    )


@click.command(name="load", short_help="Bring a model into memory.")
@click.argument("name")
@connect.endpoint_option
@connect.timeout_option(LOAD_TIMEOUT_SECONDS)
def load_command(*, name: str, endpoint: str | None, timeout: float) -> None:
    """Bring the model NAME into memory, so that the next request need not wait for it."""
    with Client(endpoint, timeout=timeout) as client:
        client.load(name)
    say(f"{name} is loaded")


@click.command(name="unload", short_help="Give a model's memory back.")
@click.argument("name")
@connect.endpoint_option
@connect.timeout_option(LOAD_TIMEOUT_SECONDS)
def unload_command(*, name: str, endpoint: str | None, timeout: float) -> None:
    """Finish what the workers of model NAME hold and stop them. A later request loads it again."""
    with Client(endpoint, timeout=timeout) as client:
        client.unload(name)
    say(f"{name} is unloaded")


def _bytes(count: object) -> str:
    return format_bytes(count) if isinstance(count, int) else "-"
