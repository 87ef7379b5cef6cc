from __future__ import annotations

from embeddaemon.governor.budget import MIB
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.memory.candidates import TURN_SECONDS
from embeddaemon.supervisor.memory.room import STALE_SECONDS
from embeddaemon.supervisor.processes.child import ChildKind
from tests.support.supervisor_story import Story, spec

BUDGET = 900 * MIB
"""The fork server (352 MiB) and one model of 400 MiB with the peak of its loading, not two."""


def two_models(**fields: object) -> Story:
    models = spec("one", estimate=400 * MIB), spec("two", estimate=400 * MIB)
    return Story(*models, budget_bytes=BUDGET, **fields)  # type: ignore[arg-type]  # passed on by name


def test_model_that_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    story = Story(spec(estimate=3000 * MIB), budget_bytes=BUDGET)
    asked, loaded = story.ask(), story.load()
    for id_ in (asked, loaded):
        error = story.error(id_)
        assert error.code == "no_headroom"
        assert error.details["limit_bytes"] == BUDGET
        assert isinstance(error.details["needed_bytes"], int)
        assert error.details["needed_bytes"] > 3000 * MIB
        assert error.details["available_bytes"] == BUDGET
    assert not story.world.processes
    assert story.state.counts["refused.no_headroom"] == 2


def test_models_that_can_never_fit_are_named_at_the_start_and_after_a_reload_in_one_line() -> None:
    large, larger = spec("large", estimate=3000 * MIB), spec("larger", estimate=4000 * MIB)
    story = Story(spec(), large, larger, budget_bytes=BUDGET)
    (warning,) = story.logged("will_never_fit")
    assert warning["models"] == "large,larger"
    assert str(warning["why"]).startswith("large needs ")
    assert "; larger needs " in str(warning["why"])
    story.configure(spec(), larger)
    assert [each["models"] for each in story.logged("will_never_fit")] == ["large,larger", "larger"]
    story.configure(spec())
    assert len(story.logged("will_never_fit")) == 2


def test_idle_model_makes_room_for_another() -> None:
    story = two_models()
    story.ask("one")
    story.answer_everything()
    story.pass_time(3.0)
    id_ = story.ask("two")
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model("one").is_absent


def test_model_that_was_only_just_loaded_is_not_sent_away() -> None:
    story = two_models(min_residence_seconds=10.0)
    story.ask("one")
    story.answer_everything()
    id_ = story.ask("two")
    story.pass_time(5.0)
    assert story.model("one").serving
    assert story.outcome(id_) == "open"
    story.pass_time(6.0)
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_request_that_waited_for_memory_in_vain_expires_with_the_numbers() -> None:
    story = Story(spec("one", estimate=400 * MIB, pinned=True), spec("two", estimate=400 * MIB), budget_bytes=BUDGET)
    story.ask("one")
    story.answer_everything()
    id_ = story.ask("two", deadline_ms=6000)
    story.pass_time(6.1)
    error = story.error(id_)
    assert error.code == "expired"
    assert error.details["waited_for"] == "memory"
    assert error.details["limit_bytes"] == BUDGET
    assert "limit" in error.message


def test_model_waits_while_others_hold_the_machines_memory() -> None:
    story = Story()
    story.free_bytes = 100 * MIB
    id_ = story.ask()
    story.pass_time(3.0)
    assert not story.world.processes
    story.free_bytes = 3000 * MIB
    story.pass_time(STALE_SECONDS + 0.5)
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_nothing_is_started_on_an_old_sample() -> None:
    story = Story()
    story.ask()
    taken = next(number for number, each in enumerate(story.commands) if isinstance(each, do.TakeSample))
    started = next(number for number, each in enumerate(story.commands) if isinstance(each, do.StartForkServer))
    assert taken < started


def test_busy_models_that_fit_only_one_at_a_time_take_turns() -> None:
    story = two_models()
    story.ask("one", deadline_ms=60_000)
    two = last = story.ask("two", deadline_ms=60_000)
    story.run()
    while story.model("one").serving:
        # Never idle: always one more before the last is answered.
        last = story.ask("one", deadline_ms=60_000)
        worker = story.one(ChildKind.WORKER)
        story.answer_one(worker)
        story.deliver(worker)
        story.pass_time(0.1)
    assert TURN_SECONDS <= story.now - 100.0 <= TURN_SECONDS + 1.0
    story.answer_everything()
    assert story.outcome(two) == "ok"
    story.pass_time(3.0)
    story.answer_everything()
    assert story.outcome(last) == "ok"


def test_memory_on_its_way_back_goes_to_who_waits_longest() -> None:
    story = Story(
        spec("big", estimate=800 * MIB),
        spec("other", estimate=400 * MIB),
        spec("small", estimate=200 * MIB),
        budget_bytes=1300 * MIB,
    )
    story.ask("other")
    story.answer_everything()
    story.pass_time(3.0)
    big = story.ask("big")

    small = story.ask("small")
    story.answer_everything()
    assert story.outcome(big) == "ok"
    story.pass_time(3.0)
    story.answer_everything()
    assert story.outcome(small) == "ok"
    order = [each.order.card.name for each in story.commands if isinstance(each, do.StartTemplate)]
    assert order == ["other", "big", "small"]


def test_preloaded_model_without_work_sends_nobody_away() -> None:
    story = Story(
        spec("one", estimate=400 * MIB, preload=True),
        spec("two", estimate=400 * MIB, preload=True),
        budget_bytes=BUDGET,
    )
    story.run()
    story.pass_time(60.0)
    story.run()
    assert story.model("one").serving
    assert not story.model("two").serving


def test_model_that_nobody_waits_for_any_more_sends_nobody_away() -> None:
    story = two_models(min_residence_seconds=20.0)
    story.ask("one")
    story.answer_everything()
    story.ask("two", deadline_ms=1000)
    story.pass_time(60.0)
    story.run()
    assert story.model("one").serving
    assert not story.model("two").is_wanted


def test_processes_that_are_going_are_counted_on_instead_of_sending_more_away() -> None:
    story = Story(
        spec("dying", estimate=400 * MIB), spec("idle", estimate=200 * MIB), spec("new", estimate=400 * MIB),
        budget_bytes=1250 * MIB,
    )  # fmt: skip
    story.ask("dying")
    story.ask("idle")
    story.answer_everything()
    story.pass_time(3.0)
    template = next(each for each in story.living(ChildKind.TEMPLATE) if each.child == story.model("dying").template)
    story.unload("dying")
    story.ask("new")
    assert story.model("idle").serving
    assert template.is_alive
    story.run()
    assert story.model("idle").serving
    assert story.model("new").serving
