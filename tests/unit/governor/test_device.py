"""A governor of several devices; and memory of a card, which comes back later than its process ends."""

from __future__ import annotations

import pytest

from embeddaemon.governor.budget import GIB, Budget
from embeddaemon.governor.core import Demand, Evict, Governor, Granted, Never, Wait, WaitReason, Want
from embeddaemon.governor.device import RETURN_SECONDS
from embeddaemon.governor.eviction import Candidate
from embeddaemon.governor.samples import RAM, Limit, MemorySample, Observation

NOW = 1000.0
CARD = "cuda:0"
HOST_LIMIT, CARD_LIMIT = Limit(16 * GIB, "machine MemTotal"), Limit(24 * GIB, "NVIDIA H1")


@pytest.fixture
def governor() -> Governor:
    """10 GiB of host memory and 20 of a card."""
    return Governor(Budget(RAM, 10 * GIB, 0, HOST_LIMIT), Budget(CARD, 20 * GIB, 0, CARD_LIMIT))


def worker(host_gib: int, card_gib: int, name: str = "new") -> Demand:
    return Demand((Want(f"worker:{name}", host_gib * GIB), Want(f"worker:{name}@{CARD}", card_gib * GIB, CARD)))


def lease(governor: Governor, name: str, host_gib: int, card_gib: int, *, idle_since: float | None = 0.0) -> Candidate:
    for want in worker(host_gib, card_gib, name).wants:
        governor.lease(want.holder, want.bytes, 0.0, want.device)
    holders = tuple(want.holder for want in worker(1, 1, name).wants)
    return Candidate(name, holders, idle_since=idle_since, loaded_at=0.0)


def observe(governor: Governor, free_on_card: int, at: float) -> None:
    samples = (MemorySample(at, 16 * GIB, HOST_LIMIT), MemorySample(at, free_on_card, CARD_LIMIT, CARD))
    governor.observe(Observation(samples), at)


def test_worker_of_a_card_needs_room_on_both(governor: Governor) -> None:
    assert governor.ask(worker(10, 20), (), NOW) == Granted()
    assert isinstance(governor.ask(worker(11, 20), (), NOW), Never)
    never = governor.ask(worker(1, 21), (), NOW)
    assert isinstance(never, Never)
    assert never.device == CARD
    assert "needs 21.0 GiB of cuda:0" in never.text()
    assert "NVIDIA H1" in never.text()


def test_what_goes_is_what_the_short_device_lacks(governor: Governor) -> None:
    on_card, on_host = lease(governor, "on-card", 1, 18), lease(governor, "on-host", 8, 1)
    answer = governor.ask(worker(1, 10), (on_host, on_card), NOW)
    assert isinstance(answer, Evict)
    assert [victim.name for victim in answer.victims] == ["on-card"]
    answer = governor.ask(worker(3, 1), (on_host, on_card), NOW)
    assert isinstance(answer, Evict)
    assert [victim.name for victim in answer.victims] == ["on-host"]
    answer = governor.ask(worker(3, 10), (on_host, on_card), NOW)
    assert isinstance(answer, Evict)
    assert {victim.name for victim in answer.victims} == {"on-host", "on-card"}


def test_what_others_hold_of_a_card_is_not_leased(governor: Governor) -> None:
    observe(governor, 4 * GIB, NOW)
    answer = governor.ask(worker(1, 5), (), NOW)
    assert isinstance(answer, Wait)
    assert (answer.reason, answer.device, answer.available_bytes) == (WaitReason.OTHER_PROCESSES, CARD, 4 * GIB)
    assert governor.ask(worker(1, 4), (), NOW) == Granted()


def test_memory_of_a_card_is_free_when_the_card_shows_it_and_that_of_the_host_at_once(governor: Governor) -> None:
    lease(governor, "old", 10, 16)
    governor.measured(f"worker:old@{CARD}", 12 * GIB)
    observe(governor, 10 * GIB, NOW)
    governor.release("worker:old", NOW)
    governor.release(f"worker:old@{CARD}", NOW)
    assert governor.headroom(NOW) == 10 * GIB
    assert governor.headroom(NOW, CARD) == 4 * GIB
    assert governor.snapshot(NOW, CARD).returning_bytes == 16 * GIB
    observe(governor, 13 * GIB, NOW + 0.5)
    assert governor.headroom(NOW + 0.5, CARD) == 4 * GIB, "less than most of it"
    observe(governor, 20 * GIB, NOW + 1.0)
    assert governor.headroom(NOW + 1.0, CARD) == 20 * GIB
    assert governor.snapshot(NOW + 1.0, CARD).returning_bytes == 0


def test_memory_that_a_card_never_shows_again_is_not_waited_for_for_ever(governor: Governor) -> None:
    lease(governor, "old", 1, 16)
    governor.measured(f"worker:old@{CARD}", 12 * GIB)
    observe(governor, 10 * GIB, NOW)
    governor.release(f"worker:old@{CARD}", NOW)
    observe(governor, 10 * GIB, NOW + RETURN_SECONDS)
    assert governor.headroom(NOW + RETURN_SECONDS, CARD) == 10 * GIB, "others took it"
    assert governor.snapshot(NOW + RETURN_SECONDS, CARD).returning_bytes == 0


def test_what_is_returning_is_promised_to_nobody(governor: Governor) -> None:
    lease(governor, "old", 1, 16)
    governor.measured(f"worker:old@{CARD}", 12 * GIB)
    observe(governor, 24 * GIB - 12 * GIB, NOW)
    governor.release(f"worker:old@{CARD}", NOW)
    other = Candidate("idle", (), idle_since=0.0, loaded_at=0.0)
    answer = governor.ask(worker(1, 5), (other,), NOW)
    assert isinstance(answer, Wait)
    assert answer.reason is WaitReason.EVICTION_UNDER_WAY, "nobody else goes for it"
    assert not governor.can_raise_to("worker:old", 11 * GIB)
    lease(governor, "other", 1, 4)
    assert not governor.can_raise_to(f"worker:other@{CARD}", 5 * GIB)


def test_device_without_a_budget_is_a_bug(governor: Governor) -> None:
    with pytest.raises(KeyError):
        governor.ask(Demand((Want("worker", GIB, "cuda:7"),)), (), NOW)
