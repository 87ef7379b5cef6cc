"""ModernBERT, by transformers' own class: some layers see the whole text, the others only what is near.

The published ``local_attention`` is the width of what a token sees: half of it to each side. The class takes it so, and
tells the attention; both kinds of layers turn by a theta of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import ModernBertConfig
from transformers.models.modernbert.modeling_modernbert import ModernBertModel

from embeddaemon.errors import CorruptModel
from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.native import Native, forward
from embeddaemon.workers.engines.torch_engine.families.numbers import section, whole

# What the published code reads, and may be left out; so where it stands, it has to be what it should.
_WHOLE = ("global_attn_every_n_layers", "local_attention")
_KINDS = ("full_attention", "sliding_attention")


def family(_: str) -> Family:
    """See families/__init__.py."""
    native = Native(
        config_class=ModernBertConfig, model_class=ModernBertModel, translate=translate, prefixes=("model.",)
    )
    return Family(build=native.build, forward=forward)


def translate(config: Mapping[str, object]) -> dict[str, object]:
    """The published config.json as ModernBertConfig reads it. Raises CorruptModel."""
    for key in _WHOLE:
        if key in config:
            whole(config, key)
    values = dict(config)
    if values.get("local_rope_theta", 0.0) is None:  # in the published code: that of the other layers
        del values["local_rope_theta"]
        if "global_rope_theta" in config:
            values["local_rope_theta"] = config["global_rope_theta"]
    if not section(config, "rope_parameters").keys() <= set(_KINDS):
        raise CorruptModel("config.json: rope_parameters must be by kind of layer")
    # The id of the padding token only says whose gradient is nought.
    return {**values, "pad_token_id": None}
