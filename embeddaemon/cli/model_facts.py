"""What is known of a model, and who says so: facts for ``models show`` and ``models inspect``. No torch, no daemon."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from embeddaemon.cli.model_checks import folder_here
from embeddaemon.cli.model_load import Tried
from embeddaemon.cli.plan import planned_model, planning_state
from embeddaemon.config.settings import Settings
from embeddaemon.errors import EmbedDaemonError, FailedLoad, UnsupportedModel
from embeddaemon.governor.footprint import Footprint
from embeddaemon.governor.probes import probe_for_this_machine
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.published import Published
from embeddaemon.models.sources import parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import card_of, known
from embeddaemon.supervisor.surroundings.machine import this_machine

FOLDER, TABLE, CONFIGURATION = "folder", "table", "configuration"
"""Who says something."""

_DECLARED = {
    "max_tokens": "max_tokens",
    "pooling": "pooling",
    "normalize": "normalize",
    "prompts": "prompts",
    "default_task": "default_task",
    "dimensions": "dimensions",
    "cut_after_layer_norm": None,
    "licence": None,
}
"""Fields of a card that others than the folder may decide, and the field of a spec that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One model. Without a card nothing is known but why."""

    name: str
    source: str
    is_configured: bool
    folder: str | None = None
    card: ModelCard | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    """Who decided a field of the card: FOLDER, TABLE or CONFIGURATION; the folder where it is not listed."""
    entry: Published | None = None
    """Of the table."""
    footprint: Footprint | None = None
    """Of one worker and its template here; None where the daemon is not installed."""
    tried: Tried | None = None
    """What came of loading it; None where nobody asked for that, or it failed."""
    error: EmbedDaemonError | None = None
    """Why it cannot be served."""


def facts_of(spec: ModelSpec, settings: Settings, *, is_configured: bool) -> Facts:
    """What folder, table and configuration say of a model. What is wrong with it is told, not raised."""
    entry = known(parse_source(spec.source), spec.name)
    facts = Facts(name=spec.name, source=spec.source, is_configured=is_configured, entry=entry)
    try:
        folder = folder_here(spec.source)
        if folder is None:
            return facts if entry is None else _from_table(facts, spec, entry, settings)
        facts = replace(facts, folder=str(folder))
        card = read_card(spec, folder)
        found = replace(facts, card=card, origins=_origins(spec, card, _plain(folder)))
        return replace(found, footprint=_footprint(spec, card, settings))
    except FailedLoad as error:
        return replace(facts, error=error)
    except OSError as error:
        return replace(facts, error=FailedLoad(f"{error.filename or spec.source} cannot be read: {error.strerror}"))


def _from_table(facts: Facts, spec: ModelSpec, entry: Published, settings: Settings) -> Facts:
    card = replace(card_of(entry), name=spec.name, source=spec.source)
    refusal = f"the layout of {entry.organisations[0]}/{entry.name} is not served; that of {entry.served_as} is"
    return replace(
        facts,
        card=card,
        origins=dict.fromkeys(_DECLARED, TABLE),
        footprint=_footprint(spec, card, settings),
        error=None if entry.served_as is None else UnsupportedModel(refusal),
    )


def _plain(folder: Path) -> ModelCard:
    """What the folder says alone: by a source and a name that no table knows."""
    return read_card(ModelSpec(name="-", source="path:-"), folder)


def _origins(spec: ModelSpec, card: ModelCard, plain: ModelCard) -> dict[str, str]:
    origins = {}
    for name, declared in _DECLARED.items():
        if declared is not None and getattr(spec, declared):
            origins[name] = CONFIGURATION
        elif getattr(card, name) != getattr(plain, name):
            is_mixed = name == "prompts" and any(plain.prompts.values())
            origins[name] = f"{FOLDER} and {TABLE}" if is_mixed else TABLE
    return origins


def _footprint(spec: ModelSpec, card: ModelCard, settings: Settings) -> Footprint | None:
    """As ``plan`` has it. Raises ConfigError for a declared estimate that cannot be right."""
    if importlib.util.find_spec("psutil") is None:
        return None
    alone = replace(settings, models=(spec,), default_model=spec.name)
    state = planning_state(alone, probe_for_this_machine(), this_machine())
    model = state.models[spec.name]
    planned_model(state, model, card)
    return model.footprint
