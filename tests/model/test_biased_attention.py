"""Attention with a bias by distance: every way of it equals the plain one, and its memory has a bound."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.compiling import compiled
from embeddaemon.workers.engines.torch_engine.families import biased_attention, jina_v2, mpnet
from embeddaemon.workers.engines.torch_engine.families.biased_attention import (
    BiasedBlock,
    DistanceBias,
    attend,
    attend_by_rows,
    attend_by_view,
    reach_for,
)
from embeddaemon.workers.engines.torch_engine.rounding import rounded_up

HEADS, HEAD_DIM = 3, 8


def line_of(positions: int) -> torch.Tensor:
    """(heads, 2 * reach - 1): another value for each head, distance and direction."""
    return torch.randn(HEADS, 2 * reach_for(positions) - 1, generator=torch.Generator().manual_seed(3)) * 2


def plain(text: torch.Tensor, line: torch.Tensor) -> torch.Tensor:
    """One text (length, 3 * hidden) to (length, hidden) in float32, its bias looked up entry by entry."""
    length, middle = len(text), line.shape[1] // 2
    query, key, value = text.float().view(length, 3, HEADS, HEAD_DIM).permute(1, 2, 0, 3).unbind(0)
    places = torch.arange(length)
    bias = line[:, places[None, :] - places[:, None] + middle]
    scores = query @ key.transpose(1, 2) / math.sqrt(HEAD_DIM) + bias
    return (scores.softmax(-1) @ value).transpose(0, 1).reshape(length, HEADS * HEAD_DIM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("room_bytes", [0, 20_000, 2**30])
@pytest.mark.parametrize(
    "lengths", [[1], [7], [3, 3, 3], [16, 16], [5, 17, 18, 31, 32], [40, 200], [200, 200], [193], [61, 62, 63, 250]]
)
def test_every_way_equals_plain_attention(
    lengths: list[int], room_bytes: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(biased_attention, "WHOLE_BIAS_BYTES", room_bytes)
    line = line_of(250)
    tokens, row_tokens = sum(lengths), rounded_up(sum(lengths))
    generator = torch.Generator().manual_seed(len(lengths))
    row = torch.randn(row_tokens, 3 * HEADS * HEAD_DIM, generator=generator).to(dtype)
    found = attend(row, HEADS, DistanceBias(line.to(dtype)).blocks(groups_of(lengths), row_tokens))
    expected = torch.cat([plain(text, line.to(dtype).float()) for text in torch.split(row[:tokens], lengths)])
    tolerance = 1e-5 if dtype is torch.float32 else 4e-2
    torch.testing.assert_close(found[:tokens].float(), expected, atol=tolerance, rtol=0)
    assert found.isfinite().all()


@pytest.mark.parametrize("rows_bytes", [1, 5 * HEADS * 37 * 4, 2**20])
def test_copied_rows_equal_the_view(rows_bytes: int) -> None:
    """What devices compute, whose kernels do not read rows that overlap."""
    block = DistanceBias(line_of(40))._view(37)
    query, key, value = torch.randn(3, 2, HEADS, 37, HEAD_DIM, generator=torch.Generator().manual_seed(1)).unbind(0)
    expected = attend_by_view(query, key, value, None, block)
    torch.testing.assert_close(attend_by_rows(query, key, value, block, rows_bytes), expected, atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 512), min_size=1, max_size=40), st.sampled_from([torch.float32, torch.bfloat16]))
def test_biases_of_a_row_stay_within_their_bound(lengths: list[int], dtype: torch.dtype) -> None:
    line = line_of(512).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(biased_attention, "WHOLE_BIAS_BYTES", 100_000)
        blocks = DistanceBias(line).blocks(groups_of(lengths), sum(lengths))
    assert held_bytes(blocks, line) <= 100_000


def test_long_text_takes_no_memory_for_its_bias() -> None:
    """8,192 tokens and 12 heads, whose whole bias has 1.6 GB in 16 bits."""
    line = jina_v2.by_distance(12, 8192).bfloat16()
    for length in (8192, 8187):
        blocks = DistanceBias(line).blocks(groups_of([length]), 8192)
        assert held_bytes(blocks, line) == 0
    assert line.nbytes < 400_000


def held_bytes(blocks: list[BiasedBlock], line: torch.Tensor) -> int:
    """Of the biases that are not views of the line."""
    storages = {block.bias.untyped_storage().data_ptr(): block.bias.untyped_storage().nbytes() for block in blocks}
    return sum(size for pointer, size in storages.items() if pointer != line.untyped_storage().data_ptr())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is no TorchScript")
@pytest.mark.parametrize("forward", [mpnet.forward, jina_v2.forward], ids=["mpnet", "jina"])
def test_forward_is_compiled(forward: object) -> None:
    """Guards: a way of writing that TorchScript does not know, with which everything is right, and slow."""
    assert callable(forward)
    assert isinstance(compiled(forward), torch.jit.ScriptFunction)
