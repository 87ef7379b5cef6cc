"""Busy models that do not fit together: each is served again and again, and no load is for nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import StallNoticed
from embeddaemon.supervisor.memory.candidates import TURN_SECONDS
from tests.support.supervisor_story import Story, spec

SECONDS = 100.0
CHANGE_SECONDS = 2.0
"""What leaving, loading and the looks between them take in this world, where processes do everything at once."""


def everything_that_fits_alone(sizes_mib: list[int], spare_percent: int) -> int:
    """A budget for the largest model and some more."""
    largest = max(sizes_mib) * MIB
    return FORK_SERVER_BYTES + largest * (130 + spare_percent) // 100 + 120 * MIB


@given(
    sizes_mib=st.lists(st.integers(150, 700), min_size=2, max_size=5),
    spare_percent=st.integers(0, 120),
    paces=st.lists(st.floats(0.05, 1.5), min_size=10, max_size=30),
    quiet=st.sets(st.integers(0, 4), max_size=2),
)
@settings(max_examples=12, deadline=None)
def test_no_busy_model_waits_longer_than_the_turns_of_the_others(
    sizes_mib: list[int], spare_percent: int, paces: list[float], quiet: set[int]
) -> None:
    """``quiet`` ones ask now and then, the others always have a request open."""
    models = [spec(f"m{number}", estimate=size * MIB) for number, size in enumerate(sizes_mib)]
    story = Story(*models, budget_bytes=everything_that_fits_alone(sizes_mib, spare_percent), min_residence_seconds=1.0)
    story.world.private_bytes = 100 * MIB
    bound = len(models) * (2 * TURN_SECONDS + CHANGE_SECONDS)
    waiting: dict[str, tuple[int, float]] = {}
    answered = dict.fromkeys((model.name for model in models), 0)
    started_at, turn = story.now, 0
    while story.now - started_at < SECONDS:
        for number, model in enumerate(models):
            is_asking = number not in quiet or turn % 13 == number
            if model.name not in waiting and is_asking:
                waiting[model.name] = (story.ask(model.name, deadline_ms=600_000), story.now)
        story.answer_everything()
        for name, (id_, asked_at) in list(waiting.items()):
            if story.outcome(id_) == "ok":
                answered[name] += 1
                del waiting[name]
            else:
                assert story.now - asked_at <= bound, f"{name} waits for {story.now - asked_at:.1f} s"
        story.pass_time(paces[turn % len(paces)])
        turn += 1
        assert sum(story.leased().values()) <= story.budget.leasable_bytes
    for model in models:
        state = story.model(model.name)
        assert state.loads <= answered[model.name] + 1, "loaded, and sent away before it had served"
    busy = [line for line in story.logged("evicting") if line["busy"]]
    assert len(busy) <= len(models) * SECONDS / TURN_SECONDS, "a busy model went before its turn was over"


def test_memory_that_small_models_pass_among_themselves_reaches_the_large_one_that_waits() -> None:
    """The small ones are loaded at different times, so that there is never one at which the turns of all are over."""
    small = [spec(f"small{number}", estimate=200 * MIB) for number in range(6)]
    story = Story(*small, spec("large", estimate=720 * MIB), budget_bytes=FORK_SERVER_BYTES + 860 * MIB)
    story.world.private_bytes = 100 * MIB
    waiting: dict[str, int] = {}
    large = asked_at = None
    for turn in range(400):
        for model in small[: 1 + turn // 5]:
            if model.name not in waiting or story.outcome(waiting[model.name]) != "open":
                waiting[model.name] = story.ask(model.name, deadline_ms=600_000)
        if turn == 100:
            large, asked_at = story.ask("large", deadline_ms=600_000), story.now
        story.answer_everything()
        if large is not None and story.outcome(large) == "ok":
            assert asked_at is not None
            assert story.now - asked_at <= 2 * TURN_SECONDS + CHANGE_SECONDS
            return
        story.pass_time(0.3)
    raise AssertionError(f"it still waits: {story.model('large').waiting}")


def test_notice_of_a_stall_takes_a_look_at_once() -> None:
    story = Story()
    before = story.count(do.TakeSample)
    story.tell(StallNoticed())
    assert story.count(do.TakeSample) == before + 1
