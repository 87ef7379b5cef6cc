"""Encoders of BERT's layout without modules: Q, K and V in one product, packed weights, one compiled forward.

Built from transformers' loaded class, which stays the reference: tests hold the two equal. A short text is half as long
under way, because most of its time is Python and operators, not arithmetic. For layouts that differ: families/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard, cast

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertLayer, BertModel
from transformers.models.camembert.modeling_camembert import CamembertModel
from transformers.models.roberta.modeling_roberta import RobertaModel
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaModel

from embeddaemon.workers.engines.torch_engine import forward
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.blocks import blocks_of
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.linear import packed

BertLike = BertModel | RobertaModel | XLMRobertaModel | CamembertModel
"""The same modules by the same names; they differ in where positions begin, which their callers know (families/)."""


def suits(model: nn.Module) -> TypeGuard[BertLike]:
    """Whether a model is of exactly this layout; what is not known to be is left to its own class."""
    return isinstance(model, BertLike) and model.config.hidden_act == "gelu" and not model.config.is_decoder


class Encoder:
    """The functional form of one loaded model. Shares its embeddings and norms, packs its linear layers anew."""

    def __init__(self, model: BertLike) -> None:
        self._heads: int = model.config.num_attention_heads
        self._eps: float = model.config.layer_norm_eps
        self._weights = weights_of(model)
        self._dtype = self._weights[0][0].dtype
        self._compute = compiled(forward.forward)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
        return self._compute(
            ids, positions, blocks_of(groups, self._dtype, len(ids)), self._weights, heads=self._heads, eps=self._eps
        )


def weights_of(model: BertLike) -> list[list[torch.Tensor]]:
    """The embeddings' (words, positions, norm, its bias), then each layer's, as forward.py takes them."""
    layers = [_layer(cast("BertLayer", layer)) for layer in model.encoder.layer]  # to mypy a list of modules only
    return [_embeddings(model), *layers]


def _embeddings(model: BertLike) -> list[torch.Tensor]:
    """Of words, of places, and their norm."""
    embeddings = model.embeddings
    words = embeddings.word_embeddings.weight.detach()
    # Every token is of the first type, so its vector can be part of the position's.
    positions = embeddings.position_embeddings.weight.float() + embeddings.token_type_embeddings.weight[0].float()
    return [words, positions.detach().to(words.dtype), *_parameters(embeddings.LayerNorm)]


def _layer(layer: BertLayer) -> list[torch.Tensor]:
    """Weight and bias of all that a layer has, in the order in which forward.py takes them."""
    heads, output = layer.attention.self, layer.attention.output
    parts = (heads.query, heads.key, heads.value)
    return [
        packed(torch.cat([part.weight for part in parts])),
        torch.cat([part.bias for part in parts]).detach(),
        *_packed_parameters(output.dense),
        *_parameters(output.LayerNorm),
        *_packed_parameters(layer.intermediate.dense),
        *_packed_parameters(layer.output.dense),
        *_parameters(layer.output.LayerNorm),
    ]


def _packed_parameters(dense: nn.Linear) -> list[torch.Tensor]:
    return [packed(dense.weight), dense.bias.detach()]


def _parameters(norm: nn.LayerNorm) -> list[torch.Tensor]:
    return [norm.weight.detach(), norm.bias.detach()]
