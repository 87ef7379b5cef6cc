"""Workers that live and are not well, models that keep failing: what the supervisor makes of what it hears."""

from __future__ import annotations

import struct

import pytest

from embeddaemon.governor.budget import MIB
from embeddaemon.protocol import link
from embeddaemon.protocol.messages import Vectors
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import WorkerSaid
from embeddaemon.supervisor.housekeeping import FORK_SECONDS
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.cache import Kept
from embeddaemon.supervisor.sickness.canary import SERIAL
from embeddaemon.supervisor.sickness.intensity import Intensity, Limit, back_off_seconds
from embeddaemon.supervisor.sickness.second_opinion import BELIEVED_SECONDS
from tests.support.supervisor_story import Story, spec
from tests.support.supervisor_world import Process

RIGHT, WRONG = (0.6, 0.8), (0.8, -0.6)
STALL_SECONDS = 10.0
LIMIT = Limit(failures=3, window_seconds=60.0, quarantine_seconds=100.0)


def busy_story(**fields: object) -> tuple[Story, int]:
    """A worker that holds one request."""
    story = Story(stall_seconds=STALL_SECONDS, request_timeout_seconds=600.0, **fields)  # type: ignore[arg-type]
    id_ = story.ask()
    story.run()
    return story, id_


def worker_of(story: Story) -> Process:
    return story.one(ChildKind.WORKER)


def commands(story: Story, kind: type[do.Command]) -> list[do.Command]:
    return [each for each in story.commands if isinstance(each, kind)]


def test_worker_whose_latest_thread_hangs_is_killed_after_its_stacks_were_written() -> None:
    story, id_ = busy_story()
    worker = worker_of(story)
    worker.turn_ms, worker.patience_ms = 10_500, 2_000
    story.pass_time(2.0)
    told = [each for each in story.commands if each in (do.DumpStacks(worker.child), do.Kill(worker.child))]
    assert told == [do.DumpStacks(worker.child), do.Kill(worker.child)]
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().deaths == {"stalled": 1}


def test_worker_that_has_much_to_compute_is_not_stalled() -> None:
    story, _ = busy_story()
    worker = worker_of(story)
    worker.turn_ms, worker.patience_ms = 100_000, 120_000
    story.pass_time(5.0)
    assert worker.is_alive
    assert not commands(story, do.DumpStacks)


def test_worker_that_goes_on_after_the_dump_lives() -> None:
    story, _ = busy_story()
    worker = worker_of(story)
    worker.turn_ms = 11_000  # it was stopped, and is not any more
    while not commands(story, do.DumpStacks):
        story.pass_time(0.05)
    worker.turn_ms = 0
    story.pass_time(5.0)
    assert worker.is_alive
    assert len(commands(story, do.DumpStacks)) == 1


@pytest.mark.parametrize("kind", [ChildKind.TEMPLATE, ChildKind.FORK_SERVER])
def test_forker_that_stands_still_writes_its_stacks_before_it_is_killed(kind: ChildKind) -> None:
    story = Story(request_timeout_seconds=600.0)
    story.ask()
    story.run_until_ordered(ChildKind.WORKER if kind is ChildKind.TEMPLATE else ChildKind.TEMPLATE)
    forker = story.one(kind)
    story.pass_time(FORK_SECONDS + 1.0)
    told = [each for each in story.commands if each in (do.DumpStacks(forker.child), do.Kill(forker.child))]
    assert told[:2] == [do.DumpStacks(forker.child), do.Kill(forker.child)]


def test_bad_numbers_are_passed_on_only_when_two_workers_agree() -> None:
    story, id_ = busy_story()
    first = worker_of(story)
    story.answer(first, code="bad_output")
    story.run()
    assert story.outcome(id_) == "open"
    assert not first.is_alive
    second = worker_of(story)
    story.answer(second, code="bad_output")
    story.run()
    assert story.state.counts["failed.bad_output"] == 1
    assert second.is_alive


def test_request_of_a_bad_worker_is_answered_by_a_good_one() -> None:
    story, id_ = busy_story()
    story.answer(code="bad_output")
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.state.counts["failed.bad_output"] == 0


def test_bad_numbers_that_were_agreed_on_cost_no_worker_for_a_while() -> None:
    story, _ = busy_story()
    for _ in range(2):
        story.answer(code="bad_output")
        story.run()
    believed = worker_of(story)
    story.ask()
    story.answer(code="bad_output")
    assert worker_of(story) is believed
    story.pass_time(BELIEVED_SECONDS)
    story.ask()
    story.answer(code="bad_output")
    story.run()
    assert not believed.is_alive


