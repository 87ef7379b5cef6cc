"""EuroBERT by transformers' own class: built like a Llama, but every token sees all others."""

from __future__ import annotations

from transformers import EuroBertConfig
from transformers.models.eurobert.modeling_eurobert import EuroBertModel

from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.decoders import translated
from embeddaemon.workers.engines.torch_engine.families.native import Native, forward


def family(_: str) -> Family:
    """See families/__init__.py."""
    native = Native(
        config_class=EuroBertConfig,
        model_class=EuroBertModel,
        translate=lambda config: translated(config, "eurobert"),
        prefixes=("model.",),
    )
    return Family(build=native.build, forward=forward)
