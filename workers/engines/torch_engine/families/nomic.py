"""NomicBERT without experts, by transformers' class: nomic-embed-text v1 and v1.5, CodeRankEmbed, arctic-embed-m-long.

The published config has GPT-2's keys, which the class passes by without a word for sizes of its own; so every one is
translated here. With experts: nomic_moe.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import NomicBertConfig
from transformers.models.nomic_bert.modeling_nomic_bert import NomicBertModel

from embeddaemon.errors import CorruptModel
from embeddaemon.workers.engines.torch_engine.families import Family, rotary
from embeddaemon.workers.engines.torch_engine.families.native import Native, Tensors, forward
from embeddaemon.workers.engines.torch_engine.families.numbers import number, section, whole

# Where both are there, the first is what the published code reads.
_SIZES = (
    ("n_embd", "hidden_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_inner", "intermediate_size"),
    ("n_positions", "max_position_embeddings"),
)

# In the order in which a name is looked through: published to the class's.
_RENAMED = (
    ("encoder.layers.", "layers."),
    ("emb_ln.", "embeddings.LayerNorm."),
    (".attn.out_proj.", ".self_attn.o_proj."),
    (".mlp.fc11.", ".mlp.up_proj."),
    (".mlp.fc12.", ".mlp.gate_proj."),
    (".mlp.fc2.", ".mlp.down_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
)
_PACKED = ".attn.Wqkv."
_PARTS = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")


def family(_: str) -> Family:
    """See families/__init__.py."""
    native = Native(
        config_class=NomicBertConfig,
        model_class=NomicBertModel,
        translate=translate,
        prefixes=("nomic_bert.", "bert."),
        rename=rename,
    )
    return Family(build=native.build, forward=forward, functional=rotary.functional)


def translate(config: Mapping[str, object]) -> dict[str, object]:
    """The published config.json as NomicBertConfig reads it. Raises CorruptModel."""
    return {**common(config), "chunk_size_feed_forward": 0, "hidden_act": "silu"}


def common(config: Mapping[str, object]) -> dict[str, object]:
    """What a NomicBERT with experts has too, as NomicBertConfig reads it. Raises CorruptModel."""
    sizes = {ours: whole(config, _first(config, theirs, ours)) for theirs, ours in _SIZES}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise CorruptModel(f"config.json: {sizes['hidden_size']} dimensions, {sizes['num_attention_heads']} heads")
    return {
        **sizes,
        "layer_norm_eps": number(config, _first(config, "layer_norm_epsilon", "layer_norm_eps")),
        "pad_token_id": config.get("pad_token_id") or 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": _theta(config)},
        "type_vocab_size": whole(config, "type_vocab_size"),
    }


def _theta(config: Mapping[str, object]) -> float:
    """The base of the rotation's angles. Raises CorruptModel."""
    newer = section(config, "rope_parameters")
    if "rotary_emb_base" in config or not newer:
        return number(config, "rotary_emb_base")
    return number(newer, "rope_theta")


def _first(config: Mapping[str, object], *keys: str) -> str:
    """The first key that says something, else the first."""
    return next((key for key in keys if config.get(key) is not None), keys[0])


def rename(tensors: Tensors) -> Tensors:
    """The class's names; query, key and value divided by rows. Parts share the packed tensor's memory."""
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