def hear_canary(story: Story, vector: tuple[float, ...], code: str = "") -> None:
    """The worker that was asked last answers."""
    asked = [each for each in story.commands if isinstance(each, do.SendCanary)][-1]
    result = link.Result(asked.worker, asked.incarnation, SERIAL, code, 1, 7, 0, 0)
    frames = [b"header", struct.pack(f"<{len(vector)}f", *vector)] if not code else [b"header"]
    story.tell(WorkerSaid(result, frames))
    story.run()


def canary_story(**fields: object) -> Story:
    """A model that is ready, and whose vector is known."""
    story = Story(spec(preload=True, keep_alive_seconds=1e6), **fields)  # type: ignore[arg-type]  # passed on by name
    story.run()
    hear_canary(story, RIGHT)
    return story


def test_each_worker_is_asked_before_its_first_request() -> None:
    story, _ = busy_story()
    kinds = [type(each) for each in story.commands if isinstance(each, do.SendCanary | do.SendDispatch)]
    assert kinds == [do.SendCanary, do.SendDispatch]


def test_idle_workers_are_asked_now_and_then_and_busy_ones_are_not() -> None:
    story = canary_story(canary_seconds=60.0)
    story.pass_time(59.0)
    assert len(commands(story, do.SendCanary)) == 1
    story.pass_time(2.0)
    assert len(commands(story, do.SendCanary)) == 2
    story.ask()
    story.pass_time(120.0)
    assert len(commands(story, do.SendCanary)) == 2


def test_nobody_is_asked_where_that_is_off() -> None:
    story = Story(spec(preload=True, keep_alive_seconds=1e6), canary_seconds=0.0)
    story.run()
    story.pass_time(1000.0)
    assert not commands(story, do.SendCanary)


def test_canary_is_no_use_of_the_model() -> None:
    story = Story(spec(preload=True, keep_alive_seconds=50.0), canary_seconds=5.0)
    story.run()
    for _ in range(5):
        hear_canary(story, RIGHT)
        story.pass_time(9.0)
    story.pass_time(10.0)
    story.run()
    assert story.model().is_absent
    assert story.state.counts["answered"] == 0


@pytest.mark.parametrize(("vector", "code"), [(WRONG, ""), ((), "bad_output"), ((1.0, 0.0, 0.0), "")])
def test_worker_that_differs_is_replaced_and_its_request_computed_again(vector: tuple[float, ...], code: str) -> None:
    story = canary_story()
    id_ = story.ask()
    worker = worker_of(story)
    hear_canary(story, vector, code)
    assert not worker.is_alive
    hear_canary(story, RIGHT)
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().deaths == {"canary_failed": 1}
    assert len(story.logged("worker_canary_failed")) == 1
    assert story.model().canary.failures == 0


def test_worker_that_could_not_compute_it_is_not_replaced() -> None:
    story = canary_story()
    hear_canary(story, (), "expired")
    assert worker_of(story).is_alive
    assert story.model().canary.failures == 0


def test_two_workers_in_a_row_that_differ_put_the_model_into_quarantine() -> None:
    story = canary_story()
    for _ in range(2):
        hear_canary(story, WRONG)
    assert story.outcome(story.ask()) == "quarantined"
    assert not story.living(ChildKind.WORKER)
    story.pass_time(61.0)
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    hear_canary(story, WRONG)  # nobody knows which was right: this one is from now on
    assert worker_of(story).is_alive


def test_model_that_fails_often_is_left_alone_and_its_clients_are_told_at_once() -> None:
    story = Story(
        spec(estimate=200 * MIB),
        spec("other", estimate=200 * MIB, preload=True),
        restart_limit=3,
        quarantine_seconds=50.0,
    )
    story.load()
    for _ in range(3):
        story.run()
        (worker,) = [each for each in story.living(ChildKind.WORKER) if each.worker == 0]
        story.kill(worker, -11)
        story.load()  # it is wanted all the time
        story.run()
        story.pass_time(2.0)
    id_ = story.ask()
    assert story.error(id_).code == "quarantined"
    retry_after_ms = story.error(id_).retry_after_ms
    assert retry_after_ms is not None
    assert 45_000 < retry_after_ms <= 50_000
    other = story.ask("other")
    story.answer_everything()
    assert story.outcome(other) == "ok"
    assert story.outcome(story.load()) == "quarantined"
    story.pass_time(51.0)
    again = story.ask()
    story.answer_everything()
    assert story.outcome(again) == "ok"


