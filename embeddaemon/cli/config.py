"""``config check`` and ``config show``: what ``serve`` would be told by files and environment, and by which of them."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Mapping
from pathlib import Path

import click

from embeddaemon.cli.console import put, put_json, say
from embeddaemon.config import report
from embeddaemon.config.flags import Flags
from embeddaemon.config.given import dotted, mistake
from embeddaemon.config.loading import Loaded, check_precision, load
from embeddaemon.errors import ConfigError, FailedLoad
from embeddaemon.governor.budget import Budget, format_bytes
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.sources import SourceKind, locate, parse_source
from embeddaemon.models.spec import ModelSpec

_config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this file alone."
)


@click.group(name="config", short_help="Check or show the configuration.")
def config_command() -> None:
    """Check or show the configuration that `serve` would use: files and EMBEDDAEMON_* variables."""


@config_command.command(name="check")
@_config_option
def config_check(*, config_file: Path | None) -> None:
    """Say whether the configuration is right. Exit code 2 when it is not.

    Looks into the folders of the models too, and loads none. Models of the hub are not fetched for it.
    """
    loaded = _load(config_file)
    cards = {spec.name: _card(spec) for spec in loaded.settings.models}
    _check_against_machine(loaded, {name: card for name, card in cards.items() if card is not None})
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


def _card(spec: ModelSpec) -> ModelCard | None:
    """What the model's folder says; None for a model of the hub."""
    source = parse_source(spec.source)
    if source.kind is SourceKind.HUB:
        return None
    try:
        return read_card(spec, locate(source))
    except FailedLoad as error:
        raise ConfigError(f"models.{spec.name}: {error.message}", cause=error.cause) from error


def _check_against_machine(loaded: Loaded, cards: Mapping[str, ModelCard]) -> None:
    """Raises ConfigError for what cannot hold on this machine: budget, cache, precisions, declared estimates."""
    if importlib.util.find_spec("psutil") is None:  # a client's install, which cannot serve
        return
    # Here and not above: `config show` and a client's install need no supervisor.
    from embeddaemon.governor.probes import probe_for_this_machine  # noqa: PLC0415
    from embeddaemon.supervisor.budgets import governor_for  # noqa: PLC0415
    from embeddaemon.supervisor.core import Supervisor  # noqa: PLC0415
    from embeddaemon.supervisor.events import CardRead  # noqa: PLC0415
    from embeddaemon.supervisor.machine import this_machine  # noqa: PLC0415

    settings, machine = loaded.settings, this_machine()
    governor = governor_for(settings, probe_for_this_machine())
    _check_cache(loaded, governor.budget)
    for spec in settings.models:
        check_precision(spec, machine.device if spec.device == "auto" else spec.device, loaded.given)
    supervisor = Supervisor(settings, machine, governor, random.random)
    for name, card in cards.items():
        supervisor.learn_card(CardRead(name, card))


def _check_cache(loaded: Loaded, budget: Budget) -> None:
    key = ("daemon", "cache_size")
    if loaded.settings.cache_bytes > budget.leasable_bytes:
        reason = (
            f"does not fit: at most {format_bytes(budget.leasable_bytes)} can be leased of a memory budget of "
            f"{format_bytes(budget.bytes)} ({budget.source})"
        )
        raise mistake(key, loaded.given[key], reason)
