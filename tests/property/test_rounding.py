"""Rows of a packed micro-batch: never shorter than their tokens, hardly longer, few lengths in all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.workers.engines.torch_engine.rounding import rounded_up

TOKENS = st.integers(0, 1 << 20)


@given(TOKENS)
def test_row_is_never_shorter_and_hardly_longer(tokens: int) -> None:
    assert tokens <= rounded_up(tokens) <= tokens + max(15, tokens // 4)


@given(TOKENS)
def test_rounded_row_stays_as_it_is(tokens: int) -> None:
    assert rounded_up(rounded_up(tokens)) == rounded_up(tokens)


@given(TOKENS, TOKENS)
def test_more_tokens_never_make_a_shorter_row(one: int, other: int) -> None:
    assert rounded_up(min(one, other)) <= rounded_up(max(one, other))


def test_there_are_few_lengths_up_to_the_usual_token_budget() -> None:
    assert len({rounded_up(tokens) for tokens in range(1, 8193)}) == 8 + 6 * 4
