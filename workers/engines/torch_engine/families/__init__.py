"""How each family is built and called; one module per family, imported when the first of its models is loaded.

A module has ``family(name) -> Family`` for the names that ``_MODULES`` gives it. Families whose class is transformers'
own are built by native.py; bert.py alone is imported by the fork server, for it is what nearly everybody loads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from embeddaemon.errors import UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.model import Encode
from embeddaemon.workers.engines.torch_engine.row import Positions, positions_of

Build = Callable[[Mapping[str, object], ModelCard, torch.dtype], nn.Module]
"""config.json, card and dtype to the model with its weights, on the CPU. Raises CorruptModel, UnsupportedModel."""

Forward = Callable[[nn.Module, torch.Tensor, torch.Tensor, Sequence[LengthGroup]], torch.Tensor]
"""The model, ids and positions (tokens,) and the texts among them, to the last hidden state (tokens, hidden)."""


def _from_zero(_: nn.Module) -> Positions:
    return positions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family as the engine uses it."""

    build: Build
    forward: Forward
    positions: Callable[[nn.Module], Positions] = _from_zero
    """How the built model counts."""
    functional: Callable[[nn.Module], Encode] | None = None
    """A faster form of the forward, made of the built model where it is. It holds its own weights: the model may go."""


_MODULES = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "camembert": "bert",
    "qwen2": "decoders",
    "qwen3": "decoders",
    "mistral": "decoders",
    "llama": "decoders",
    "gemma3": "gemma",
    "nv-embed": "nv_embed",
    "distilbert": "distilbert",
    "electra": "distilbert",
    "gte": "gte",
    "nomic": "nomic",
    "nomic-moe": "nomic_moe",
    "modernbert": "modernbert",
    "eurobert": "eurobert",
    "jina-v3": "jina_v3",
    "mpnet": "mpnet",
    "deberta": "deberta",
    "jina-v2": "jina_v2",
    "jina-v2-code": "jina_v2",
}
"""By the card's family: its module in this package."""


def family_of(card: ModelCard) -> Family:
    """How the card's model is built and called. Raises UnsupportedModel."""
    name = _MODULES.get(card.family)
    if name is None:
        raise UnsupportedModel(f"{card.folder}: the family {card.family} is not served by the torch engine")
    module = importlib.import_module(f"{__name__}.{name}")
    find = cast("Callable[[str], Family]", module.family)  # an import by name has no types
    return find(card.family)
