"""``models calibrate``: finds the scales of int8 on the user's own texts. Runs here, with no daemon."""

from __future__ import annotations

import importlib.util
import os
from itertools import islice
from pathlib import Path

import click

from embeddaemon.cli import texts
from embeddaemon.cli.acting import acting_as_owner_of
from embeddaemon.cli.console import put, say
from embeddaemon.cli.serve import DAEMON_MODULES
from embeddaemon.config.flags import Flags
from embeddaemon.config.loading import load
from embeddaemon.config.settings import Settings
from embeddaemon.errors import ConfigError, InvalidInput
from embeddaemon.models.folder import read_card
from embeddaemon.models.nearest import hint
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.sources import SourceKind, locate, parse_source
from embeddaemon.models.spec import ModelSpec

_FEWEST_TEXTS = 32
"""Of which a fourth measure: fewer than these say nothing about the lowest cosine."""
_MOST_TEXTS = 2000
"""More find no other ranges, and take minutes."""


@click.command(name="calibrate", short_help="Find the scales of int8 on your own texts.")
@click.argument("name")
@click.option(
    "--file",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="One text per line (.jsonl: field `text`). Default: the prose that comes with the program.",
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this configuration alone."
)
def calibrate_command(*, name: str, source: Path | None, config_file: Path | None) -> None:
    """Find the scales of int8 for the model NAME on texts like those that it will meet, and keep them.

    Needs no daemon, and the texts leave this process in no form but ranges of numbers. Run it as the user that runs the
    daemon, or as root for the system's service: then it computes and writes as the user of that service. A daemon that
    has the model in memory uses the new scales after `embeddaemon unload NAME`.
    """
    settings = load(config_file=config_file, environment=os.environ, flags=Flags()).settings
    spec = _spec_of(name, settings)
    chosen = None if source is None else _texts_of(source)
    if missing := [module for module in DAEMON_MODULES if importlib.util.find_spec(module) is None]:
        raise ConfigError(
            f"calibrating computes ({', '.join(missing)} missing): `pip install 'embeddaemon[daemon]'`, "
            "where the daemon runs"
        )
    _calibrate(spec, settings, source, chosen)


def _calibrate(spec: ModelSpec, settings: Settings, source: Path | None, chosen: list[str] | None) -> None:
    # Here and not above: the engine imports torch, which a client's install has not and which takes seconds.
    from embeddaemon.workers.engines.torch_engine.int8.calibration import (  # noqa: PLC0415
        check_accuracy,
        own_prose,
        prose_from,
    )
    from embeddaemon.workers.engines.torch_engine.loading import calibrate  # noqa: PLC0415

    prose = own_prose() if source is None or chosen is None else prose_from(source.name, chosen)
    say(f"calibrating {spec.name} on {len(prose.calibrate)} texts, measuring on {len(prose.held_out)} others")
    with acting_as_owner_of(Path(settings.state_folder or "/")):
        calibration = calibrate(_order_for(spec, settings), prose)
    found = calibration.accuracy
    put(f"lowest cosine  {found.lowest:.4f}")
    put(f"mean cosine    {found.mean:.4f}")
    say(f"kept in {settings.state_folder}, for the next load of {spec.name}")
    if not spec.accept_inaccurate:
        check_accuracy(spec.name, calibration)


def _spec_of(name: str, settings: Settings) -> ModelSpec:
    for spec in settings.models:
        if spec.name == name:
            return spec
    names = [spec.name for spec in settings.models]
    raise ConfigError(f"{name!r} is not a configured model; {hint(name, names)}")


def _texts_of(source: Path) -> list[str]:
    read = texts.read_jsonl if source.suffix == ".jsonl" else texts.read_lines
    with source.open("rb") as file:
        chosen = list(dict.fromkeys(islice(read(file, str(source)), _MOST_TEXTS + 1)))
    if len(chosen) < _FEWEST_TEXTS:
        raise InvalidInput(f"{source} has {len(chosen)} different texts; calibrating needs at least {_FEWEST_TEXTS}")
    if len(chosen) > _MOST_TEXTS:
        say(f"note: the first {_MOST_TEXTS} texts of {source} are used")
    return chosen[:_MOST_TEXTS]


def _order_for(spec: ModelSpec, settings: Settings) -> LoadOrder:
    return LoadOrder(
        card=read_card(spec, _folder_of(spec)),
        device=spec.device,
        precision="int8",
        token_budget=spec.token_budget,
        limits=settings.limits,
        state_folder=settings.state_folder,
        accept_inaccurate=spec.accept_inaccurate,
    )


def _folder_of(spec: ModelSpec) -> Path:
    source = parse_source(spec.source)
    if source.kind is not SourceKind.HUB:
        return locate(source)
    # Here and not above: the hub's library is an extra.
    from embeddaemon.workers.fetch import fetch  # noqa: PLC0415

    return fetch(spec.source)
