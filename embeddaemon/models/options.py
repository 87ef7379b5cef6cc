"""Options of config.json that the forward of a family does not compute: refused by name and value. Pure, mostly data.

What is not refused here is either computed, or changes only how the published code computes the same. From the model
cards, the published code and the classes of transformers 5. How the served values are computed is the engine's
business, which takes for granted that nothing else comes to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embeddaemon.errors import UnsupportedModel
from embeddaemon.models.jsonfile import JsonFile

_Served = Mapping[str, tuple[object, ...]]
"""By key, the values that are computed right, the usual one first; an absent key is that one."""

_EVERYWHERE: _Served = {"quantization_config": (None,)}

_ENCODER: _Served = {"is_decoder": (False, None)}
_ABSOLUTE: _Served = {**_ENCODER, "position_embedding_type": ("absolute", None)}
_BOTH_WAYS: _Served = {**_ENCODER, "is_causal": (None, False)}

# ``rotary_scaling_factor`` only changes what lies beyond the trained length, which the card does not go to.
_NOMIC: _Served = {
    **_ENCODER,
    "causal": (False,),
    "parallel_block": (False,),
    "prenorm": (False,),
    "rotary_emb_fraction": (1.0, 1),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_rms_norm": (False, None),
}
_JINA_V2: _Served = {**_ENCODER, "hidden_act": ("gelu",)}

_SERVED: Mapping[str, _Served] = {
    "bert": _ABSOLUTE,
    "roberta": _ABSOLUTE,
    "xlm-roberta": _ABSOLUTE,
    "camembert": _ABSOLUTE,
    "distilbert": _ENCODER,
    "electra": _ABSOLUTE,
    "deberta": _ENCODER,
    "mpnet": {**_ENCODER, "hidden_act": ("gelu",), "pad_token_id": (1,), "relative_attention_num_buckets": (32,)},
    "modernbert": {**_BOTH_WAYS, "rope_scaling": (None,)},
    "eurobert": _BOTH_WAYS,
    "jina-v2": _JINA_V2,
    "jina-v2-code": _JINA_V2,
    "jina-v3": _BOTH_WAYS,
    "gte": {
        **_ENCODER,
        "hidden_act": ("gelu",),
        "position_embedding_type": ("rope",),
        "layer_norm_type": ("layer_norm",),
        "logn_attention_scale": (False,),
        "logn_attention_clip1": (False,),
    },
    "nomic": {
        **_NOMIC,
        "activation_function": ("swiglu",),
        "mlp_fc1_bias": (False,),
        "mlp_fc2_bias": (False,),
        "qkv_proj_bias": (False,),
    },
    "nomic-moe": {
        **_NOMIC,
        "activation_function": ("gelu",),
        "expert_choice_router": (False,),
        "ffn_div": (1.0, 1),
        "mlp_fc1_bias": (True,),
        "mlp_fc2_bias": (True,),
        "moe_normalize_expert_weights": (False,),
        "num_shared_experts": (0,),
        "qkv_proj_bias": (True,),
    },
    "nv-embed": _ENCODER,
    "gemma3": {"is_causal": (None, True), "attn_logit_softcapping": (None,)},
}

_STATED: Mapping[str, Mapping[str, object]] = {
    family: {"position_embedding_type": "alibi", "feed_forward_type": "geglu"} for family in ("jina-v2", "jina-v2-code")
}
"""What the config must say, since the published classes compute something else where it says nothing."""

_ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2"),
    *("relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh"),
)
"""That transformers 5 has by name, without parameters that are trained; whatever a family's key for it is."""
_ACTIVATION_KEYS: Mapping[str, str] = {
    "distilbert": "activation",
    "modernbert": "hidden_activation",
    "gemma3": "hidden_activation",
}
"""Where it is not ``hidden_act``."""

_ROTATIONS = ("default", "linear", "yarn", "llama3")
"""Whose rotation of a token follows from its position alone. With ``dynamic`` and ``longrope`` it follows from the
longest text beside it as well."""
_DECODERS = frozenset({"qwen2", "qwen3", "mistral", "llama", "gemma3", "eurobert", "jina-v3", "nv-embed"})
"""Families whose rotations are set as those of decoders."""


