"""Blocks: every token of every text is in one of them, once, and what is filler is masked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.blocks import Block, blocks_of
from embeddaemon.workers.engines.torch_engine.forward import attend

LENGTHS = st.lists(st.integers(1, 140), min_size=1, max_size=40)


def placed(block: Block) -> torch.Tensor:
    """(texts * length,): the token at each place of a block, -1 where there is filler."""
    if block.gather is None:
        return torch.arange(block.start, block.start + block.tokens)
    found = torch.full((block.texts * block.length,), -1)
    assert block.scatter is not None
    found[block.scatter] = block.start + block.gather[block.scatter]
    return found


@given(LENGTHS)
def test_every_text_is_one_line_of_one_block_in_order(lengths: list[int]) -> None:
    lines = []
    for block in blocks_of(groups_of(lengths), torch.bfloat16):
        for line in placed(block).view(block.texts, block.length):
            kept = line[line >= 0]
            assert torch.equal(line[: len(kept)], kept), "filler stands behind the text"
            lines.append(kept)
    assert [len(line) for line in lines] == lengths
    assert torch.equal(torch.cat(lines), torch.arange(sum(lengths)))


@given(LENGTHS)
def test_filler_and_only_filler_is_masked(lengths: list[int]) -> None:
    for block in blocks_of(groups_of(lengths), torch.bfloat16):
        is_filler = placed(block).view(block.texts, block.length) < 0
        if block.mask is None:
            assert not is_filler.any()
        else:
            assert torch.equal(block.mask.view(is_filler.shape) == float("-inf"), is_filler)
            assert is_filler.any()


def test_lengths_that_round_up_to_the_same_share_a_block() -> None:
    blocks = blocks_of(groups_of([65, 70, 80, 81, 96, 96]), torch.bfloat16)
    assert [(block.texts, block.length) for block in blocks] == [(3, 80), (3, 96)]


@pytest.mark.parametrize("lengths", [[11], [64], [96, 96], [16] * 20])
def test_texts_of_whole_tiles_or_few_tokens_attend_as_they_lie(lengths: list[int]) -> None:
    (block,) = blocks_of(groups_of(lengths), torch.bfloat16)
    assert block.gather is None


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_text_that_is_not_a_number_spoils_no_other(bad: int) -> None:
    """What is masked is multiplied by zero, which makes no number of what is none."""
    lengths = [100, 105, 110]
    rows = torch.ones(sum(lengths), 3 * 32, dtype=torch.bfloat16)
    torch.split(rows, lengths)[bad].fill_(float("nan"))
    attended = attend(rows, 2, blocks_of(groups_of(lengths), torch.bfloat16, len(rows)))
    assert [bool(text.isfinite().all()) for text in torch.split(attended, lengths)] == [
        text != bad for text in range(3)
    ]


def test_float32_is_never_filled_up() -> None:
    assert all(block.gather is None for block in blocks_of(groups_of([65, 70, 81]), torch.float32))


@pytest.mark.parametrize(("length", "row_tokens"), [(13, 16), (100, 112), (16, 16), (100, 128)])
def test_text_that_is_alone_takes_the_rest_of_its_row_as_filler(length: int, row_tokens: int) -> None:
    (block,) = blocks_of(groups_of([length]), torch.bfloat16, row_tokens)
    assert (block.texts, block.length, block.tokens, block.gather) == (1, -(-length // 16) * 16, block.length, None)
    if block.mask is None:
        assert length == block.length
    else:
        assert (block.mask.flatten() == 0).tolist() == [place < length for place in range(block.length)]


def test_row_that_ends_with_its_text_is_not_read_beyond() -> None:
    (block,) = blocks_of(groups_of([100]), torch.bfloat16, 100)
    assert block.tokens == 100
