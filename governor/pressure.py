"""Whether memory is short here and now: NORMAL, HIGH or CRITICAL, from bytes and from the kernel's stalls.

Only the level is decided here. What is done at each (no new leases, trim, evict, recycle) is the supervisor's, and
whether something fits is core.py's: ``headroom`` protects bytes at every level.
"""

from __future__ import annotations

from enum import IntEnum

from embeddaemon.governor.budget import Budget, format_bytes
from embeddaemon.governor.samples import Stall


class Level(IntEnum):
    """How short memory is; the greater the shorter."""

    NORMAL = 0
    HIGH = 1
    CRITICAL = 2


# Samples come every second; after so long without one, what the last one said is over.
OBSERVATION_VALID_SECONDS = 15.0

# What is left (of the machine, or of our budget, whichever is less) as parts of the reserve. Leases never reach into
# the reserve, so half of it gone means that somebody holds more than was promised; an eighth left is used up within a
# sample or two. A level is left well above what enters it, and below what is left of a reserve of 256 MiB when all else
# is leased and used and the supervisor (60 MB) lives: a budget that is used to the full is no trouble.
HIGH_BELOW, HIGH_UNTIL = (1, 2), (5, 8)
CRITICAL_BELOW, CRITICAL_UNTIL = (1, 8), (1, 4)

# Percent of the last ten seconds. A machine that merely reads files again loses 1 or 2 % of its time now and then; with
# a tenth lost somebody swaps or reads the same pages again and again. With a fifth of the time lost to everybody at
# once nothing gets done. The average falls by a third in four seconds, so half of it is clearly better.
HIGH_AT_SOME_PERCENT, HIGH_UNTIL_SOME_PERCENT = 10.0, 5.0
CRITICAL_AT_FULL_PERCENT, CRITICAL_UNTIL_FULL_PERCENT = 20.0, 10.0

# The whole machine's stall counts while less than a quarter of the limit is free (and until a third is): other
# containers that thrash against limits of their own leave the machine plenty, and nothing that we did would help them.
MACHINE_STALL_BELOW, MACHINE_STALL_UNTIL = (1, 4), (1, 3)

# Longest that stalls alone keep us from leasing: twice what trimming, evicting and recycling take to show in an average
# over ten seconds. Who still stalls then is not helped by our waiting.
MAX_PAUSE_SECONDS = 30.0


class Pressure:
    """The level of host memory. Bytes and stalls have a level each, with its own memory; the higher one counts.

    ``level`` holds since ``since`` (monotonic seconds); ``why`` says with which numbers, for a person.
    """

    def __init__(self) -> None:
        self.level = Level.NORMAL
        self.since = 0.0
        self.why = "nothing was measured yet"
        self._by_bytes = Level.NORMAL
        self._by_stalls = Level.NORMAL
        self._stalled_since = 0.0
        self._observed_at: float | None = None

    @property
    def level_by_bytes(self) -> Level:
        """The level that bytes alone give: what there is, whoever waits for it."""
        return self._by_bytes

    def observe(
        self,
        stall: Stall | None,
        budget: Budget,
        now: float,
        *,
        free_bytes: int,
        limit_bytes: int,
        used_bytes: int,
    ) -> Level:
        """The level after what was measured at ``now``; a stall that is not of now counts as none.

        ``free_bytes`` and ``limit_bytes`` are of the sample, ``used_bytes`` what our whole tree was measured to hold.
        """
        self.lapse(now)
        self._observed_at = now
        left_bytes = min(free_bytes, budget.bytes - used_bytes)
        self._by_bytes = _level_by_bytes(self._by_bytes, left_bytes, budget.reserve_bytes)
        if stall is not None and now - stall.taken_at > OBSERVATION_VALID_SECONDS:
            stall = None
        before = self._by_stalls
        self._by_stalls = _level_by_stalls(before, stall, free_bytes, limit_bytes)
        if before is Level.NORMAL:
            self._stalled_since = now
        return self._enter(max(self._by_bytes, self._by_stalls), _numbers(stall, left_bytes, budget), now)

    def lapse(self, now: float) -> Level:
        """The level at ``now`` without a new sample: NORMAL, and everything forgotten, once the last one is too old."""
        if self._is_stale(now):
            self._by_bytes = self._by_stalls = Level.NORMAL
            self._observed_at = None
            self._enter(Level.NORMAL, f"no sample for {OBSERVATION_VALID_SECONDS:.0f} s", now)
        return self.level

    def blocks_leases(self, now: float) -> bool:
        """Whether nothing new may be leased now. For stalls alone at most ``MAX_PAUSE_SECONDS`` of each episode.

        An episode of stalls lasts from the observation that enters a level to the one that leaves it.
        """
        if self._is_stale(now):
            return False
        if self._by_bytes is not Level.NORMAL:
            return True
        return self._by_stalls is not Level.NORMAL and now - self._stalled_since < MAX_PAUSE_SECONDS

    def _is_stale(self, now: float) -> bool:
        return self._observed_at is not None and now - self._observed_at > OBSERVATION_VALID_SECONDS

    def _enter(self, level: Level, why: str, now: float) -> Level:
        if level is not self.level:
            self.since = now
        self.level, self.why = level, why
        return level


def _level_by_bytes(current: Level, left_bytes: int, reserve_bytes: int) -> Level:
    entered = _level(
        _is_below(left_bytes, HIGH_BELOW, reserve_bytes), _is_below(left_bytes, CRITICAL_BELOW, reserve_bytes)
    )
    kept = _level(
        _is_below(left_bytes, HIGH_UNTIL, reserve_bytes), _is_below(left_bytes, CRITICAL_UNTIL, reserve_bytes)
    )
    return max(entered, min(current, kept))


def _level_by_stalls(current: Level, stall: Stall | None, free_bytes: int, limit_bytes: int) -> Level:
    if stall is None:
        return Level.NORMAL
    share = MACHINE_STALL_BELOW if current is Level.NORMAL else MACHINE_STALL_UNTIL
    if not stall.is_ours and not _is_below(free_bytes, share, limit_bytes):
        return Level.NORMAL
    some, full = stall.some_percent, stall.full_percent
    entered = _level(some >= HIGH_AT_SOME_PERCENT, full >= CRITICAL_AT_FULL_PERCENT)
    kept = _level(some >= HIGH_UNTIL_SOME_PERCENT, full >= CRITICAL_UNTIL_FULL_PERCENT)
    return max(entered, min(current, kept))


def _level(is_high: bool, is_critical: bool) -> Level:  # noqa: FBT001 - two measurements, not a mode
    if is_critical:
        return Level.CRITICAL
    return Level.HIGH if is_high else Level.NORMAL


def _is_below(count: int, part: tuple[int, int], whole: int) -> bool:
    return count * part[1] < whole * part[0]


def _numbers(stall: Stall | None, left_bytes: int, budget: Budget) -> str:
    text = f"{format_bytes(left_bytes)} left, the reserve is {format_bytes(budget.reserve_bytes)}"
    if stall is None:
        return text
    where = "here" if stall.is_ours else "on the whole machine"
    return (
        f"{text}; {stall.some_percent:.0f} % of the time lost to waiting for memory {where}, "
        f"{stall.full_percent:.0f} % by all at once"
    )
