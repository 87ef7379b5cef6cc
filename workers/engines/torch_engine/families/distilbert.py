"""DistilBERT and ELECTRA: BERT by other names. They are built as BERT, so that they are computed as fast as it is.

DistilBERT has no token types: as BERT it has one, which adds nothing. ELECTRA is BERT, unless its tables are narrower
than the model and a layer widens what was found in them (``embeddings_project``): that one is left to its own class.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import BertConfig, ElectraConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.electra.modeling_electra import ElectraModel

from embeddaemon.models.card import ModelCard
from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.native import Native, Tensors, forward
from embeddaemon.workers.engines.torch_engine.families.numbers import whole

_TYPE_TABLE = "embeddings.token_type_embeddings.weight"

# DistilBERT's names to BERT's, in the order in which a name is looked through.
_RENAMED = (
    ("transformer.layer.", "encoder.layer."),
    (".attention.q_lin.", ".attention.self.query."),
    (".attention.k_lin.", ".attention.self.key."),
    (".attention.v_lin.", ".attention.self.value."),
    (".attention.out_lin.", ".attention.output.dense."),
    (".sa_layer_norm.", ".attention.output.LayerNorm."),
    (".ffn.lin1.", ".intermediate.dense."),
    (".ffn.lin2.", ".output.dense."),
    (".output_layer_norm.", ".output.LayerNorm."),
)


def family(name: str) -> Family:
    """See families/__init__.py."""
    return Family(build=_build_electra if name == "electra" else _DISTILBERT.build, forward=forward)


def _distilbert_as_bert(config: Mapping[str, object]) -> dict[str, object]:
    """Raises CorruptModel."""
    return {
        "hidden_act": config.get("activation", "gelu"),
        "hidden_size": whole(config, "dim"),
        "intermediate_size": whole(config, "hidden_dim"),
        "layer_norm_eps": 1e-12,  # DistilBERT's class has it as a constant
        "max_position_embeddings": whole(config, "max_position_embeddings"),
        "num_attention_heads": whole(config, "n_heads"),
        "num_hidden_layers": whole(config, "n_layers"),
        "type_vocab_size": 1,
    }


def _bert_names(tensors: Tensors) -> Tensors:
    """And a type that adds nothing."""
    renamed: Tensors = {}
    for name in list(tensors):
        ours = name
        for theirs, new in _RENAMED:
            ours = ours.replace(theirs, new)
        renamed[ours] = tensors.pop(name)
    words = renamed.get("embeddings.word_embeddings.weight")
    if words is not None and _TYPE_TABLE not in renamed:
        renamed[_TYPE_TABLE] = torch.zeros(1, words.shape[-1], dtype=words.dtype)
    return renamed


def _in_one_piece(config: Mapping[str, object]) -> dict[str, object]:
    """Feed-forward layers can be told to work in pieces of so many tokens, which a packed row is no multiple of."""
    return {**config, "chunk_size_feed_forward": 0}


def _build_electra(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """Raises CorruptModel, UnsupportedModel."""
    is_widened = whole(config, "embedding_size") != whole(config, "hidden_size")
    return (_ELECTRA if is_widened else _ELECTRA_AS_BERT).build(config, card, dtype)


_DISTILBERT = Native(
    config_class=BertConfig,
    model_class=BertModel,
    arguments={"add_pooling_layer": False},
    translate=_distilbert_as_bert,
    prefixes=("distilbert.",),
    rename=_bert_names,
)
_ELECTRA_AS_BERT = Native(
    config_class=BertConfig,
    model_class=BertModel,
    arguments={"add_pooling_layer": False},
    translate=_in_one_piece,
    prefixes=("electra.",),
)
_ELECTRA = Native(config_class=ElectraConfig, model_class=ElectraModel, translate=_in_one_piece, prefixes=("electra.",))
