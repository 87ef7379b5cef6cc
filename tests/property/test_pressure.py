"""Random histories of what was measured, and the level of pressure that each must lead to."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embeddaemon.governor.budget import Budget
from embeddaemon.governor.pressure import MAX_PAUSE_SECONDS, OBSERVATION_VALID_SECONDS, Level, Pressure
from embeddaemon.governor.samples import Limit, Stall

LIMIT_BYTES = 12_000
BUDGET = Budget("ram", 8_000, 800, Limit(LIMIT_BYTES, "test"))
PLENTY = 8_000

# What enters a level and what keeps it, written down again: bytes that are left, percent of time lost, and how much
# of the machine may be free for its stalls to count.
ENTER_LEFT = {Level.HIGH: 400, Level.CRITICAL: 100}
KEEP_LEFT = {Level.HIGH: 500, Level.CRITICAL: 200}
ENTER_LOST = {Level.HIGH: 10.0, Level.CRITICAL: 20.0}
KEEP_LOST = {Level.HIGH: 5.0, Level.CRITICAL: 10.0}
ENTER_FREE, KEEP_FREE = 3_000, 4_000

left_bytes = st.one_of(st.integers(-500, PLENTY), st.sampled_from((99, 100, 199, 200, 399, 400, 499, 500)))
free_bytes = st.one_of(st.integers(0, LIMIT_BYTES), st.sampled_from((2_999, 3_000, 3_999, 4_000)))
percents = st.one_of(st.floats(0.0, 100.0), st.sampled_from((4.9, 5.0, 9.9, 10.0, 19.9, 20.0)))


class PressureStory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pressure = Pressure()
        self.observed_at = 0.0
        self.left = PLENTY
        self.blocked_alone_since: float | None = None
        self.pause_is_over = False

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(left=left_bytes, free=free_bytes, some=percents, full=percents, is_ours=st.booleans())
    def something_is_measured(self, left: int, free: int, some: float, full: float, *, is_ours: bool) -> None:
        self.observe(Stall(self.now, some, min(some, full), is_ours), free, BUDGET.bytes - left)

    @rule(left=left_bytes, some=percents)
    def a_stall_is_old(self, left: int, some: float) -> None:
        taken_at = self.now - OBSERVATION_VALID_SECONDS - 1
        self.observe(Stall(taken_at, some, some, is_ours=True), PLENTY, BUDGET.bytes - left)

    @rule(some=percents, full=percents, seconds=st.integers(1, 40))
    def stalls_go_on_while_bytes_are_plenty(self, some: float, full: float, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.observe(Stall(self.now, some, min(some, full), is_ours=True), PLENTY, 0)

    @rule(has_stall=st.booleans())
    def everything_is_good(self, *, has_stall: bool) -> None:
        self.observe(Stall(self.now, 0.0, 0.0, is_ours=True) if has_stall else None, PLENTY, 0)
        assert self.pressure.level is Level.NORMAL
        assert not self.pressure.blocks_leases(self.now)

    @rule(level=st.sampled_from((Level.HIGH, Level.CRITICAL)), share=st.floats(0.0, 0.99))
    def bytes_between_leaving_and_entering_keep_the_level(self, level: Level, share: float) -> None:
        low, high = ENTER_LEFT[level], KEEP_LEFT[level]
        self.observe(None, PLENTY, BUDGET.bytes - low + 1)
        self.observe(None, PLENTY, BUDGET.bytes - low - int((high - low) * share))
        assert self.pressure.level >= level

    @rule(level=st.sampled_from((Level.HIGH, Level.CRITICAL)), share=st.floats(0.0, 1.0), is_ours=st.booleans())
    def stalls_between_leaving_and_entering_keep_the_level(self, level: Level, share: float, *, is_ours: bool) -> None:
        low, high = KEEP_LOST[level], ENTER_LOST[level]
        self.observe(Stall(self.now, high, high, is_ours), ENTER_FREE - 1, 0)
        percent = low + (high - low) * share
        self.observe(Stall(self.now, percent, percent, is_ours), KEEP_FREE - 1, 0)
        assert self.pressure.level >= level

    def observe(self, stall: Stall | None, free: int, used: int) -> None:
        is_stale = self.now - self.observed_at > OBSERVATION_VALID_SECONDS
        before, since = self.pressure.level, self.pressure.since
        level = self.pressure.observe(
            stall, BUDGET, self.now, free_bytes=free, limit_bytes=LIMIT_BYTES, used_bytes=used
        )
        assert level is self.pressure.level
        self.observed_at, self.left = self.now, min(free, BUDGET.bytes - used)
        for each in (Level.HIGH, Level.CRITICAL):
            enters = self.left < ENTER_LEFT[each] or lost(stall, each, free, ENTER_FREE, self.now) >= ENTER_LOST[each]
            keeps = self.left < KEEP_LEFT[each] or lost(stall, each, free, KEEP_FREE, self.now) >= KEEP_LOST[each]
            if before >= each and not is_stale:
                assert level >= each or not enters, f"{each.name} was left with numbers that enter it"
                assert level < each or keeps, f"{each.name} has no exit"
            elif lost(stall, each, free, ENTER_FREE, self.now) == lost(stall, each, free, KEEP_FREE, self.now):
                assert (level >= each) == enters, f"{each.name} must be entered by its own numbers, at once"
        if is_stale:
            self.blocked_alone_since, self.pause_is_over = None, False
        else:
            assert self.pressure.since == (since if level is before else self.now)
        assert "left" in self.pressure.why
        self.leases_are_blocked_for_a_reason_and_not_for_ever()

    @invariant()
    def leases_are_blocked_for_a_reason_and_not_for_ever(self) -> None:
        is_blocked = self.pressure.blocks_leases(self.now)
        is_normal = self.pressure.level == Level.NORMAL
        assert not (is_blocked and is_normal)
        if is_normal or self.left < KEEP_LEFT[Level.HIGH]:
            self.blocked_alone_since, self.pause_is_over = None, False
        elif is_blocked:
            assert not self.pause_is_over, "the same stalls blocked again"
            self.blocked_alone_since = self.now if self.blocked_alone_since is None else self.blocked_alone_since
            assert self.now - self.blocked_alone_since < MAX_PAUSE_SECONDS
        else:
            self.pause_is_over = True

    @invariant()
    def bytes_that_are_short_block_leases(self) -> None:
        is_stale = self.now - self.observed_at > OBSERVATION_VALID_SECONDS
        if self.left < ENTER_LEFT[Level.HIGH] and not is_stale:
            assert self.pressure.blocks_leases(self.now)

    @invariant()
    def nothing_is_held_on_old_numbers(self) -> None:
        if self.now - self.observed_at > OBSERVATION_VALID_SECONDS:
            assert not self.pressure.blocks_leases(self.now)
            assert self.pressure.lapse(self.now) is Level.NORMAL


def lost(stall: Stall | None, level: Level, free: int, free_below: int, now: float) -> float:
    """Percent of time that counts towards a level."""
    if stall is None or now - stall.taken_at > OBSERVATION_VALID_SECONDS:
        return 0.0
    if not stall.is_ours and free >= free_below:
        return 0.0
    return stall.some_percent if level is Level.HIGH else stall.full_percent


TestPressure = PressureStory.TestCase
TestPressure.settings = settings(max_examples=100, stateful_step_count=30)
