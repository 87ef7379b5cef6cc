"""The forward pass of encoders of BERT's layout on 8 bits, as one function of tensors.

As ``torch_engine/forward.py`` has it, with the same attention; what adds up (the residual, the norms) stays in float32.
Everything between two attentions goes through in pieces of the row that stay in the processor's cache.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import embedding, layer_norm

from embeddaemon.workers.engines.torch_engine.blocks import Block
from embeddaemon.workers.engines.torch_engine.forward import attend
from embeddaemon.workers.engines.torch_engine.int8.arithmetic import (
    Codes,
    Projection,
    Scratch,
    project,
    project_gelu,
    project_onto,
    quantize,
)


class Norm(NamedTuple):
    """A LayerNorm in float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


class Widened(NamedTuple):
    """Units of the wide layer that share one scale: into them, GELU, out of them again."""

    wide: Projection
    narrow: Projection


class Layer(NamedTuple):
    """One layer, its projections each with the codes of their input."""

    into_codes: Codes
    into: Projection
    out_codes: Codes
    out: Projection
    attention_norm: Norm
    wide_codes: Codes
    widened: list[Widened]
    """The ordinary units, and the outliers where a layer has some."""
    norm: Norm


class Embeddings(NamedTuple):
    """Of words and places, and the norm of their sum."""

    words: torch.Tensor
    places: torch.Tensor
    norm: Norm


def normed(rows: torch.Tensor, norm: Norm) -> torch.Tensor:
    """(tokens, hidden)."""
    return layer_norm(rows, [rows.shape[1]], norm.weight, norm.bias, norm.eps)


def piece_forward(attended: torch.Tensor, rows: torch.Tensor, layer: Layer, between: Scratch) -> torch.Tensor:
    """From attention to the layer's end: (tokens, hidden) each; ``rows`` is written over."""
    rows = project_onto(quantize(attended, layer.out_codes, between), layer.out, rows)
    rows = normed(rows, layer.attention_norm)
    codes = quantize(rows, layer.wide_codes, between)
    for units in layer.widened:
        widened = project_gelu(codes, units.wide, units.narrow.scale, units.narrow.zero)
        rows = project_onto(widened, units.narrow, rows)
    return normed(rows, layer.norm)


def quantized(pieces: list[torch.Tensor], codes: Codes, between: Scratch) -> torch.Tensor:
    """The pieces' codes, joined."""
    if len(pieces) == 1:
        return quantize(pieces[0], codes, between)
    return torch.cat([quantize(piece, codes, between) for piece in pieces])


def forward(
    ids: torch.Tensor,
    positions: torch.Tensor,
    blocks: list[Block],
    *,
    embeddings: Embeddings,
    layers: list[Layer],
    like: torch.Tensor,
    heads: int,
    between: Scratch,
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden) in float32.

    Attention computes in the type of ``like``. As many tokens as ``between`` has room for go through
    together between two attentions.
    """
    rows = normed(embedding(ids, embeddings.words) + embedding(positions, embeddings.places), embeddings.norm)
    piece = between.floats.shape[0]
    pieces = list(torch.split(rows, piece))
    for layer in layers:
        projected = project(quantized(pieces, layer.into_codes, between), layer.into, like)
        attended = torch.split(attend(projected, heads, blocks), piece)
        pieces = [piece_forward(attended[index], pieces[index], layer, between) for index in range(len(pieces))]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
