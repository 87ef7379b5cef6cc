"""Which texts of a packed row attend together in one call on the CPU, each to itself. The call is in forward.py.

In 16 bits torch's attention is quick only at lengths of whole tiles: a text of 100 tokens takes half as long again as
one of 112, and each length above 64 leaves a kernel behind, per thread. So texts whose lengths round up to the same
multiple of 16 are gathered into one block, and what they lack is masked. Only attention sees that filler, which is 7
tokens per text on average. Measured for one thread and 2,000 tokens of one length (ms): 12 tokens 5.4 as they lie, 4.0
in blocks; 24 4.3, 3.3; 100 5.2, 4.8; 125 7.4, 4.1; 250 8.6, 6.1. In float32 most lengths are quicker as they lie.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from embeddaemon.workers.engines.torch_engine.attention import LengthGroup

_TILE = 16
_ALONE = 64
"""Up to so many tokens in all, one run of equal lengths is not worth gathering."""


class Block(NamedTuple):
    """Texts that attend in one call, all of one length, filler included. TorchScript reads this."""

    start: int
    """The first token in the row."""
    tokens: int
    """Of the row; what lies beside them in the block is filler."""
    texts: int
    length: int
    gather: torch.Tensor | None = None
    """(texts * length,): for each place of the block its token, counted from ``start``; None: they lie in order."""
    scatter: torch.Tensor | None = None
    """(tokens,): for each token its place in the block."""
    mask: torch.Tensor | None = None
    """(texts, 1, 1, length): 0, and minus infinity for filler."""


def blocks_of(groups: Sequence[LengthGroup], dtype: torch.dtype, row_tokens: int = 0) -> list[Block]:
    """The texts of a row in blocks, in order. ``row_tokens``: how long the row is, as far as all of it may be used."""
    if dtype == torch.float32:
        return [_as_it_lies(group) for group in groups]
    if len(groups) == 1 and groups[0].texts == 1 and _rounded_length(groups[0]) <= row_tokens:
        return [_with_what_follows(groups[0], dtype)]
    return [_block(list(alike), length, dtype) for length, alike in groupby(groups, _rounded_length)]


def _rounded_length(group: LengthGroup) -> int:
    return -(-group.length // _TILE) * _TILE


def _as_it_lies(group: LengthGroup) -> Block:
    return Block(group.start, group.tokens, group.texts, group.length)


def _with_what_follows(group: LengthGroup, dtype: torch.dtype) -> Block:
    """A text that is alone takes as filler what rounds the row up (rounding.py): nothing is gathered."""
    length = _rounded_length(group)
    mask = None
    if length > group.length:
        mask = torch.zeros(1, 1, 1, length, dtype=dtype)
        mask[..., group.length :] = float("-inf")
    return Block(group.start, length, 1, length, None, None, mask)


def _block(groups: list[LengthGroup], length: int, dtype: torch.dtype) -> Block:
    first = groups[0]
    if len(groups) == 1 and (first.length == length or first.tokens <= _ALONE):
        return _as_it_lies(first)
    lengths = torch.tensor([text for group in groups for text in _lengths(group)])
    starts = torch.cumsum(lengths, 0) - lengths
    places = torch.arange(length).expand(len(lengths), length)
    is_text = places < lengths.unsqueeze(1)  # (texts, length)
    # Filler repeats its own text: masked or not, what is not a number spoils all that it is multiplied with.
    gather = (starts.unsqueeze(1) + torch.where(is_text, places, 0)).flatten()
    scatter = is_text.flatten().nonzero().squeeze(1)
    mask = None
    if len(scatter) < len(gather):
        mask = torch.zeros(is_text.shape, dtype=dtype).masked_fill_(~is_text, float("-inf"))[:, None, None]
    return Block(first.start, len(scatter), len(lengths), length, gather, scatter, mask)


def _lengths(group: LengthGroup) -> Iterator[int]:
    yield from [group.length] * group.texts
