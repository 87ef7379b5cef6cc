from __future__ import annotations

from embeddaemon.protocol.messages import Health
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.stopping import STOP_SECONDS
from tests.support.supervisor_story import CLIENT, Story, spec

DRAIN_SECONDS = 5.0


def busy_story() -> tuple[Story, int]:
    story = Story(drain_seconds=DRAIN_SECONDS)
    id_ = story.ask()
    story.run()
    return story, id_


def test_idle_daemon_without_processes_stops_at_once() -> None:
    story = Story()
    story.stop()
    assert story.exit_code == 0


def test_idle_processes_go_and_are_reaped_before_the_exit() -> None:
    story = Story()
    story.load()
    story.run()
    story.stop()
    assert story.count(do.Exit) == 0
    story.run()
    assert story.exit_code == 0
    assert not story.leased()
    assert story.count(do.SendDrain) == 1


def test_request_in_flight_is_answered_before_the_exit() -> None:
    story, id_ = busy_story()
    story.stop()
    story.pass_time(1.0)
    assert story.count(do.SendDrain) == 0
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.exit_code == 0


def test_nothing_new_is_taken() -> None:
    story, _ = busy_story()
    story.stop()
    assert story.outcome(story.ask()) == "draining"
    assert story.outcome(story.load()) == "draining"


def test_queued_request_whose_model_is_still_coming_is_served() -> None:
    story = Story(drain_seconds=DRAIN_SECONDS)
    id_ = story.ask()
    story.run_until_ordered(ChildKind.TEMPLATE)
    story.stop()
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.exit_code == 0


def test_queued_request_whose_model_never_comes_ends_at_the_drain_deadline() -> None:
    story = Story(drain_seconds=DRAIN_SECONDS)
    id_ = story.ask()
    story.stop()
    story.pass_time(DRAIN_SECONDS + 0.3)
    assert story.outcome(id_) == "draining"
    story.run()
    assert story.exit_code == 0


def test_those_who_wait_for_a_load_are_told_when_nothing_else_is_open() -> None:
    story = Story()
    loaded = story.load()
    story.stop()
    assert story.outcome(loaded) == "draining"


def test_worker_that_does_not_go_is_killed() -> None:
    story, id_ = busy_story()
    story.stop()
    story.pass_time(DRAIN_SECONDS + STOP_SECONDS + 0.5)
    assert story.outcome(id_) == "draining"
    assert not story.living(ChildKind.WORKER)
    story.run()
    assert story.exit_code == 0


def test_exit_comes_even_when_nothing_can_be_reaped() -> None:
    story, _ = busy_story()
    story.stop()
    story.pass_time(DRAIN_SECONDS + 2 * STOP_SECONDS + 0.5)
    assert story.exit_code == 0


def test_asked_again_it_stops_at_once() -> None:
    story, id_ = busy_story()
    story.stop()
    story.stop()
    assert story.outcome(id_) == "draining"
    assert not story.living(ChildKind.WORKER)
    story.run()
    assert story.exit_code == 0


def test_asked_over_and_over_it_does_not_take_longer() -> None:
    story, _ = busy_story()
    for _ in range(20):
        story.stop()
        story.pass_time(STOP_SECONDS / 10)
    assert story.exit_code == 0


def test_processes_that_come_while_it_stops_are_killed_as_soon_as_they_can_be() -> None:
    story = Story(spec(preload=True))
    template = story.run_until_ordered(ChildKind.TEMPLATE)
    story.step("fork", template.child)
    story.stop()
    story.run()
    assert not template.is_alive
    assert story.exit_code == 0


def test_worker_that_is_told_to_end_while_it_is_idle_and_we_drain_has_not_died() -> None:
    story = Story(spec(workers=(2, 2)))
    story.load()
    story.run()
    id_ = story.ask()
    story.stop()
    busy, idle = sorted(story.living(ChildKind.WORKER), key=lambda each: not each.held)
    story.kill(idle, -15)
    story.run()
    story.answer(busy)
    story.run()
    assert story.outcome(id_) == "ok"
    assert story.logged("worker_died") == []
    assert story.exit_code == 0


def test_those_who_wait_for_a_health_check_that_wakes_a_model_are_answered_before_the_exit() -> None:
    story = Story()
    id_ = story.send(Health(id=7, deep=True, wake=True))
    story.stop()
    story.run()
    assert story.exit_code == 0
    (reply,) = story.answers[CLIENT, id_]
    assert isinstance(reply, do.Reply)
    assert reply.document is not None
    assert reply.document["models"][0]["deep"]["why"] == "the daemon is stopping"
