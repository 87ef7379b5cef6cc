"""Who has a claim to memory, on which device, for how long; and what a death for lack of it says against whom."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.core import WaitReason
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import KernelKilled
from embeddaemon.supervisor.memory.candidates import TURN_SECONDS, turn_seconds
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.processes.staffing import wants_of_worker
from tests.support.supervisor_story import LIMIT, Story, spec
from tests.support.supervisor_world import Life

BUDGET = 900 * MIB
RESERVE = 200 * MIB
CRITICAL = RESERVE // 16


def on_card(name: str, **fields: object) -> ModelSpec:
    return replace(spec(name, estimate=500 * MIB, device="cuda"), **fields)  # type: ignore[arg-type]  # by name


def card_bytes_of_one() -> int:
    story = Story(on_card("one"), card_bytes=100_000 * MIB)
    return wants_of_worker(story.state, story.model("one"))[1].bytes


def serve(story: Story, seconds: int) -> None:
    for _ in range(seconds):
        story.answer_everything()
        story.pass_time(1.0)
    story.answer_everything()


def test_worker_that_is_replaced_does_not_lengthen_the_turn_of_its_model() -> None:
    story = Story(spec("one"))
    story.ask("one")
    serve(story, 60)
    turn, loaded_at = turn_seconds(story.model("one")), story.model("one").loaded_at
    story.ask("one")
    story.kill(story.one(ChildKind.WORKER))
    serve(story, 1)
    assert story.model("one").serving
    assert turn_seconds(story.model("one")) == turn == TURN_SECONDS
    assert story.model("one").loaded_at == loaded_at


@pytest.mark.parametrize("keep_alive_seconds", [300.0, math.inf])
def test_preloaded_model_whose_request_expired_has_no_claim_to_memory(keep_alive_seconds: float) -> None:
    story = Story(
        spec("x", estimate=460 * MIB, keep_alive_seconds=keep_alive_seconds),
        spec("preloaded", estimate=460 * MIB, preload=True, keep_alive_seconds=keep_alive_seconds),
        spec("y", estimate=400 * MIB),
        budget_bytes=BUDGET,
    )
    story.world.private_bytes = 100 * MIB
    serve(story, 6)
    story.ask("x")
    serve(story, 6)
    story.ask("x")
    story.run()
    story.ask("preloaded", deadline_ms=1000)
    story.pass_time(2.0)
    serve(story, 10)
    y = story.ask("y", deadline_ms=600_000)
    serve(story, 4)
    assert story.outcome(y) == "ok"


def test_model_that_waits_for_a_card_keeps_nobody_from_host_memory() -> None:
    story = Story(
        on_card("pinned", pinned=True), on_card("waits"), spec("cpu"), card_bytes=card_bytes_of_one() * 3 // 2
    )
    story.ask("pinned")
    serve(story, 3)
    waits = story.ask("waits", deadline_ms=600_000)
    serve(story, 2 * int(TURN_SECONDS))
    cpu = story.ask("cpu", deadline_ms=600_000)
    serve(story, 3)
    assert story.outcome(cpu) == "ok"
    waiting = story.model("waits").waiting
    assert waiting is not None
    assert (waiting.device, waiting.reason) == ("cuda:0", WaitReason.NOTHING_TO_EVICT)
    assert story.outcome(waits) == "open"


def test_large_model_gets_the_card_that_small_ones_pass_among_themselves() -> None:
    one = card_bytes_of_one()
    small = [on_card(f"small{number}") for number in range(4)]
    large = on_card("large", token_budget=100_000)
    story = Story(*small, large, budget_bytes=3900 * MIB, card_bytes=100_000 * MIB)
    needed = wants_of_worker(story.state, story.model("large"))[1].bytes
    story = Story(*small, large, budget_bytes=3900 * MIB, card_bytes=max(needed, 2 * one) + 100 * MIB)
    asked: dict[str, int] = {}
    large_asked = 0
    for turn in range(300):
        for model in small[: 1 + turn // 5]:
            if model.name not in asked or story.outcome(asked[model.name]) != "open":
                asked[model.name] = story.ask(model.name, deadline_ms=600_000)
        if turn == 60:
            large_asked = story.ask("large", deadline_ms=600_000)
        story.answer_everything()
        if large_asked and story.outcome(large_asked) == "ok":
            return
        story.pass_time(0.3)
    raise AssertionError(f"it still waits: {story.model('large').waiting}")


def test_what_a_worker_was_found_to_need_makes_no_model_impossible() -> None:
    story = Story(spec(estimate=300 * MIB), budget_bytes=720 * MIB, cache_bytes=60 * MIB)
    story.world.private_bytes = 100 * MIB
    for _ in range(4):
        story.ask(deadline_ms=600_000)
        story.pass_time(40.0)
        story.run()
        for worker in story.living(ChildKind.WORKER):
            story.grow(worker, 5000 * MIB, is_kept=True)
        story.run()
    serve(story, 60)
    story.unload()
    serve(story, 3)
    id_ = story.ask(deadline_ms=600_000)
    serve(story, 60)
    assert story.outcome(id_) == "ok"


def test_requests_are_not_blamed_for_workers_that_went_because_memory_was_short() -> None:
    story = Story(spec("one"), reserve_bytes=RESERVE)
    id_ = story.ask("one", deadline_ms=600_000)
    story.run()
    for _ in range(3):
        story.free_bytes = CRITICAL
        story.pass_time(3.0)
        story.run()
        story.free_bytes = LIMIT.bytes
        story.pass_time(3.0)
        story.run()
    assert story.model("one").deaths["memory_pressure"] == 3
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_worker_that_does_not_finish_in_time_when_it_is_to_go_is_not_called_silent() -> None:
    story = Story(spec("one"), drain_seconds=3.0)
    id_ = story.ask("one", deadline_ms=600_000)
    story.run()
    story.unload("one")
    story.pass_time(4.0)
    story.run()
    assert story.model("one").deaths == {"drain_timeout": 1}
    assert story.model("one").failures == 0
    serve(story, 2)
    assert story.outcome(id_) == "ok"


def test_template_that_the_machine_has_no_memory_for_is_not_started_again_at_once() -> None:
    story = Story(spec("one"))
    story.ask("one", deadline_ms=600_000)
    story.run_until_ordered(ChildKind.TEMPLATE)
    for _ in range(100):
        for template in story.living(ChildKind.TEMPLATE):
            if template.life is Life.ORDERED:
                story.step("fork", template.child)
            story.run_until_told()
            story.tell(KernelKilled(template.child, by_hard_limit=False))
            story.kill(template)
        story.run_until_told()
        story.pass_time(0.2)
    starts = story.count(do.StartTemplate)
    assert starts <= 8
    assert story.model("one").deaths["template_machine_out_of_memory"] >= 2


def test_one_sample_sends_one_away() -> None:
    story = Story(*[spec(f"m{number}", estimate=200 * MIB) for number in range(4)], reserve_bytes=RESERVE)
    for number in range(4):
        story.ask(f"m{number}")
        serve(story, 1)
    for number in range(4):
        story.ask(f"m{number}", deadline_ms=600_000)
    story.run()
    story.free_bytes = CRITICAL
    story.pass_time(1.1)
    story.is_blind = True
    story.pass_time(13.0)
    assert len(story.logged("recycling")) == 1


def test_stalls_that_never_end_do_not_make_each_request_load_its_model() -> None:
    story = Story(spec("one"), reserve_bytes=RESERVE)
    story.ask("one")
    story.answer_everything()
    story.stall = (15.0, 0.0, True)
    serve(story, 40)
    before = story.count(do.StartTemplate)
    for _ in range(20):
        story.ask("one", deadline_ms=60_000)
        serve(story, 5)
    assert story.count(do.StartTemplate) - before <= 1