def test_failures_beyond_the_window_are_forgotten() -> None:
    intensity = Intensity()
    assert not any(intensity.failed(child, 30.0 * child, LIMIT) for child in range(1, 20))


def test_quarantine_lasts_longer_each_time_that_it_follows_another_one() -> None:
    intensity, now, lengths = Intensity(), 0.0, []
    for _ in range(8):
        while not intensity.failed(1, now, LIMIT):
            now += 1.0
        lengths.append(intensity.quarantined_until - now)
        now = intensity.quarantined_until
    assert lengths == [100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 3600.0, 3600.0]
    intensity.lift()
    assert not intensity.is_quarantined(now)


def test_quarantine_that_comes_long_after_another_one_is_a_first_one() -> None:
    intensity = Intensity()
    intensity.quarantine(0.0, LIMIT)
    intensity.quarantine(1000.0, LIMIT)
    assert intensity.quarantined_until == 1100.0


def test_forgiven_failures_count_no_more() -> None:
    intensity = Intensity()
    intensity.failed(1, 0.0, LIMIT)
    intensity.failed(2, 1.0, LIMIT)
    assert intensity.forgive({1, 2, 3}) == 2
    assert not intensity.failed(4, 2.0, LIMIT)


def test_back_off_doubles_up_to_its_longest_with_jitter() -> None:
    middle = [back_off_seconds(failures, 0.5) for failures in range(9)]
    assert middle == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert back_off_seconds(3, 0.0) == 1.5
    assert back_off_seconds(10_000, 0.999) < 37.5


def test_second_signal_to_stop_is_no_death_of_workers() -> None:
    story, _ = busy_story()
    story.stop()
    story.stop()
    story.run()
    assert story.logged("worker_died") == []
    assert story.exit_code == 0


def test_workers_that_are_told_to_end_together_with_us_have_not_died() -> None:
    story, _ = busy_story()
    worker = worker_of(story)
    story.stop()
    story.kill(worker, -15)
    story.run()
    assert story.logged("worker_died") == []


def test_death_of_what_still_serves_does_not_end_a_quarantine_and_who_waited_for_it_is_told() -> None:
    story = Story(spec(workers=(2, 2)), restart_limit=2)
    story.load()
    story.run()
    first, last = story.living(ChildKind.WORKER)
    story.kill(first)
    story.run()
    story.kill(story.living(ChildKind.WORKER)[-1])
    story.run_until_told()
    assert story.model().retry_at == story.now + 60.0
    held = story.ask()
    story.kill(last)
    story.run_until_told()
    assert story.model().retry_at == story.now + 60.0
    assert story.outcome(held) == "quarantined"
    assert not story.living(ChildKind.WORKER)
    story.pass_time(61.0)
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_model_in_quarantine_is_tried_at_once_when_it_is_configured_to_be_another() -> None:
    story = Story(restart_limit=2)
    story.ask()
    for _ in range(2):
        story.run()
        story.kill(worker_of(story))
    story.run_until_told()
    assert story.outcome(story.ask()) == "quarantined"
    story.configure(spec(token_budget=4096), restart_limit=2)
    id_ = story.ask()
    story.run()
    story.kill(worker_of(story))
    story.answer_everything()
    assert story.outcome(id_) == "ok", "its failures before are not its own"


def test_model_that_is_doubted_is_loaded_anew_with_nothing_of_before_and_comes_back_by_itself() -> None:
    story = Story(spec(preload=True, keep_alive_seconds=1e6, workers=(2, 2)))
    story.run()
    hear_canary(story, RIGHT)
    template = story.one(ChildKind.TEMPLATE)
    before = story.living(ChildKind.WORKER)
    for _ in range(2):
        hear_canary(story, WRONG)
    story.run()
    assert not template.is_alive
    assert not any(each.is_alive for each in before)
    assert story.outcome(story.ask()) == "quarantined"
    story.pass_time(61.0)
    story.run()
    assert len(story.model().serving) == 2


def test_answers_that_were_kept_are_dropped_when_a_worker_turns_out_to_compute_wrongly() -> None:
    story = canary_story(cache_bytes=40 * MIB)
    key, kept = b"key", Kept(Vectors(id=1, model="mini", count=1, dim=1, dtype="float32", tokens=1), (b"four",))
    story.state.cache.keep(key, kept)
    hear_canary(story, WRONG)
    assert story.state.cache.find(key) is None
    assert story.state.cache.used_bytes == 0
