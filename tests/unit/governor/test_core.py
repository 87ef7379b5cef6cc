from __future__ import annotations

from dataclasses import replace

import pytest

from embeddaemon.governor.budget import GIB, MIB, Budget
from embeddaemon.governor.core import (
    FORK_SERVER,
    SAMPLE_VALID_SECONDS,
    Answer,
    Demand,
    Evict,
    Governor,
    Granted,
    Never,
    Wait,
    WaitReason,
    Want,
)
from embeddaemon.governor.eviction import Candidate
from embeddaemon.governor.samples import Limit, MemorySample, Observation

NOW = 1000.0
LIMIT = Limit(7680 * MIB, "cgroup v1 memory.limit_in_bytes of /sidecar")


@pytest.fixture
def governor() -> Governor:
    """6 GiB of 7.5, of which 1 GiB is reserve: 5 GiB to lease."""
    return Governor(Budget("ram", 6 * GIB, 1 * GIB, LIMIT), minimum_residence_seconds=10.0)


def worker(count: int, name: str = "worker:9/1") -> Demand:
    return Demand((Want(name, count),))


def loaded(governor: Governor, name: str, count: int, idle_since: float | None = 0.0) -> Candidate:
    """A model of which template and worker hold half of the bytes each."""
    holders = (f"template:{name}/1", f"worker:{name}/1")
    for holder in holders:
        governor.lease(holder, count // 2, 0.0)
    return Candidate(name, holders, idle_since=idle_since, loaded_at=0.0)


def sample(free_bytes: int, taken_at: float = NOW) -> MemorySample:
    return MemorySample(taken_at, free_bytes, LIMIT)


def observe(governor: Governor, seen: MemorySample) -> None:
    governor.observe(Observation((seen,)), seen.taken_at)


def victims(answer: Answer) -> list[str]:
    assert isinstance(answer, Evict), answer
    return [victim.name for victim in answer.victims]


def test_what_fits_is_granted(governor: Governor) -> None:
    assert governor.ask(worker(5 * GIB), (), NOW) == Granted()


def test_the_leases_of_a_demand_are_granted_together_or_not_at_all(governor: Governor) -> None:
    both = Demand((Want("template:minilm/1", 3 * GIB), Want("worker:1/1", 2 * GIB)))
    assert governor.ask(both, (), NOW) == Granted()
    governor.lease("other", 1, NOW)
    assert isinstance(governor.ask(both, (), NOW), Wait)


def test_asking_changes_nothing(governor: Governor) -> None:
    candidates = (loaded(governor, "a", 4 * GIB),)
    observe(governor, sample(4 * GIB))
    before = governor.snapshot(NOW)
    for count in (1, 2 * GIB, 5 * GIB, 9 * GIB):
        governor.ask(worker(count), candidates, NOW)
    assert governor.snapshot(NOW) == before


def test_idle_models_go_for_one_that_is_wanted(governor: Governor) -> None:
    candidates = (loaded(governor, "recent", 2 * GIB, 900.0), loaded(governor, "old", 2 * GIB, 100.0))
    assert victims(governor.ask(worker(2 * GIB), candidates, NOW)) == ["old"]
    assert victims(governor.ask(worker(4 * GIB), candidates, NOW)) == ["old", "recent"]


def test_only_what_the_headroom_lacks_is_evicted(governor: Governor) -> None:
    candidates = (loaded(governor, "large", 4 * GIB, 2.0), loaded(governor, "small", 512 * MIB, 1.0))
    assert governor.headroom(NOW) == 512 * MIB
    assert victims(governor.ask(worker(1 * GIB), candidates, NOW)) == ["small"]
    assert victims(governor.ask(worker(1 * GIB + 1), candidates, NOW)) == ["large"]


def test_memory_that_is_on_its_way_back_is_waited_for_instead_of_evicting_more(governor: Governor) -> None:
    going = replace(loaded(governor, "going", 3 * GIB), is_leaving=True)
    staying = loaded(governor, "staying", 2 * GIB)
    answer = governor.ask(worker(2 * GIB), (going, staying), NOW)
    assert isinstance(answer, Wait)
    assert answer.reason is WaitReason.EVICTION_UNDER_WAY
    assert victims(governor.ask(worker(4 * GIB), (going, staying), NOW)) == ["staying"]


def test_a_demand_waits_while_everything_is_busy_and_is_told_the_numbers(governor: Governor) -> None:
    busy = loaded(governor, "busy", 4506 * MIB, idle_since=None)
    answer = governor.ask(worker(1843 * MIB), (busy,), NOW)
    assert answer == Wait(
        needed_bytes=1843 * MIB,
        available_bytes=614 * MIB,
        limit_bytes=6 * GIB,
        source="80 % of 7.5 GiB, cgroup v1 memory.limit_in_bytes of /sidecar",
        reason=WaitReason.NOTHING_TO_EVICT,
    )
    assert answer.text() == (
        "needs 1.8 GiB; 614 MiB available, what is loaded is busy, pinned or only just loaded; "
        "limit 6.0 GiB (80 % of 7.5 GiB, cgroup v1 memory.limit_in_bytes of /sidecar)"
    )


def test_a_demand_waits_when_others_took_the_memory(governor: Governor) -> None:
    observe(governor, sample(1536 * MIB))
    answer = governor.ask(worker(1 * GIB), (), NOW)
    assert isinstance(answer, Wait)
    assert (answer.available_bytes, answer.reason) == (512 * MIB, WaitReason.OTHER_PROCESSES)


def test_nothing_is_available_when_headroom_is_negative(governor: Governor) -> None:
    observe(governor, sample(0))
    assert governor.headroom(NOW) == -1 * GIB
    answer = governor.ask(worker(1), (), NOW)
    assert isinstance(answer, Wait)
    assert answer.available_bytes == 0


def test_what_fits_no_empty_machine_never_fits(governor: Governor) -> None:
    answer = governor.ask(worker(5 * GIB + 1), (), NOW)
    assert isinstance(answer, Never)
    assert (answer.needed_bytes, answer.available_bytes, answer.limit_bytes) == (5 * GIB + 1, 5 * GIB, 6 * GIB)
    assert answer.text() == (
        "needs 5.0 GiB; never more than 5.0 GiB available; "
        "limit 6.0 GiB (80 % of 7.5 GiB, cgroup v1 memory.limit_in_bytes of /sidecar)"
    )


def test_the_fork_server_is_not_counted_on_to_go(governor: Governor) -> None:
    with_fork_server = Demand((Want(FORK_SERVER, 1 * GIB), Want("worker:1/1", 4 * GIB)))
    assert governor.ask(with_fork_server, (), NOW) == Granted()
    governor.lease(FORK_SERVER, 1 * GIB, NOW)
    assert governor.ask(worker(4 * GIB), (), NOW) == Granted()
    answer = governor.ask(worker(4 * GIB + 1), (), NOW)
    assert isinstance(answer, Never)
    assert answer.available_bytes == 4 * GIB


def test_little_memory_now_does_not_mean_never(governor: Governor) -> None:
    observe(governor, sample(0))
    assert isinstance(governor.ask(worker(5 * GIB), (), NOW), Wait)


@pytest.mark.parametrize(
    ("free_bytes", "resident_bytes", "expected"),
    [
        (8 * GIB, 0, 3 * GIB),  # the budget is tighter: 6 - 2 - 1
        (4 * GIB, 0, 1 * GIB),  # the machine is tighter: 4 - 2 pending - 1
        (3 * GIB, 2 * GIB, 2 * GIB),  # nothing pending: 3 - 1
        (3 * GIB, 3 * GIB, 2 * GIB),  # more than it was promised: the sample shows that already
    ],
)
def test_headroom_trusts_the_worse_of_ledger_and_sample(
    governor: Governor, free_bytes: int, resident_bytes: int, expected: int
) -> None:
    governor.lease("worker:1/1", 2 * GIB, NOW)
    governor.measured("worker:1/1", resident_bytes)
    observe(governor, sample(free_bytes))
    assert governor.headroom(NOW) == expected


def test_a_measurement_counts_with_the_next_sample_and_not_against_an_older_one(governor: Governor) -> None:
    governor.lease("worker:1/1", 2 * GIB, NOW)
    observe(governor, sample(4 * GIB))
    governor.measured("worker:1/1", 2 * GIB)
    assert governor.headroom(NOW) == 1 * GIB, "these 2 GiB are still inside the 4 that were free"
    observe(governor, sample(2 * GIB, NOW + 1))
    assert governor.headroom(NOW + 1) == 1 * GIB


def test_without_a_sample_only_the_ledger_speaks(governor: Governor) -> None:
    governor.lease("worker:1/1", 2 * GIB, NOW)
    assert governor.headroom(NOW) == 3 * GIB


@pytest.mark.parametrize("free_bytes", [0, 100 * GIB])
def test_a_stale_sample_counts_as_none(governor: Governor, free_bytes: int) -> None:
    governor.lease("worker:1/1", 2 * GIB, NOW)
    observe(governor, sample(free_bytes))
    after = NOW + SAMPLE_VALID_SECONDS + 0.1
    assert governor.headroom(after) == 3 * GIB
    assert governor.snapshot(after).free_bytes is None


def test_an_older_sample_does_not_replace_a_newer_one(governor: Governor) -> None:
    observe(governor, sample(2 * GIB, NOW))
    observe(governor, sample(6 * GIB, NOW - 1))
    assert governor.headroom(NOW) == 1 * GIB


def test_a_measurement_of_one_that_is_gone_is_ignored(governor: Governor) -> None:
    governor.lease("worker:1/1", 2 * GIB, NOW)
    governor.measured("worker:1/1", 1 * GIB)
    governor.release("worker:1/1", NOW)
    governor.measured("worker:1/1", 1 * GIB)
    observe(governor, sample(8 * GIB))
    assert governor.snapshot(NOW).leases == ()


def test_a_measurement_does_not_outlive_its_lease(governor: Governor) -> None:
    governor.lease("worker:1/1", 2 * GIB, NOW)
    governor.measured("worker:1/1", 2 * GIB)
    governor.release("worker:1/1", NOW)
    governor.lease("worker:1/1", 2 * GIB, NOW)
    observe(governor, sample(8 * GIB))
    assert governor.snapshot(NOW).pending_bytes == 2 * GIB


def test_a_lease_is_lowered_after_loading_and_may_grow_where_it_fits(governor: Governor) -> None:
    governor.lease("template:minilm/1", 4 * GIB, NOW)
    governor.lower("template:minilm/1", 1 * GIB)
    assert governor.headroom(NOW) == 4 * GIB
    assert not governor.can_raise_to("template:minilm/1", 5 * GIB + 1)
    governor.raise_to("template:minilm/1", 5 * GIB)
    assert governor.headroom(NOW) == 0


def test_the_snapshot_shows_what_status_needs(governor: Governor) -> None:
    governor.lease("worker:1/1", 2 * GIB, 900.0)
    governor.lower("worker:1/1", 1 * GIB)
    governor.measured("worker:1/1", 600 * MIB)
    observe(governor, sample(5 * GIB))
    snapshot = governor.snapshot(NOW)
    assert snapshot.budget.limit == LIMIT
    assert (snapshot.leased_bytes, snapshot.pending_bytes) == (1 * GIB, 424 * MIB)
    assert (snapshot.free_bytes, snapshot.headroom_bytes) == (5 * GIB, 5 * GIB - 424 * MIB - 1 * GIB)
    (lease,) = snapshot.leases
    assert (lease.holder, lease.leased_at) == ("worker:1/1", 900.0)
    assert (lease.declared_bytes, lease.bytes) == (2 * GIB, 1 * GIB)
    assert (lease.resident_bytes, lease.peak_bytes) == (600 * MIB, 600 * MIB)


@pytest.mark.parametrize("wants", [(), (Want("a", 0),), (Want("a", -1),), (Want("a", 1), Want("a", 1))])
def test_a_demand_that_makes_no_sense_is_a_bug(wants: tuple[Want, ...]) -> None:
    with pytest.raises(AssertionError, match="bug"):
        Demand(wants)
