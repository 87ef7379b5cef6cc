"""Options of a config.json that no forward here computes: refused with the card, by file, name and value. Tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.body import FAMILIES
from embeddaemon.models.jsonfile import JsonFile
from embeddaemon.models.options import refuse_options
from tests.support.checkpoints import write_json
from tests.support.embedding import card_of
from tests.support.families.gte import TinyGte

JINA = {"position_embedding_type": "alibi", "feed_forward_type": "geglu"}
FLASH = {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.X"}
DECODERS = ("qwen2", "qwen3", "mistral", "llama", "gemma3", "eurobert", "jina-v3")

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((family, {"is_decoder": True}, "is_decoder is 'True'") for family in FAMILIES if family not in DECODERS[:5]),
    *((family, {"quantization_config": {"bits": 4}}, "quantization_config") for family in FAMILIES),
    *(
        (family, {"position_embedding_type": "relative_key"}, "is 'relative_key', which is not served; served is absol")
        for family in ("bert", "roberta", "camembert", "electra")
    ),
    ("xlm-roberta", {"position_embedding_type": "rotary"}, "is 'rotary', which is not served"),
    ("xlm-roberta", {"auto_map": FLASH}, "jina-embeddings-v3-hf"),
    *(
        (family, config, said)
        for family in DECODERS
        for config, said in (
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is '0.5'"),
            ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"rope_scaling\.type is 'dynamic'"),
            ({"rope_parameters": {"rope_type": "longrope"}}, r"rope_parameters\.rope_type is 'longrope'"),
            ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_type is 'dynamic'"),
            ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is '0.25'"),
        )
    ),
    ("nv-embed", {"text_config": {"rope_scaling": {"type": "dynamic"}}}, "is 'dynamic'"),
    *((family, {"is_causal": True}, "is_causal is 'True'") for family in ("modernbert", "eurobert", "jina-v3")),
    ("modernbert", {"rope_scaling": {"type": "linear"}}, "rope_scaling is"),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
        r"rope_parameters\.full_attention\.rope_type is 'yarn'",
    ),
    ("gemma3", {"is_causal": False}, "is_causal is 'False'"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is '50.0'"),
    ("gte", {"logn_attention_scale": True}, "logn_attention_scale is 'True'"),
    ("gte", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("gte", {"rope_scaling": {"type": "dynamic"}}, r"rope_scaling\.type is 'dynamic'"),
    ("gte", {"rope_scaling": {"factor": 2.0}}, r"rope_scaling\.type is 'None'"),
    ("gte", {"rope_scaling": {"rope_type": "ntk", "mixed_b": 0.6}}, r"rope_scaling\.mixed_b is '0.6'"),
    ("gte", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ("nomic", {"prenorm": True}, "prenorm is 'True'"),
    ("nomic", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction is '0.5'"),
    ("nomic", {"activation_function": "gelu"}, "activation_function is 'gelu'"),
    ("nomic", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_type is 'dynamic'"),
    ("nomic-moe", {"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights is 'True'"),
    ("nomic-moe", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved is 'True'"),
    ("mpnet", {"pad_token_id": 0}, "pad_token_id is '0'"),
    ("jina-v2", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("jina-v2", {"feed_forward_type": "reglu"}, "feed_forward_type is 'reglu'"),
    ("jina-v2-code", {"position_embedding_type": None}, "position_embedding_type is 'None'"),
]

SERVED: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("qwen2", {"is_decoder": True, "is_causal": False}),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
    ("gemma3", {"is_causal": False, "use_bidirectional_attention": True}),
    ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}),
    ("gte", {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": None}, "hidden_act": "gelu"}),
    ("nomic", {"use_rms_norm": None, "rotary_emb_fraction": 1, "rotary_scaling_factor": 2.0}),
    ("nomic", {"rotary_emb_base": 1000, "rope_parameters": {"rope_type": "dynamic"}}),
    ("modernbert", {"is_causal": False, "rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}),
]


def refuse(family: str, config: dict[str, Any]) -> None:
    stated = JINA if family.startswith("jina-v2") else {}
    refuse_options(JsonFile(Path("folder/config.json"), {**stated, **config}), family)


@pytest.mark.parametrize(("family", "config", "said"), REFUSED)
def test_option_that_is_not_computed_is_refused_by_file_name_and_value(
    family: str, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsupportedModel, match=said) as caught:
        refuse(family, config)
    assert caught.value.message.startswith("folder/config.json: ")


@pytest.mark.parametrize(("family", "config"), SERVED)
def test_what_is_computed_is_let_through(family: str, config: dict[str, Any]) -> None:
    refuse(family, config)


@pytest.mark.parametrize("family", ["gte", "qwen2", "modernbert", "nomic"])
def test_settings_that_are_no_map_are_corrupt(family: str) -> None:
    with pytest.raises(CorruptModel, match=r"folder/config.json: 'rope_parameters' must be a map"):
        refuse(family, {"rope_parameters": 3})


def test_folder_with_such_an_option_has_no_card(tmp_path: Path) -> None:
    """Guards: ``models inspect`` calls served what no worker can load."""
    folder = TinyGte().write(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "logn_attention_scale": True})
    with pytest.raises(UnsupportedModel, match=f"^{folder}/config.json: logn_attention_scale is 'True'"):
        card_of(folder)
