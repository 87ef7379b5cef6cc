"""EmbeddingGemma (``gemma3_text``) by transformers' own class: most layers see only what is near, in both directions.

The published window is the width of what a token sees; the config class makes it a radius, once. Words are multiplied
by the root of the hidden size, and gains of norms count from one: both are in the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

from embeddaemon.errors import UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.decoders import translated
from embeddaemon.workers.engines.torch_engine.families.native import Native, forward


def _scale_words(model: nn.Module) -> None:
    words: Any = model.get_submodule("embed_tokens")
    words.embed_scale = nn.Buffer(torch.tensor(words.scalar_embed_scale), persistent=False)


_NATIVE = Native(
    config_class=Gemma3TextConfig,
    model_class=Gemma3TextModel,
    translate=lambda config: translated(config, "gemma3_text"),
    prefixes=("model.",),
    finish=_scale_words,
)


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """As ``Native.build``. Raises UnsupportedModel for float16 too."""
    if dtype is torch.float16:
        raise UnsupportedModel(f"{card.folder}: in float16 this family overflows; load it in bfloat16 or float32")
    return _NATIVE.build(config, card, dtype)


def family(_: str) -> Family:
    """See families/__init__.py."""
    return Family(build=build, forward=forward)
