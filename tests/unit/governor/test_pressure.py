from __future__ import annotations

from dataclasses import replace

import pytest

from embeddaemon.governor.budget import GIB, MIB, Budget
from embeddaemon.governor.pressure import MAX_PAUSE_SECONDS, OBSERVATION_VALID_SECONDS, Level, Pressure
from embeddaemon.governor.samples import Limit, Stall

RESERVE = 256 * MIB
BUDGET = Budget("ram", 4 * GIB, RESERVE, Limit(8 * GIB, "test"))
CALM = Stall(0.0, some_percent=0.0, full_percent=0.0, is_ours=True)


def observe(
    pressure: Pressure,
    now: float,
    *,
    left: int = 2 * GIB,
    free: int = 6 * GIB,
    some: float = 0.0,
    full: float = 0.0,
    is_ours: bool = True,
) -> Level:
    stall = Stall(now, some, full, is_ours)
    limit_bytes, used_bytes = BUDGET.limit.bytes, BUDGET.bytes - left
    return pressure.observe(stall, BUDGET, now, free_bytes=free, limit_bytes=limit_bytes, used_bytes=used_bytes)


@pytest.mark.parametrize(
    ("left", "level"),
    [
        (RESERVE, Level.NORMAL),
        (RESERVE // 2, Level.NORMAL),
        (RESERVE // 2 - 1, Level.HIGH),
        (RESERVE // 8, Level.HIGH),
        (RESERVE // 8 - 1, Level.CRITICAL),
        (-GIB, Level.CRITICAL),
    ],
)
def test_level_follows_the_least_of_what_the_budget_and_the_machine_have_left(left: int, level: Level) -> None:
    assert observe(Pressure(), 0.0, left=left) is level
    assert observe(Pressure(), 0.0, free=max(0, left)) is level


def test_level_is_left_only_at_clearly_more_bytes_than_entered_it() -> None:
    pressure = Pressure()
    assert observe(pressure, 0.0, left=0) is Level.CRITICAL
    assert observe(pressure, 1.0, left=RESERVE // 4 - 1) is Level.CRITICAL
    assert observe(pressure, 2.0, left=RESERVE // 4) is Level.HIGH
    assert observe(pressure, 3.0, left=RESERVE * 5 // 8 - 1) is Level.HIGH
    assert observe(pressure, 4.0, left=RESERVE * 5 // 8) is Level.NORMAL
    assert observe(pressure, 5.0, left=RESERVE // 2) is Level.NORMAL


def test_budget_that_is_used_to_the_full_beside_a_supervisor_is_no_pressure() -> None:
    pressure = Pressure()
    observe(pressure, 0.0, left=0)
    assert observe(pressure, 1.0, left=RESERVE - 60 * MIB) is Level.NORMAL


def test_stall_is_left_only_at_half_of_what_entered_it() -> None:
    pressure = Pressure()
    story = [(9.9, 0.0), (10.0, 0.0), (5.0, 0.0), (30.0, 20.0), (30.0, 10.0), (30.0, 9.9), (4.9, 0.0)]
    levels = [observe(pressure, float(now), some=some, full=full) for now, (some, full) in enumerate(story)]
    assert levels == [
        *(Level.NORMAL, Level.HIGH, Level.HIGH),
        *(Level.CRITICAL, Level.CRITICAL, Level.HIGH, Level.NORMAL),
    ]


def test_stall_of_the_whole_machine_counts_only_while_the_machine_is_short_too() -> None:
    pressure = Pressure()

    def level(now: float, free: int, *, is_ours: bool = False) -> Level:
        return observe(pressure, now, free=free, some=90.0, full=80.0, is_ours=is_ours)

    assert level(0.0, 2 * GIB) is Level.NORMAL
    assert level(1.0, 2 * GIB - 1) is Level.CRITICAL
    assert level(2.0, 5 * GIB // 2) is Level.CRITICAL
    assert level(3.0, 3 * GIB) is Level.NORMAL
    assert level(4.0, 3 * GIB, is_ours=True) is Level.CRITICAL


def test_stalls_alone_block_leases_for_so_long_and_no_longer() -> None:
    pressure = Pressure()
    for now in range(3 * int(MAX_PAUSE_SECONDS)):
        assert observe(pressure, float(now), some=50.0) is Level.HIGH
        assert pressure.blocks_leases(float(now)) == (now < MAX_PAUSE_SECONDS)


def test_stalls_that_come_back_block_leases_again() -> None:
    pressure = Pressure()
    for now in range(40):
        observe(pressure, float(now), some=50.0)
    observe(pressure, 40.0)
    observe(pressure, 41.0, some=50.0)
    assert pressure.blocks_leases(41.0)


def test_bytes_block_leases_for_as_long_as_they_are_short() -> None:
    pressure = Pressure()
    for now in range(200):
        observe(pressure, float(now), left=0, some=50.0)
        assert pressure.blocks_leases(float(now))
    observe(pressure, 200.0, some=50.0)
    assert pressure.level is Level.HIGH
    assert not pressure.blocks_leases(200.0), "the stalls have had their pause"


def test_without_samples_nothing_is_held() -> None:
    pressure = Pressure()
    observe(pressure, 10.0, left=0)
    last = 10.0 + OBSERVATION_VALID_SECONDS
    assert pressure.lapse(last) is Level.CRITICAL
    assert pressure.blocks_leases(last)
    assert not pressure.blocks_leases(last + 0.1)
    assert pressure.lapse(last + 0.1) is Level.NORMAL
    assert (pressure.since, pressure.why) == (last + 0.1, "no sample for 15 s")


def test_what_was_before_a_gap_in_the_samples_keeps_no_level() -> None:
    pressure = Pressure()
    observe(pressure, 0.0, left=0)
    assert observe(pressure, 16.0, left=RESERVE // 2) is Level.NORMAL


def test_stall_that_is_not_of_now_counts_as_none() -> None:
    pressure = Pressure()
    old = replace(CALM, some_percent=90.0, full_percent=90.0)
    now = OBSERVATION_VALID_SECONDS + 0.1
    level = pressure.observe(old, BUDGET, now, free_bytes=6 * GIB, limit_bytes=8 * GIB, used_bytes=0)
    assert level is Level.NORMAL


def test_level_says_since_when_and_with_which_numbers() -> None:
    pressure = Pressure()
    observe(pressure, 1.0)
    observe(pressure, 2.0, left=100 * MIB, some=12.0, full=3.0)
    observe(pressure, 3.0, left=90 * MIB, some=11.0, full=2.0)
    assert pressure.since == 2.0
    assert pressure.why == (
        "90 MiB left, the reserve is 256 MiB; 11 % of the time lost to waiting for memory here, 2 % by all at once"
    )
