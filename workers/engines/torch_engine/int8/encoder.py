"""A loaded model and a plan to what ``forward.py`` computes with: smoothed and quantised weights, norms, codes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertLayer

from embeddaemon.config.hardware import computes_bfloat16
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.blocks import blocks_of
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.encoder import BertLike
from embeddaemon.workers.engines.torch_engine.int8 import forward
from embeddaemon.workers.engines.torch_engine.int8.arithmetic import codes_by, projection, scratch
from embeddaemon.workers.engines.torch_engine.int8.plan import LayerPlan, Plan, Steps

_PIECE_BYTES = 3 * 512 * 1024
"""Of the float32 rows that go through together: with what is beside them they stay in a second-level cache of 2 MB."""
_LEAST_PIECE_TOKENS = 256


class Int8Encoder:
    """The 8-bit form of one loaded model. Shares only the norms with it."""

    def __init__(self, model: BertLike, plan: Plan) -> None:
        self.calibration = hashlib.sha256(repr(plan).encode()).hexdigest()[:16]
        """What stands for the plan."""
        self._heads: int = model.config.num_attention_heads
        self._like = torch.empty(0, dtype=torch.bfloat16 if computes_bfloat16() else torch.float32)
        self._embeddings = _embeddings(model)
        self._layers = [
            _layer(cast("BertLayer", layer), its)  # a list of modules only
            for layer, its in zip(model.encoder.layer, plan.layers, strict=True)
        ]
        self._hidden: int = model.config.hidden_size
        self._piece = max(_LEAST_PIECE_TOKENS, _PIECE_BYTES // (4 * self._hidden) // 256 * 256)
        self._compute = compiled(forward.forward)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
        return self._compute(
            ids,
            positions,
            blocks_of(groups, self._like.dtype, len(ids)),
            embeddings=self._embeddings,
            layers=self._layers,
            like=self._like,
            heads=self._heads,
            between=scratch(min(self._piece, len(ids)), self._hidden),
        )

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights as they are held."""
        held = [self._embeddings.words, self._embeddings.places]
        parameters = sum(tensor.numel() * tensor.element_size() for tensor in held)
        for layer in self._layers:
            products = [layer.into, layer.out]
            for units in layer.widened:
                products += [units.wide, units.narrow]
            parameters += sum(by.weight.numel() * (1 if by.weight.is_mkldnn else 4) for by in products)
        return parameters


def _embeddings(model: BertLike) -> forward.Embeddings:
    embeddings = model.embeddings
    # Every token is of the first type, so its vector can be part of the position's.
    places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    # Of all that the model has, words take the most memory: half of it in bfloat16, which costs nothing in accuracy.
    words = embeddings.word_embeddings.weight.detach().bfloat16()
    return forward.Embeddings(words, places.detach().float(), _norm(embeddings.LayerNorm))


def _layer(layer: BertLayer, plan: LayerPlan) -> forward.Layer:
    heads, out = layer.attention.self, layer.attention.output
    parts = (heads.query, heads.key, heads.value)
    into_smoothing = torch.tensor(plan.into_smoothing)
    wide_smoothing = torch.tensor(plan.wide_smoothing)
    into = torch.cat([part.weight for part in parts]) * into_smoothing
    return forward.Layer(
        into_codes=codes_by(plan.into.scale, plan.into.zero, into_smoothing),
        into=projection(into, torch.cat([part.bias for part in parts]), plan.into.scale, plan.into.zero),
        out_codes=codes_by(plan.out.scale, plan.out.zero, torch.ones(out.dense.weight.shape[1])),
        out=projection(out.dense.weight, out.dense.bias, plan.out.scale, plan.out.zero),
        attention_norm=_norm(out.LayerNorm),
        wide_codes=codes_by(plan.wide.scale, plan.wide.zero, wide_smoothing),
        widened=_widened(layer, plan, wide_smoothing),
        norm=_norm(layer.output.LayerNorm),
    )


def _widened(layer: BertLayer, plan: LayerPlan, smoothing: torch.Tensor) -> list[forward.Widened]:
    """The ordinary units first, whose part carries the bias; then the outliers, if they are apart."""
    wide, narrow = layer.intermediate.dense, layer.output.dense
    apart = torch.zeros(wide.weight.shape[0], dtype=torch.bool)
    apart[list(plan.outliers)] = True
    weight = wide.weight * smoothing
    groups: list[tuple[torch.Tensor, Steps, torch.Tensor]] = [(~apart, plan.narrow, narrow.bias)]
    if plan.outliers:
        groups.append((apart, plan.narrow_outliers, torch.zeros_like(narrow.bias)))
    return [
        forward.Widened(
            wide=projection(weight[units], wide.bias[units], plan.wide.scale, plan.wide.zero),
            narrow=projection(narrow.weight[:, units], bias, steps.scale, steps.zero),
        )
        for units, steps, bias in groups
    ]


def _norm(norm: nn.LayerNorm) -> forward.Norm:
    return forward.Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)
