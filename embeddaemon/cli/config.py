"""``config check`` and ``config show``: what ``serve`` would be told by files and environment, and by which of them."""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path

import click

from embeddaemon.cli.console import Exit, put, put_json, say, show_error
from embeddaemon.cli.model_checks import check_models
from embeddaemon.config import report
from embeddaemon.config.flags import Flags
from embeddaemon.config.given import dotted, mistake
from embeddaemon.config.loading import Loaded, load
from embeddaemon.errors import ConfigError, EmbedDaemonError
from embeddaemon.governor.budget import Budget, format_bytes

_config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this file alone."
)


@click.group(name="config", short_help="Check or show the configuration.")
def config_command() -> None:
    """Check or show the configuration that `serve` would use: files and EMBEDDAEMON_* variables."""


@config_command.command(name="check")
@_config_option
@click.pass_context
def config_check(ctx: click.Context, *, config_file: Path | None) -> None:
    """Say whether the configuration is right, and of every model what is wrong with it. Exit code 2 when something is.

    Looks into the folders of the models and at this machine too, and loads nothing. Models of the hub are not fetched
    for it.
    """
    loaded = _load(config_file)
    found = problems(loaded)
    for error in found:
        show_error(error)
    if found:
        ctx.exit(Exit.USAGE)
    for variable in loaded.ignored:
        say(f"note: {variable} is not one of ours and is passed over")
    files = ", ".join(str(path) for path in loaded.files) or "no file"
    put(f"the configuration is right ({files}; {len(loaded.settings.models)} model(s))")


@config_command.command(name="show", short_help="Print every value and where it came from.")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="For programs: key, value and origin.")
def config_show(*, config_file: Path | None, as_json: bool) -> None:
    """Print every value and where it came from, as a file that `serve --config` takes."""
    found = report.rows(_load(config_file))
    if as_json:
        put_json([{"key": dotted(row.key), "value": row.value, "origin": row.origin} for row in found])
    else:
        put(report.as_toml(found))


def _load(config_file: Path | None) -> Loaded:
    return load(config_file=config_file, environment=os.environ, flags=Flags())


def problems(loaded: Loaded) -> list[EmbedDaemonError]:
    """All that is wrong with the configured models and what they are to share, on this machine."""
    specs = loaded.settings.models
    if importlib.util.find_spec("psutil") is None:  # a client's install, which cannot serve
        return list(check_models(specs, loaded, None).errors.values())
    # Here and not above: `config show` and a client's install need no supervisor.
    from embeddaemon.governor.probes import probe_for_this_machine  # noqa: PLC0415
    from embeddaemon.supervisor.core import Supervisor  # noqa: PLC0415
    from embeddaemon.supervisor.events import CardRead  # noqa: PLC0415
    from embeddaemon.supervisor.memory.budgets import governor_for  # noqa: PLC0415
    from embeddaemon.supervisor.surroundings.machine import this_machine  # noqa: PLC0415

    machine = this_machine()
    checked = check_models(specs, loaded, machine.device)
    found = list(checked.errors.values())
    try:
        governor = governor_for(loaded.settings, probe_for_this_machine())
        _check_cache(loaded, governor.budget)
    except ConfigError as error:
        return [error, *found]
    supervisor = Supervisor(loaded.settings, machine, governor, random.random)
    for name, card in checked.cards.items():
        try:
            if card is not None:
                supervisor.learn_card(CardRead(name, card))
        except ConfigError as error:  # an estimate that cannot hold the model
            found.append(error)
    return found


def _check_cache(loaded: Loaded, budget: Budget) -> None:
    key = ("daemon", "cache_size")
    if loaded.settings.cache_bytes > budget.leasable_bytes:
        reason = (
            f"does not fit: at most {format_bytes(budget.leasable_bytes)} can be leased of a memory budget of "
            f"{format_bytes(budget.bytes)} ({budget.source})"
        )
        raise mistake(key, loaded.given[key], reason)
