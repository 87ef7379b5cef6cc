"""``status``, ``ps``, ``models``, ``load``, ``unload``: what the daemon says about itself, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from embeddaemon.cli import connect
from embeddaemon.cli.calibrate import calibrate_command
from embeddaemon.cli.console import count, duration, put, put_json, put_table, say
from embeddaemon.cli.memory import (
    processes_of,
    put_devices,
    put_leases,
    put_pressure,
    put_processes,
    put_quarantined,
    put_waiting,
)
from embeddaemon.cli.model_show import inspect_command, show_command
from embeddaemon.cli.trouble import put_config, put_refused, put_users
from embeddaemon.client.results import ModelInfo
from embeddaemon.client.sync import Client

LOAD_TIMEOUT_SECONDS = 600.0
"""A large model from a slow disk, or from the hub."""

_ENDS = ("answered", "failed", "expired", "cancelled", "refused")
"""How requests end."""

_CHANGES = ("added", "removed", "replaced", "changed")
"""What a reload leads to at once."""

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
    counts = ", ".join(f"{requests.get(name, 0)} {name}" for name in _ENDS)
    put(f"requests  {counts}; {status.get('queued', 0)} waiting")
    put_refused(status)
    put_users(status)
    put_config(status)
    memory = status.get("memory", {})
    put_pressure(memory)
    put_waiting(memory)
    put("")
    put_devices(memory)
    put_quarantined(status)
    put("")
    _put_models(status)
    put("")
    put_leases(status)


def _up(status: Mapping[str, Any]) -> str:
    return duration(status.get("uptime_seconds"))


def _put_models(status: Mapping[str, Any]) -> None:
    workers = [worker.get("model") for worker in status.get("workers", [])]
    rows = []
    for model in status.get("models", []):
        name = str(model.get("name"))
        rows.append((name, str(model.get("state", "-")), str(workers.count(name)), str(model.get("queued", 0))))
    put_table(("MODEL", "STATE", "WORKERS", "WAITING"), rows)


@click.command(name="ps", short_help="List the daemon's processes.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs, and more of each worker.")
@connect.endpoint_option
@connect.timeout_option()
def ps_command(*, as_json: bool, endpoint: str | None, timeout: float) -> None:
    """List the daemon's processes, one per line, with the memory that each was promised and what it holds.

    DECLARED is what it was promised before it started, LEASED what it is promised now, MEASURED its private memory,
    PEAK the most that it ever held. HELD counts the requests that a worker holds. `--json` gives the same as
    `processes`, and what else is known of the workers as `workers`.
    """
    with Client(endpoint, timeout=timeout) as client:
        status = client.status()
    if as_json:
        put_json({"processes": processes_of(status), "workers": status.get("workers", [])})
    else:
        put_processes(status)
        put_quarantined(status)


@click.group(
    name="models", invoke_without_command=True, short_help="List the configured models; show, inspect or calibrate one."
)
@_json_option
@click.option("-l", "--long", "is_long", is_flag=True, help="With licence, parameters, and what surprises people.")
@connect.endpoint_option
@connect.timeout_option()
@click.pass_context
def models_command(
    ctx: click.Context, /, *, as_json: bool, is_long: bool, endpoint: str | None, timeout: float
) -> None:
    """List the configured models; * marks the model, and the task, that is taken when a request names none.

    The first of the dimensions is the default.
    """
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
    if is_long:
        _put_long(models)
    for model in models:
        if model.error:
            say(f"{model.name} failed: {model.error}")


for _command in (show_command, inspect_command, calibrate_command):
    models_command.add_command(_command)


def _put_long(models: Sequence[ModelInfo]) -> None:
    put("")
    rows = [(model.name, model.family or "-", count(model.parameters), model.licence or "-") for model in models]
    put_table(("MODEL", "FAMILY", "PARAMETERS", "LICENCE"), rows)
    for model in models:
        for note in model.notes:
            put(f"{model.name}: {note}")


def _model_row(model: ModelInfo, default: str | None) -> tuple[str, ...]:
    others = [size for size in model.dimensions if size != model.dimension]
    dimensions = ([model.dimension] if model.dimension else []) + others
    tasks = [f"{task}*" if task == model.default_task else task for task in model.tasks]
    return (
        f"{model.name}{' *' if model.name == default else ''}",
        model.state,
        " ".join(map(str, dimensions)) or "-",
        str(model.max_tokens or "-"),
        " ".join(tasks) or "-",
        model.device or "-",
        model.precision or "-",
        model.source or "-",
    )


@click.command(name="load", short_help="Bring a model into memory.")
@click.argument("name")
@click.option(
    "--force", is_flag=True, help="Load it anew if it is loaded, and at once if it is held back after failures."
)
@connect.endpoint_option
@connect.timeout_option(LOAD_TIMEOUT_SECONDS)
def load_command(*, name: str, force: bool, endpoint: str | None, timeout: float) -> None:
    """Bring the model NAME into memory, so that the next request need not wait for it.

    With --force one that is loaded gets new workers, from its files as they are now. They take over without a gap: the
    old ones answer what they hold. It also ends a quarantine, and forgets which texts workers died of.
    """
    with Client(endpoint, timeout=timeout) as client:
        client.load(name, force=force)
    say(f"{name} is loaded")


@click.command(name="reload", short_help="Have the daemon read its configuration again.")
@click.option("--json", "as_json", is_flag=True, help="What changed, for programs.")
@connect.endpoint_option
@connect.timeout_option()
def reload_command(*, as_json: bool, endpoint: str | None, timeout: float) -> None:
    """Have the daemon read its configuration again, as SIGHUP does, and say what changed.

    It reads the files, the environment and the flags of its start. A configuration that is wrong changes nothing (exit
    code 2). Models that need new workers get them without a gap; `embeddaemon load NAME --force` does that by hand.
    """
    with Client(endpoint, timeout=timeout) as client:
        changes = client.reload()
    if as_json:
        put_json(changes)
        return
    put(f"read     {', '.join(changes.get('files', [])) or 'no file'}")
    for what in _CHANGES:
        if changes.get(what):
            put(f"{what:<8} {', '.join(changes[what])}")
    if not any(changes.get(what) for what in (*_CHANGES, "restart_needed")):
        put("nothing has changed")
    for key, reason in changes.get("restart_needed", {}).items():
        say(f"{key} stays as it is until the daemon is started again: {reason}")


@click.command(name="unload", short_help="Give a model's memory back.")
@click.argument("name")
@connect.endpoint_option
@connect.timeout_option(LOAD_TIMEOUT_SECONDS)
def unload_command(*, name: str, endpoint: str | None, timeout: float) -> None:
    """Finish what the workers of model NAME hold and stop them. A later request loads it again."""
    with Client(endpoint, timeout=timeout) as client:
        client.unload(name)
    say(f"{name} is unloaded")
