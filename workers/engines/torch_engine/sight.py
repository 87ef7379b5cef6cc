"""Which tokens of its own text a token attends to, and attention that is limited so, for texts of one length.

Nothing here makes a mask of text by text: causal attention is a flag of torch's operator, and a window is computed in
blocks of queries, each against the keys that it can reach. So a layer with a window costs time and memory by length
times window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

_TILE = 16
_LARGEST_STEP = 512
"""Queries of a block: twice as many as a token reaches, for then half of what is computed is used; no more than this,
which bounds the mask of a block."""


@dataclass(frozen=True, slots=True)
class Sight:
    """All tokens of the text, as it stands here."""

    is_causal: bool = False
    """Only itself and those before it."""
    reach: int | None = None
    """The most tokens away, to each side that it sees at all; None: any."""

    def is_limited(self, length: int) -> bool:
        """Whether a window hides anything in a text of ``length`` tokens."""
        return self.reach is not None and self.reach < length - 1


EVERYTHING = Sight()


def sight_of(module: nn.Module | None, *, is_causal: bool | None, sliding_window: int | None) -> Sight:
    """What one of transformers' attention modules means by what it passes; its masks are not looked at.

    As in its functions for SDPA and FlashAttention, an argument overrules the module, and a module that says nothing
    is causal. A window of ``n`` counts the token itself. The one exception is masking_utils' own: where a causal class
    is made bidirectional by its config, it does not count it (``sliding_window_bidirectional_overlay``).
    """
    causal_by_class = module is not None and bool(getattr(module, "is_causal", True))
    causal = causal_by_class if is_causal is None else is_causal
    if sliding_window is None:
        return Sight(causal)
    return Sight(causal, sliding_window if causal_by_class and not causal else sliding_window - 1)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sight: Sight, *, scale: float | None, length: int
) -> torch.Tensor:
    """(texts, heads, tokens, head dim) to the same; keys and values may have fewer heads, each for as many queries.

    What lies behind the first ``length`` tokens is filler: no text sees it, and what comes out for it is anything.
    """
    tokens = query.shape[2]
    grouped = query.shape[1] != key.shape[1]
    if sight.is_limited(length):
        return _attend_in_blocks(query, key, value, sight, scale=scale, length=length)
    mask = None
    if tokens > length and not sight.is_causal:  # what is causal sees no filler anyway, for that comes last
        mask = query.new_zeros(1, 1, 1, tokens)
        mask[..., length:] = float("-inf")
    return scaled_dot_product_attention(
        query, key, value, mask, scale=scale, is_causal=sight.is_causal and tokens > 1, enable_gqa=grouped
    )


def _attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sight: Sight, *, scale: float | None, length: int
) -> torch.Tensor:
    """The same with a window."""
    assert sight.reach is not None, "no window"
    texts, heads, tokens, head_dim = query.shape
    grouped = heads != key.shape[1]
    step, width = _block(sight.reach, tokens, is_causal=sight.is_causal)
    result = query.new_empty(texts, tokens, heads, head_dim).transpose(1, 2)
    masks: dict[tuple[int, int], torch.Tensor] = {}
    for begin in range(0, tokens, step):
        first = min(begin, tokens - step)  # the last block goes back as far as it takes to be as long as the others
        first_key = max(0, min(first - sight.reach, tokens - width))
        kind = first - first_key, min(width, length - first_key)
        if kind not in masks:
            masks[kind] = _hide(query.new_zeros(step, width), sight, first=kind[0], known_keys=kind[1])
        own, theirs = slice(first, first + step), slice(first_key, first_key + width)
        result[:, :, own] = scaled_dot_product_attention(
            query[:, :, own], key[:, :, theirs], value[:, :, theirs], masks[kind], scale=scale, enable_gqa=grouped
        )
    return result


def _block(reach: int, tokens: int, *, is_causal: bool) -> tuple[int, int]:
    """Queries of a block, and keys that all of them together can see. Whole tiles, where a text has as many."""
    step = min(_in_tiles(2 * reach), _LARGEST_STEP)
    if tokens <= 2 * step:
        return tokens, tokens
    return step, min(_in_tiles(step + (reach if is_causal else 2 * reach)), tokens)


def _in_tiles(tokens: int) -> int:
    return max(_TILE, -(-tokens // _TILE) * _TILE)


def _hide(mask: torch.Tensor, sight: Sight, *, first: int, known_keys: int) -> torch.Tensor:
    """The mask (queries, keys) with minus infinity for keys that are not seen.

    The first query is the token of the key number ``first``; keys from ``known_keys`` on are filler.
    """
    assert sight.reach is not None, "no window"
    own = torch.arange(first, first + mask.shape[0], device=mask.device).unsqueeze(1)
    others = torch.arange(mask.shape[1], device=mask.device)
    seen = (others >= own - sight.reach) & (others <= (own if sight.is_causal else own + sight.reach))
    seen &= others < known_keys
    return mask.masked_fill_(~seen, float("-inf"))
