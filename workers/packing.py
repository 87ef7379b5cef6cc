"""Which texts go through the model together: micro-batches within a token budget, nothing padded. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Texts that go through in one forward pass, shortest first, so that equal lengths lie beside each other."""

    indices: tuple[int, ...]
    """Positions in the sequence that was planned."""
    tokens: int


def plan(lengths: Sequence[int], token_budget: int) -> list[MicroBatch]:
    """Every text once, in micro-batches of at most ``token_budget`` tokens; a longer text goes alone.

    Similar lengths come together (fewer, larger attention calls), and the work is spread evenly: no thin rest at the
    end, which would cost a forward pass for little.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, it must be at least 1")
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    remaining = sum(lengths)
    batches: list[MicroBatch] = []
    current: list[int] = []
    tokens = 0
    # An even share of what is left, for as many batches as the rest needs at least.
    share = _share(remaining, token_budget)
    for index in order:
        length = lengths[index]
        if current and (tokens + length > token_budget or tokens + length / 2 > share):
            batches.append(MicroBatch(tuple(current), tokens))
            remaining -= tokens
            share = _share(remaining, token_budget)
            current, tokens = [], 0
        current.append(index)
        tokens += length
    if current:
        batches.append(MicroBatch(tuple(current), tokens))
    return batches


def _share(tokens: int, token_budget: int) -> float:
    batches = max(1, -(-tokens // token_budget))
    return tokens / batches