def refuse_options(config: JsonFile, family: str) -> None:
    """Raises UnsupportedModel for what has the family's name and is something else, CorruptModel for what is no option.

    ``family``: one of body.py's.
    """
    _refuse_layout(config, family)
    served = {**_EVERYWHERE, **_SERVED.get(family, {})}
    if family == "gemma3" and config.values.get("use_bidirectional_attention") is True:
        # Who sees in both directions says so by the family's own key; then the other one may say what it wants.
        served["is_causal"] = (None, True, False)
    _refuse_others(config, served)
    for key, value in _STATED.get(family, {}).items():
        _refuse_others(JsonFile(config.path, {key: config.values.get(key)}), {key: (value,)})
    if family not in {"nomic", "nomic-moe"}:
        _refuse_activation(config.section("text_config") if family == "nv-embed" else config, family)
    if family in _DECODERS:
        _refuse_rotations(config.section("text_config") if family == "nv-embed" else config)
    elif family == "gte":
        _refuse_angles_of_gte(config)
    elif family == "modernbert":
        for name in config.mapping("rope_parameters"):
            kind = config.section("rope_parameters").section(name)
            _refuse_others(kind, {"rope_type": ("default", "linear")}, f"rope_parameters.{name}.")
    elif family in {"nomic", "nomic-moe"} and "rotary_emb_base" not in config.values:
        _refuse_others(config.section("rope_parameters"), {"rope_type": ("default",)}, "rope_parameters.")


def _refuse_others(config: JsonFile, served: _Served, before: str = "") -> None:
    """``before``: where the keys stand, for messages."""
    for key, values in served.items():
        value = config.values.get(key, values[0])
        if not any(type(value) is type(known) and value == known for known in values):
            raise _refusal(config.path, f"{before}{key}", value, values)


def _refusal(path: Path, key: str, value: object, served: tuple[object, ...]) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path}: {key} is {str(value)[:80]!r}, which is not served; "
        f"served is {' or '.join(str(known) for known in served)}"
    )


def _refuse_activation(config: JsonFile, family: str) -> None:
    """Nomic's have a key and values of their own, above."""
    key = _ACTIVATION_KEYS.get(family, "hidden_act")
    value = config.values.get(key, "gelu")
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise UnsupportedModel(f"{config.path}: {key} is {str(value)[:80]!r}, which is no activation that is known")


def _refuse_layout(config: JsonFile, family: str) -> None:
    if family == "xlm-roberta" and "xlm-roberta-flash-implementation" in f"{config.mapping('auto_map')}":
        raise UnsupportedModel(
            f"{config.path}: the original layout of Jina v3, whose adapters need its own code, is not served; "
            "the converted one is (jinaai/jina-embeddings-v3-hf)"
        )


def _refuse_rotations(config: JsonFile) -> None:
    """Settings of rotations are one for all layers, or one for each kind of layer.

    In new folders they hold theta too; in old ones it stands beside them.
    """
    _refuse_others(config, {"partial_rotary_factor": (1.0, 1, None)})
    for key in ("rope_scaling", "rope_parameters"):
        settings = config.section(key)
        kinds = [name for name, value in settings.values.items() if isinstance(value, dict)]
        for rotation in (settings, *(settings.section(name) for name in kinds)):
            served = {"rope_type": _ROTATIONS, "type": _ROTATIONS, "partial_rotary_factor": (1.0, 1)}
            _refuse_others(rotation, served, f"{key}.")


def _refuse_angles_of_gte(config: JsonFile) -> None:
    """What the published code calls ``ntk`` is converted; in new folders the library's words stand instead."""
    newer, scaling = config.section("rope_parameters"), config.section("rope_scaling")
    if newer.values:
        _refuse_others(newer, {"rope_type": ("default", "linear")}, "rope_parameters.")
    elif scaling.values:
        named = {"type": scaling.values.get("type", scaling.values.get("rope_type"))}
        _refuse_others(JsonFile(config.path, named), {"type": ("ntk",)}, "rope_scaling.")
        _refuse_others(scaling, {"mixed_b": (None,)}, "rope_scaling.")
