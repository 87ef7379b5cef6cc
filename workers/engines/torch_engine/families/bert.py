"""BERT: transformers' own ``BertModel``, given one row of texts laid end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from embeddaemon.errors import CorruptModel
from embeddaemon.models.card import ModelCard
from embeddaemon.workers import checkpoint
from embeddaemon.workers.engines.torch_engine import attention

# What stands before the names in a checkpoint of a class with a head.
_PREFIXES = ("bert.",)


def build(config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
    """The model with the card's weights, on the CPU, ready for inference. Raises CorruptModel."""
    try:
        bert_config = BertConfig.from_dict(dict(config))
        bert_config._attn_implementation = attention.NAME  # noqa: SLF001 (where transformers looks for it)
        # On meta nothing is allocated and nothing initialised: the checkpoint's tensors become the parameters.
        with torch.device("meta"):
            model = BertModel(bert_config, add_pooling_layer=False)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise CorruptModel(f"{card.transformer_folder}/config.json makes no BERT: {error}") from error
    checkpoint.assign(model, checkpoint.read_tensors(card, dtype), card, prefixes=_PREFIXES)
    # Buffers that no checkpoint has; transformers fills them when a model is built with memory.
    positions = bert_config.max_position_embeddings
    model.embeddings.position_ids = nn.Buffer(torch.arange(positions).expand((1, -1)), persistent=False)
    model.embeddings.token_type_ids = nn.Buffer(torch.zeros((1, positions), dtype=torch.long), persistent=False)
    model.requires_grad_(requires_grad=False)
    model.train(mode=False)
    return model


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
