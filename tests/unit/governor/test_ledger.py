from __future__ import annotations

from collections.abc import Callable

import pytest

from embeddaemon.governor.budget import Budget
from embeddaemon.governor.ledger import Ledger
from embeddaemon.governor.samples import Limit


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Budget("ram", 1000, 100, Limit(2000, "test")))


def test_leases_add_up_and_come_back(ledger: Ledger) -> None:
    ledger.lease("fork-server", 300, 0.0)
    ledger.lease("worker:1/1", 200, 1.0)
    assert ledger.leased_bytes == 500
    assert "worker:1/1" in ledger
    ledger.release("worker:1/1")
    assert ledger.leased_bytes == 300
    assert "worker:1/1" not in ledger


def test_the_budget_can_be_leased_up_to_its_reserve_and_not_a_byte_more(ledger: Ledger) -> None:
    ledger.lease("a", 500, 0.0)
    assert ledger.can_lease(400)
    assert not ledger.can_lease(401)
    with pytest.raises(AssertionError, match="not there"):
        ledger.lease("b", 401, 0.0)
    assert ledger.leased_bytes == 500


def test_pending_is_what_is_promised_and_not_yet_taken(ledger: Ledger) -> None:
    ledger.lease("a", 300, 0.0)
    ledger.lease("b", 200, 0.0)
    assert ledger.pending_bytes == 500
    ledger.measured("a", 120)
    assert ledger.pending_bytes == 180 + 200
    ledger.measured("a", 900)
    assert ledger.pending_bytes == 200, "what one holder takes too much is not room for another"


def test_a_lease_remembers_what_it_was_declared_and_its_peak(ledger: Ledger) -> None:
    ledger.lease("a", 300, 7.0)
    ledger.measured("a", 250)
    ledger.measured("a", 90)
    ledger.lower("a", 100)
    (lease,) = ledger.leases
    assert (lease.device, lease.leased_at) == ("ram", 7.0)
    assert (lease.declared_bytes, lease.bytes, lease.resident_bytes, lease.peak_bytes) == (300, 100, 90, 250)


def test_lowering_only_lowers(ledger: Ledger) -> None:
    ledger.lease("a", 300, 0.0)
    ledger.lower("a", 200)
    assert ledger.leased_bytes == 200
    ledger.lower("a", 800)
    assert ledger.leased_bytes == 200


def test_a_lease_is_raised_only_where_it_fits(ledger: Ledger) -> None:
    ledger.lease("a", 300, 0.0)
    ledger.lease("b", 500, 0.0)
    assert ledger.can_raise_to("a", 400)
    assert not ledger.can_raise_to("a", 401)
    with pytest.raises(AssertionError, match="not there"):
        ledger.raise_to("a", 401)
    ledger.raise_to("a", 400)
    assert ledger.leased_bytes == 900


def test_what_is_held_counts_every_holder_once_and_strangers_not_at_all(ledger: Ledger) -> None:
    ledger.lease("a", 300, 0.0)
    ledger.lease("b", 200, 0.0)
    assert ledger.held_bytes(["a", "a", "b", "nobody"]) == 500


@pytest.mark.parametrize(
    "bug",
    [
        lambda ledger: ledger.lease("a", 1, 0.0),
        lambda ledger: ledger.lease("b", 0, 0.0),
        lambda ledger: ledger.lease("b", -1, 0.0),
        lambda ledger: ledger.lower("a", 0),
        lambda ledger: ledger.lower("nobody", 1),
        lambda ledger: ledger.raise_to("a", 299),
        lambda ledger: ledger.measured("a", -1),
        lambda ledger: ledger.measured("nobody", 1),
        lambda ledger: ledger.release("nobody"),
    ],
)
def test_a_bug_of_ours_is_caught_and_changes_nothing(ledger: Ledger, bug: Callable[[Ledger], None]) -> None:
    ledger.lease("a", 300, 0.0)
    before = ledger.leases
    with pytest.raises(AssertionError, match="bug"):
        bug(ledger)
    assert ledger.leases == before
