"""What is wrong with the configured models, each by itself: for ``config check``, ``plan`` and ``doctor``.

Looks into folders and at this machine; loads nothing, and fetches nothing from the hub.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from embeddaemon.config.loading import Loaded, check_precision
from embeddaemon.errors import ConfigError, EmbedDaemonError, FailedLoad
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.sources import SourceKind, locate, parse_source
from embeddaemon.models.spec import ModelSpec

IN_EIGHT_BITS = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"})
"""Families of BERT's layout, for which int8 is computed."""


@dataclass(slots=True)
class Checked:
    """By model, in the order of the configuration: every one is in ``cards`` or in ``errors``."""

    cards: dict[str, ModelCard | None] = field(default_factory=dict)
    """None: of the hub, and not on this machine."""
    errors: dict[str, EmbedDaemonError] = field(default_factory=dict)
    """Why it cannot be served here; a message names the model."""


def check_models(specs: Iterable[ModelSpec], loaded: Loaded, device: str | None) -> Checked:
    """Look at all of them. ``device``: what ``auto`` is on this machine; None where nothing is served."""
    checked = Checked()
    for spec in specs:
        try:
            if device is not None:
                check_device(spec, device)
                check_precision(spec, device if spec.device == "auto" else spec.device, loaded.given)
            card = card_here(spec)
            if card is not None:
                _check_eight_bits(spec, card)
            checked.cards[spec.name] = card
        except EmbedDaemonError as error:
            checked.errors[spec.name] = error
    return checked


def check_device(spec: ModelSpec, device: str) -> None:
    """Raises ConfigError for a named device that this machine shows nothing of: no worker would ever load there."""
    kind = spec.device.partition(":")[0]
    if kind not in ("auto", "cpu", device):
        raise ConfigError(f'models.{spec.name}.device = "{spec.device}": there is no such device on this machine')


def card_here(spec: ModelSpec) -> ModelCard | None:
    """What the model's folder says; None for one of the hub that was never fetched. Raises ConfigError."""
    try:
        folder = folder_here(spec.source)
        return None if folder is None else read_card(spec, folder)
    except FailedLoad as error:
        key = f"models.{spec.name}"
        message = error.message if error.message.startswith(f"{key}.") else f"{key}: {error.message}"
        raise ConfigError(message, cause=error.cause) from error
    except OSError as error:
        where = error.filename or spec.source
        raise ConfigError(f"models.{spec.name}: {where} cannot be read: {error.strerror}") from error


def folder_here(source: str) -> Path | None:
    """Where a source's files are on this machine; None for one of the hub that was never fetched.

    Raises ModelNotFound.
    """
    parsed = parse_source(source)
    if parsed.kind is not SourceKind.HUB:
        return locate(parsed)
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    # Here and not above: the hub's library is an extra.
    from embeddaemon.workers.fetch import cached_folder  # noqa: PLC0415

    return cached_folder(source)


def _check_eight_bits(spec: ModelSpec, card: ModelCard) -> None:
    if spec.precision == "int8" and card.family not in IN_EIGHT_BITS:
        raise ConfigError(
            f'models.{spec.name}.precision = "int8": is computed for models of BERT\'s layout, not for this one '
            f"({card.family}); use auto, bfloat16 or float32"
        )
