"""GTE, as its models were published with code of their own (``model_type`` ``new`` or ``gte``), by transformers' class.

gte-base-en-v1.5, gte-large-en-v1.5, gte-multilingual-base, arctic-embed-m-v2.0, and the body of Stella 400M. A layer is
post-norm; query, key, value and the two halves of the gated feed-forward part lie packed in the files.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import GteConfig
from transformers.models.gte.modeling_gte import GteModel

from embeddaemon.workers.engines.torch_engine.families import Family, rotary
from embeddaemon.workers.engines.torch_engine.families.native import Native, Tensors, forward
from embeddaemon.workers.engines.torch_engine.families.numbers import number, section, whole

# In the order in which a name is looked through: published to the class's.
_RENAMED = (
    ("encoder.layer.", "layers."),
    (".attention.", ".self_attn."),
    (".attn_ln.", ".post_attention_layernorm."),
    (".mlp_ln.", ".post_mlp_layernorm."),
)

# A packed tensor's name, and its equal parts by rows.
_PACKED = {
    ".qkv_proj.": (".q_proj.", ".k_proj.", ".v_proj."),
    ".up_gate_proj.": (".up_proj.", ".gate_proj."),
}


def family(_: str) -> Family:
    """See families/__init__.py."""
    native = Native(
        config_class=GteConfig, model_class=GteModel, translate=translate, prefixes=("new.", "gte."), rename=rename
    )
    return Family(build=native.build, forward=forward, functional=rotary.functional)


def translate(config: Mapping[str, object]) -> dict[str, object]:
    """The published config.json as GteConfig reads it. Raises CorruptModel."""
    return {
        **{key: value for key, value in config.items() if key not in {"auto_map", "rope_scaling", "rope_theta"}},
        "model_type": "gte",
        "chunk_size_feed_forward": 0,
        "rope_parameters": rope(config),
    }


def rope(config: Mapping[str, object]) -> dict[str, object]:
    """The angles of the rotation, which the published code calls ``ntk`` where they are stretched.

    With theta b, factor s and d dimensions per head its i-th frequency is (b s)^(-2i/d) / s^(2/d) at every length: what
    is elsewhere a linear stretch by s^(2/d) with theta b s (model card of gte-large-en-v1.5; TEI and vLLM do the same).
    Raises CorruptModel.
    """
    newer = section(config, "rope_parameters")
    if newer:
        return {**newer, "rope_theta": number(newer, "rope_theta")}
    theta, scaling = number(config, "rope_theta"), section(config, "rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": theta}
    head_dim = whole(config, "hidden_size") // whole(config, "num_attention_heads")
    factor = number(scaling, "factor")
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head_dim)}


def rename(tensors: Tensors) -> Tensors:
    """The class's names; what is packed in the file divided by rows. Parts share the packed one's memory."""
    renamed: Tensors = {}
    for name in list(tensors):
        values, ours = tensors.pop(name), name
        for theirs, new in _RENAMED:
            ours = ours.replace(theirs, new)
        parts = next((mark for mark in _PACKED if mark in ours), None)
        if parts is None or values.shape[0] % len(_PACKED[parts]):
            renamed[ours] = values
            continue
        for part, rows in zip(_PACKED[parts], values.chunk(len(_PACKED[parts])), strict=True):
            renamed[ours.replace(parts, part)] = rows
    return renamed
