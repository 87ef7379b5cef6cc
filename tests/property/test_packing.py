"""Micro-batches: every text once, the token budget respected, equal lengths together, the work spread evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.workers.packing import MicroBatch, plan

LENGTHS = st.lists(st.integers(0, 300), max_size=60)
BUDGETS = st.integers(1, 500)


@given(LENGTHS, BUDGETS)
def test_every_text_is_planned_once(lengths: list[int], budget: int) -> None:
    planned = [index for batch in plan(lengths, budget) for index in batch.indices]
    assert sorted(planned) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_no_batch_is_over_the_budget_unless_it_is_one_text(lengths: list[int], budget: int) -> None:
    for batch in plan(lengths, budget):
        assert batch.tokens == sum(lengths[index] for index in batch.indices)
        assert batch.tokens <= budget or len(batch.indices) == 1


@given(LENGTHS, BUDGETS)
def test_lengths_only_grow_and_equal_ones_keep_their_order(lengths: list[int], budget: int) -> None:
    order = [index for batch in plan(lengths, budget) for index in batch.indices]
    assert order == sorted(range(len(lengths)), key=lambda index: (lengths[index], index))


@given(LENGTHS, BUDGETS)
def test_no_batch_is_empty(lengths: list[int], budget: int) -> None:
    assert all(batch.indices for batch in plan(lengths, budget))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(400, 2000))
def test_no_batch_is_a_thin_rest(lengths: list[int], budget: int) -> None:
    """With texts that are small beside the budget, every batch has at least half of an even share."""
    batches = plan(lengths, budget)
    assert min(batch.tokens for batch in batches) >= sum(lengths) / len(batches) / 2


def test_nothing_to_plan_gives_nothing() -> None:
    assert plan([], 100) == []


def test_text_over_the_budget_goes_alone() -> None:
    assert plan([5, 200, 5], 100) == [MicroBatch((0, 2), 10), MicroBatch((1,), 200)]


def test_budget_of_nothing_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="token_budget"):
        plan([1], 0)
