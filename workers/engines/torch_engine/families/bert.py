"""BERT and the families of its layout (RoBERTa, XLM-RoBERTa, CamemBERT): transformers' own classes, given one row.

The texts lie end to end in the row. In which of the positions they begin is in roberta.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, CamembertConfig, PreTrainedConfig, RobertaConfig, XLMRobertaConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.camembert.modeling_camembert import CamembertModel
from transformers.models.roberta.modeling_roberta import RobertaModel
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaModel

from embeddaemon.models.card import ModelCard
from embeddaemon.workers import checkpoint
from embeddaemon.workers.engines.torch_engine import attention
from embeddaemon.workers.engines.torch_engine.families import Family, roberta
from embeddaemon.workers.engines.torch_engine.families.native import NOT_BUILT, not_built, prepare

# By the card's family: its configuration, and its class given one.
_CLASSES: dict[str, tuple[type[PreTrainedConfig], type[nn.Module]]] = {
    "bert": (BertConfig, BertModel),
    "roberta": (RobertaConfig, RobertaModel),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel),
    "camembert": (CamembertConfig, CamembertModel),
}

# What stands before the names in a checkpoint of a class with a head.
_PREFIXES = ("bert.", "roberta.")


def family(name: str) -> Family:
    """See families/__init__.py."""
    if name == "bert":
        return Family(build=build, forward=forward)
    return Family(build=build, forward=forward, positions=roberta.positions_of_model)


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """The model with the card's weights, on the CPU, ready for inference. Raises CorruptModel."""
    config_class, model_class = _CLASSES[card.family]
    try:
        bert_config: Any = config_class.from_dict(dict(config))  # each class has fields of its own
        prepare(bert_config)
        bert_config.chunk_size_feed_forward = 0  # pieces of so many tokens, which a packed row is no multiple of
        # On meta nothing is allocated and nothing initialised: the checkpoint's tensors become the parameters.
        with torch.device("meta"):
            model: Any = model_class(bert_config, add_pooling_layer=False)
    except NOT_BUILT as error:
        raise not_built(error, config, card) from error
    checkpoint.assign(model, checkpoint.read_tensors(card, dtype), card, prefixes=_PREFIXES)
    # Buffers that no checkpoint has; transformers fills them when a model is built with memory.
    positions = bert_config.max_position_embeddings
    model.embeddings.position_ids = nn.Buffer(torch.arange(positions).expand((1, -1)), persistent=False)
    model.embeddings.token_type_ids = nn.Buffer(torch.zeros((1, positions), dtype=torch.long), persistent=False)
    model.requires_grad_(requires_grad=False)
    model.train(mode=False)
    built: nn.Module = model
    return built


def forward(
    model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[attention.LengthGroup]
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
    output = model(
        input_ids=ids.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        token_type_ids=torch.zeros_like(ids).unsqueeze(0),
        groups=groups,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden
