"""Qwen2, Qwen3, Mistral and Llama, by transformers' own classes: causal, or as encoders where the card says so.

Each token sees those before it, or all: that is decided with the card (models/body.py), since some folders say it only
by the code that they came with. The classes are causal in themselves, so their attention is told at every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mistral.modeling_mistral import MistralModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.native import Native


def translated(config: Mapping[str, object], kind: str) -> dict[str, object]:
    """What the config class ``kind`` reads."""
    # The id of the padding token only says whose gradient is nought.
    return {**config, "model_type": kind, "pad_token_id": None, "use_cache": False}


def _native(config_class: type[PreTrainedConfig], model_class: type) -> Native:
    kind = config_class.model_type
    return Native(
        config_class=config_class,
        model_class=model_class,
        translate=lambda config: translated(config, kind),
        prefixes=("model.",),
    )


_FAMILIES = {
    "qwen2": _native(Qwen2Config, Qwen2Model),
    "qwen3": _native(Qwen3Config, Qwen3Model),
    "mistral": _native(MistralConfig, MistralModel),
    "llama": _native(LlamaConfig, LlamaModel),
}


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """As ``Native.build``; whether the model is causal is the card's word."""
    return _FAMILIES[card.family].build({**config, "is_causal": card.is_causal}, card, dtype)


def forward(
    model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
    config: Any = model.config  # transformers': each family has its own class
    output = model(
        input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), groups=groups, is_causal=config.is_causal
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def family(_: str) -> Family:
    """See families/__init__.py."""
    return Family(build=build, forward=forward)
