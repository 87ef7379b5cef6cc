"""``models show`` and ``models inspect``: what is known of one model, whether it can be served, and who says what."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embeddaemon.cli import connect
from embeddaemon.cli.console import Exit, count, put, put_json, say
from embeddaemon.cli.model_served import document_of, lines_of, served_model, unit_length
from embeddaemon.config.flags import Flags
from embeddaemon.config.loading import load
from embeddaemon.config.settings import Settings
from embeddaemon.errors import ConfigError, EmbedDaemonError, UnsafeModel
from embeddaemon.governor.budget import format_bytes
from embeddaemon.models.card import ModelCard
from embeddaemon.models.licences import is_non_commercial
from embeddaemon.models.nearest import hint
from embeddaemon.models.published_models import PUBLISHED
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import published
from embeddaemon.protocol.error_codec import error_to_map

if TYPE_CHECKING:
    from embeddaemon.cli.model_facts import Facts
    from embeddaemon.cli.model_load import Tried

_WIDTH = 13


@click.command(name="show", short_help="Show all that is known of a model.")
@click.argument("name")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this file alone.")
@click.option("--model", "models", multiple=True, metavar="NAME=SOURCE", help="One more model; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@connect.endpoint_option
@click.pass_context
def show_command(
    ctx: click.Context,
    *,
    name: str,
    config_file: Path | None,
    models: tuple[str, ...],
    as_json: bool,
    endpoint: str | None,
) -> None:
    """Show all that is known of NAME.

    That is a model which the running daemon serves, else a configured one, else a published one that the built-in table
    has; by NAME, ORG/NAME or hub:ORG/NAME.

    With --config or --model no daemon is asked. What does not come from the model's own folder is marked: (table) or
    (configuration).

    Exit code 0, or 1 when the model cannot be served as it is.
    """
    # Here and not above: `status` and its sisters need nothing of all this.
    from embeddaemon.cli.model_facts import facts_of  # noqa: PLC0415

    served = None if config_file or models else served_model(name, endpoint)
    if served is not None:
        where, info = served
        if as_json:
            put_json(document_of(where, info))
        else:
            for label, text in lines_of(where, info):
                _line(label, text)
        ctx.exit(Exit.FAILED if info.error else Exit.OK)
    settings = _settings(name, config_file, models)
    configured = _configured(name, settings)
    spec = configured or _spec_of_table(name, [each.name for each in settings.models])
    facts = facts_of(spec, settings, is_configured=configured is not None)
    _show(facts, as_json=as_json)
    ctx.exit(Exit.OK if facts.error is None else Exit.FAILED)


@click.command(name="inspect", short_help="Say of folders what model each is, and whether it can be served.")
@click.argument("places", metavar="DIR...", nargs=-1, required=True)
@click.option("--load", "is_loaded", is_flag=True, help="Load it too, and compute one text.")
@click.option("--json", "as_json", is_flag=True, help="For programs; of several folders a list.")
@click.pass_context
def inspect_command(ctx: click.Context, *, places: tuple[str, ...], is_loaded: bool, as_json: bool) -> None:
    """Say of each DIR what model is in it, whether it can be served and how, and why not if not.

    Reads configurations and the headers of weights; no daemon is asked, and nothing is loaded without --load. DIR may
    be any source: package:NAME, or hub:ORG/NAME where it was fetched before.

    Exit code 0 when all can be served, 1 when one cannot.
    """
    found = [_inspected(where, is_loaded=is_loaded) for where in places]
    if as_json:
        documents = [
            _document(facts) | ({"tried": facts.tried and asdict(facts.tried)} if is_loaded else {}) for facts in found
        ]
        put_json(documents[0] if len(documents) == 1 else documents)
    for number, (where, facts) in enumerate(zip(places, found, strict=True)):
        if not as_json:
            if number:
                put("")
            _show(facts, as_json=False)
        if facts.folder is None and facts.error is None:
            say(f"{where} was not fetched yet: what is said comes from the built-in table")
    can_be_served = all(facts.error is None and facts.folder is not None for facts in found)
    ctx.exit(Exit.OK if can_be_served else Exit.FAILED)


def _inspected(where: str, *, is_loaded: bool) -> Facts:
    # Here and not above: as in `show`.
    from embeddaemon.cli.model_facts import facts_of  # noqa: PLC0415
    from embeddaemon.cli.model_load import try_to_load  # noqa: PLC0415

    is_source = where.partition(":")[0] in {"package", "hub", "path"}
    source = where if is_source else f"path:{Path(where).expanduser().absolute()}"
    name = source.rstrip("/").rpartition("/")[2].rpartition(":")[2] or "model"
    spec = ModelSpec(name=name, source=source)
    facts = facts_of(spec, Settings(endpoint="", models=(spec,), default_model=name), is_configured=False)
    if not is_loaded or facts.folder is None or facts.card is None:
        return facts
    try:
        return replace(facts, tried=try_to_load(spec, facts.card))
    except EmbedDaemonError as error:
        return replace(facts, error=error)


def _configured(name: str, settings: Settings) -> ModelSpec | None:
    """By its name, else by where it comes from on the hub."""
    source = f"hub:{name.removeprefix('hub:')}"
    by_name = (spec for spec in settings.models if spec.name == name)
    return next(by_name, None) or next((spec for spec in settings.models if spec.source == source), None)


def _settings(name: str, config_file: Path | None, models: tuple[str, ...]) -> Settings:
    """As configured; where that cannot be read and the table has the model, nothing but defaults."""
    try:
        return load(config_file=config_file, environment=os.environ, flags=Flags(models=models)).settings
    except ConfigError as error:
        if published(name.removeprefix("hub:")) is None:
            raise
        say(f"note: the configuration is not used: {error.message}")
        return Settings(endpoint="", models=(), default_model="")


def _spec_of_table(name: str, configured: list[str]) -> ModelSpec:
    entry = published(name.removeprefix("hub:"))
    if entry is not None:
        return ModelSpec(name=entry.name, source=entry.source)
    if name.startswith("hub:") and "/" in name:  # of the hub, and perhaps on this machine
        return ModelSpec(name=name.rpartition("/")[2], source=name)
    names = [*configured, *(each.name for each in PUBLISHED)]
    raise ConfigError(f"{name!r} is neither configured nor in the built-in table; {hint(name, names)}")


def _show(facts: Facts, *, as_json: bool) -> None:
    if as_json:
        put_json(_document(facts))
        return
    _line("model", f"{facts.name}{'' if facts.is_configured else ' (not configured)'}")
    _line("source", facts.source)
    _line("folder", facts.folder or _why_no_folder(facts))
    if facts.card is not None:
        _put_card(facts, facts.card)
    if facts.error is not None:
        _line("served", f"no: {facts.error.message}")
    elif facts.folder is not None:
        _line("served", "yes")
    if facts.tried is not None:
        _line("loaded", _tried(facts.tried))


def _why_no_folder(facts: Facts) -> str:
    if isinstance(facts.error, UnsafeModel):
        return "there, and not looked into"
    return "not on this machine"


def _put_card(facts: Facts, card: ModelCard) -> None:
    gate = ", gated" if card.gated else ""
    sees = ", each token sees those before it" if card.is_causal else ""
    _line("family", f"{card.family}: {card.layers} layers of {card.hidden}, {card.attention_heads} heads{gate}{sees}")
    others = [str(size) for size in card.dimensions if size != card.dim]
    also = f", or {' '.join(others)}" if others else ""
    _line("dimensions", f"{card.dim}{also}{_mark(facts, 'dimensions')}")
    _line("longest text", f"{card.max_tokens} tokens{_mark(facts, 'max_tokens')}")
    pooling = " and ".join(mode.value for mode in card.pooling) or "its folder says"
    _line("pooling", f"{pooling}{_mark(facts, 'pooling')}")
    _line("unit length", f"{_unit_length(facts, card)}{_mark(facts, 'normalize')}")
    for task, prompt in sorted(card.prompts.items()):
        _line("task", f'{task}: "{_shown(prompt)}"{_mark(facts, "prompts")}')
    if card.default_task is not None:
        _line("default task", f"{card.default_task}{_mark(facts, 'default_task')}")
    _line("licence", f"{card.licence or 'not known'}{_mark(facts, 'licence')}")
    _line("parameters", count(card.parameters))
    if facts.folder is not None:
        _line("weights", f"{format_bytes(card.weights_bytes)} in {len(card.weights_files)} file(s)")
    if facts.footprint is not None:
        _line("memory", _memory(facts))
    for note in card.notes:
        _line("note", note)


def _line(label: str, text: str) -> None:
    put(f"{label:<{_WIDTH}} {text}")


def _tried(tried: Tried) -> str:
    return (
        f"in {tried.load_seconds:.1f} s, in {tried.precision} on {tried.device}; one text gave {tried.dim} dimensions "
        f"in {1000 * tried.embed_seconds:.0f} ms"
    )


def _mark(facts: Facts, name: str) -> str:
    origin = facts.origins.get(name)
    return f" ({origin})" if origin else ""


def _shown(prompt: str) -> str:
    return prompt.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _unit_length(facts: Facts, card: ModelCard) -> str:
    if facts.folder is None and facts.entry is not None and facts.entry.normalizes is None:
        return "its folder says"
    return unit_length(normalizes=card.normalize)


def _memory(facts: Facts) -> str:
    footprint = facts.footprint
    assert footprint is not None
    worker = f"each worker {format_bytes(footprint.worker_bytes)}"
    template = f"template {format_bytes(footprint.template_bytes)}, " if footprint.template_bytes else ""
    device = f", {format_bytes(footprint.device_bytes)} of the device" if footprint.device_bytes else ""
    return f"{template}{worker}{device}"


def _document(facts: Facts) -> dict[str, Any]:
    card, footprint = facts.card, facts.footprint
    document: dict[str, Any] = {
        "name": facts.name,
        "source": facts.source,
        "is_configured": facts.is_configured,
        "folder": facts.folder,
        "can_be_served": facts.error is None and facts.folder is not None,
        "error": None if facts.error is None else error_to_map(facts.error),
    }
    if card is None:
        return document
    document |= {
        "family": card.family,
        "hidden": card.hidden,
        "layers": card.layers,
        "attention_heads": card.attention_heads,
        "key_value_heads": card.key_value_heads,
        "is_causal": card.is_causal,
        "dim": card.dim,
        "dimensions": list(card.dimensions),
        "max_tokens": card.max_tokens,
        "pooling": [mode.value for mode in card.pooling] or None,
        "normalize": card.normalize,
        "prompts": dict(card.prompts),
        "default_task": card.default_task,
        "licence": card.licence,
        "is_non_commercial": is_non_commercial(card.licence),
        "parameters": card.parameters,
        "weights_bytes": card.weights_bytes if facts.folder else None,
        "notes": list(card.notes),
        "origins": dict(facts.origins),
        "estimate": None,
    }
    if footprint is not None:
        document["estimate"] = {
            "template_bytes": footprint.template_bytes,
            "template_peak_bytes": footprint.template_peak_bytes,
            "worker_bytes": footprint.worker_bytes,
            "worker_peak_bytes": footprint.worker_peak_bytes,
            "device_bytes": footprint.device_bytes,
        }
    return document
