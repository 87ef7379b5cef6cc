"""Jina embeddings v3 as it was converted for transformers (``jina_embeddings_v3``), by its own class.

An XLM-RoBERTa whose positions are rotations and begin at nought. The converted files keep the published names of the
layers, or have those of the class. Files with adapters for tasks beside each weight are refused (models/body.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import JinaEmbeddingsV3Config
from transformers.models.jina_embeddings_v3.modeling_jina_embeddings_v3 import JinaEmbeddingsV3Model

from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.decoders import translated
from embeddaemon.workers.engines.torch_engine.families.native import Native, Tensors, forward

# Published to the class's, as transformers' conversion_mapping.py has them.
_RENAMED = (
    ("emb_ln.", "embeddings.LayerNorm."),
    ("encoder.layers.", "layers."),
    (".mixer.out_proj.", ".self_attn.o_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
)
_PACKED = ".mixer.Wqkv."
_PARTS = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")


def family(_: str) -> Family:
    """See families/__init__.py."""
    native = Native(
        config_class=JinaEmbeddingsV3Config,
        model_class=JinaEmbeddingsV3Model,
        arguments={"add_pooling_layer": False},
        translate=translate,
        prefixes=("roberta.",),
        rename=rename,
    )
    return Family(build=native.build, forward=forward)


def translate(config: Mapping[str, object]) -> dict[str, object]:
    """What JinaEmbeddingsV3Config reads."""
    values = translated(config, "jina_embeddings_v3")
    if "rotary_emb_base" in config:  # theta, as the code that came with the first files called it
        values.setdefault("rope_theta", config["rotary_emb_base"])
    return {**values, "chunk_size_feed_forward": 0}


def rename(tensors: Tensors) -> Tensors:
    """The class's names; queries, keys and values divided by rows. Parts share the packed one's memory."""
    renamed: Tensors = {}
    for name in list(tensors):
        values, ours = tensors.pop(name), name
        for theirs, new in _RENAMED:
            ours = ours.replace(theirs, new)
        if _PACKED not in ours or values.shape[0] % len(_PARTS):
            renamed[ours] = values
            continue
        for part, rows in zip(_PARTS, values.chunk(len(_PARTS)), strict=True):
            renamed[ours.replace(_PACKED, part)] = rows
    return renamed
