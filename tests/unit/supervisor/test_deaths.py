from __future__ import annotations

import pytest

from embeddaemon.errors import FailedLoad
from embeddaemon.governor.budget import MIB
from embeddaemon.protocol import control
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import ChildReaped, ControlLost, ForkerSaid, StartFailed, TimePassed
from embeddaemon.supervisor.housekeeping import FORK_SECONDS, REPORT_SECONDS
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.processes.endings import WRITE_OFF_SECONDS
from tests.support.supervisor_story import Story, spec
from tests.support.supervisor_world import Life, Process


def busy_story(**fields: object) -> tuple[Story, int]:
    """A worker that holds one request."""
    story = Story(**fields)  # type: ignore[arg-type]  # passed on by name
    id_ = story.ask()
    story.run()
    return story, id_


def kill_worker(story: Story, exit_code: int = -9) -> Process:
    worker = story.one(ChildKind.WORKER)
    story.kill(worker, exit_code)
    story.run()
    return worker


def test_request_of_a_killed_worker_is_answered_by_its_successor_at_once() -> None:
    story, id_ = busy_story()
    kill_worker(story)
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.now == 100.0


def test_request_that_two_workers_died_of_is_answered_so() -> None:
    story, id_ = busy_story()
    kill_worker(story)
    kill_worker(story)
    assert story.outcome(id_) == "worker_crashed"
    assert "SIGKILL" in story.error(id_).message
    assert story.error(id_).details == {"attempts": 2, "death": "killed"}


def test_suspect_is_computed_alone_and_innocents_after_it() -> None:
    story = Story()
    ids = [story.ask() for _ in range(5)]
    story.run()
    kill_worker(story)
    for id_ in ids:
        worker = story.one(ChildKind.WORKER)
        assert len(worker.held) == 1
        assert story.outcome(id_) == "open"
        story.answer(worker)
    assert {story.outcome(id_) for id_ in ids} == {"ok"}


def test_what_a_dead_worker_held_goes_to_one_that_is_idle() -> None:
    story = Story(spec(workers=(2, 2), estimate=200 * MIB))
    story.load()
    story.run()
    id_ = story.ask()
    busy, idle = sorted(story.living(ChildKind.WORKER), key=lambda each: not each.held)
    story.kill(busy)
    story.step("reap", busy.child)
    story.step("control", story.one(ChildKind.TEMPLATE).child)
    assert idle.held
    story.answer(idle)
    assert story.outcome(id_) == "ok"


def test_third_death_in_a_row_waits_and_new_requests_are_told_how_long() -> None:
    story, _ = busy_story()
    kill_worker(story)
    kill_worker(story)
    assert not story.living(ChildKind.WORKER)
    id_ = story.ask()
    assert story.outcome(id_) == "backing_off"
    assert story.error(id_).retry_after_ms == 500
    story.pass_time(1.0)
    again = story.ask()
    story.answer_everything()
    assert story.outcome(again) == "ok"


def test_request_in_the_queue_outlives_the_back_off() -> None:
    story, _ = busy_story()
    kill_worker(story)
    waiting = story.ask()
    kill_worker(story)
    story.pass_time(1.0)
    story.answer_everything()
    assert story.outcome(waiting) == "ok"


def test_worker_that_exits_by_itself_is_not_started_for_ever() -> None:
    story = Story(spec(preload=True))
    story.run()
    for _ in range(100):
        if workers := story.living(ChildKind.WORKER):
            story.kill(workers[0], 0)
        story.run()
    assert story.count(do.StartWorker) <= 3


@pytest.mark.parametrize("kind", [ChildKind.TEMPLATE, ChildKind.FORK_SERVER])
@pytest.mark.parametrize("times", [1, 2])
def test_nobody_is_blamed_for_the_death_of_a_parent(kind: ChildKind, times: int) -> None:
    story, id_ = busy_story(request_timeout_seconds=60.0)
    for _ in range(times):
        story.kill(story.one(kind))
        story.run()
        story.pass_time(1.0)
        story.run()
    assert next(iter(story.state.open.values())).deaths == 0
    story.answer_everything()
    assert story.outcome(id_) == "ok"


@pytest.mark.parametrize("kind", [ChildKind.TEMPLATE, ChildKind.WORKER])
@pytest.mark.parametrize("is_forked", [False, True])
def test_fork_server_that_dies_while_others_come_up_is_replaced(kind: ChildKind, *, is_forked: bool) -> None:
    story = Story()
    id_ = story.ask()
    coming = story.run_until_ordered(kind)
    if is_forked:
        story.step("fork", coming.child)
    story.kill(story.one(ChildKind.FORK_SERVER))
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_nothing_is_asked_of_a_template_whose_socket_is_gone() -> None:
    story, _ = busy_story()
    template = story.one(ChildKind.TEMPLATE)
    story.kill(template)
    story.step("control", template.child)
    assert story.count(do.StartWorker) == 1
    story.run()
    assert story.count(do.StartTemplate) == 2


def test_order_to_a_template_that_is_gone_is_no_failure_of_the_model() -> None:
    story, id_ = busy_story()
    template, worker = story.one(ChildKind.TEMPLATE), story.one(ChildKind.WORKER)
    story.kill(worker)
    story.step("reap", worker.child)
    # The template dies with the news of its worker's death still to be read: the successor is ordered of a dead one.
    news = template.control.popleft()
    assert isinstance(news, control.Exited)
    story.kill(template)
    story.tell(ForkerSaid(template.child, news))
    story.run()
    story.pass_time(1.0)
    story.answer_everything()
    assert story.outcome(id_) == "ok"


@pytest.mark.parametrize("kind", [ChildKind.TEMPLATE, ChildKind.WORKER])
def test_who_was_ordered_and_never_born_is_forgotten(kind: ChildKind) -> None:
    story = Story()
    id_ = story.ask()
    unborn = story.run_until_ordered(kind)
    assert unborn.parent is not None
    story.kill(story.world.processes[unborn.parent])
    story.run()
    assert [each for each in story.commands if isinstance(each, do.Forget)] == [do.Forget(unborn.child)]
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_whose_end_is_reported_is_not_forgotten_before() -> None:
    story, _ = busy_story()
    for kind in (ChildKind.WORKER, ChildKind.TEMPLATE, ChildKind.FORK_SERVER):
        story.kill(story.one(kind))
        story.run()
        story.pass_time(1.0)
        story.run()
    assert story.count(do.Forget) == 0


def test_leases_of_a_lost_templates_workers_come_back_when_each_is_reaped() -> None:
    story, _ = busy_story()
    template, worker = story.one(ChildKind.TEMPLATE), story.one(ChildKind.WORKER)
    story.kill(template)
    story.step("control", template.child)
    assert {f"template:mini/{template.child}", f"worker:mini/{worker.child}"} <= set(story.leased())
    story.step("reap", worker.child)
    assert f"worker:mini/{worker.child}" not in story.leased()


def test_orphan_that_is_reaped_tells_that_its_template_is_gone() -> None:
    story, id_ = busy_story()
    template, worker = story.one(ChildKind.TEMPLATE), story.one(ChildKind.WORKER)
    story.kill(template)
    worker.life = Life.GONE
    story.tell(ChildReaped(worker.child, -9, orphan=True))
    assert story.count(do.StartWorker) == 1
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_end_of_the_same_child_told_twice_counts_once() -> None:
    story, _ = busy_story()
    worker = kill_worker(story)
    before = story.leased()
    story.tell(ChildReaped(worker.child, -9, orphan=True))
    story.tell(ControlLost(worker.child))
    assert story.leased() == before


def test_child_told_to_go_before_it_has_a_process_is_killed_when_it_has_one() -> None:
    story = Story()
    story.ask(deadline_ms=100)
    worker = story.run_until_ordered(ChildKind.WORKER)
    story.unload()
    assert worker.life is Life.ORDERED
    story.step("fork", worker.child)
    story.step("control", story.one(ChildKind.TEMPLATE).child)
    assert not worker.is_alive
    story.pass_time(0.2)
    story.run()
    assert story.model().is_absent


def test_ready_of_a_worker_that_was_told_to_go_gives_it_no_work() -> None:
    story = Story()
    worker = story.run_until_ordered(ChildKind.WORKER) if story.ask() else None
    assert worker is not None
    story.step("fork", worker.child)
    story.step("ready", worker.child)
    story.unload()
    story.step("link", worker.child)
    assert story.count(do.SendDispatch) == 0


def test_refused_fork_is_tried_again() -> None:
    story = Story()
    id_ = story.ask()
    story.world.refuse_fork(story.run_until_ordered(ChildKind.WORKER))
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().deaths == {"fork_failed": 1}


def test_process_that_cannot_be_started_fails_those_who_wait_with_the_reason() -> None:
    story = Story()
    id_ = story.ask()
    fork_server = story.run_until_ordered(ChildKind.FORK_SERVER)
    fork_server.life = Life.GONE
    story.tell(StartFailed(fork_server.child, FailedLoad("no such interpreter")))
    assert story.outcome(id_) == "load_failed"
    assert "no such interpreter" in story.error(id_).message
    assert not story.leased()


def test_silent_worker_is_killed_and_its_request_computed_again() -> None:
    story, id_ = busy_story(silent_after_seconds=3.0)
    silent = story.one(ChildKind.WORKER)
    story.beat = lambda: None  # type: ignore[method-assign]  # hearts stand still
    story.pass_time(3.5)
    assert not silent.is_alive
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().deaths == {"silent": 1}


def test_nobody_is_silent_when_we_ourselves_stood_still() -> None:
    story, _ = busy_story(silent_after_seconds=3.0)
    worker = story.one(ChildKind.WORKER)
    story.now += 60.0
    story.pass_time(0.3)
    assert worker.is_alive


def test_worker_that_does_not_drain_in_time_is_killed() -> None:
    story, _ = busy_story(drain_seconds=2.0)
    worker = story.one(ChildKind.WORKER)
    story.unload()
    story.pass_time(2.5)
    assert not worker.is_alive


def test_message_of_a_former_incarnation_is_dropped() -> None:
    story, id_ = busy_story()
    first = story.one(ChildKind.WORKER)
    story.answer_one(first)
    late = first.link.popleft()
    kill_worker(story)
    story.tell(late)
    assert story.outcome(id_) == "open"
    assert story.state.counts["stale_messages"] == 1
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_orphan_whose_end_nobody_reports_is_written_off() -> None:
    story, id_ = busy_story()
    fork_server, template = story.one(ChildKind.FORK_SERVER), story.one(ChildKind.TEMPLATE)
    story.kill(template)
    for process in (template, *[each for each in story.world.processes.values() if each.parent == template.child]):
        process.life = Life.GONE
        process.control.clear()
    story.kill(fork_server)
    story.run()
    story.pass_time(WRITE_OFF_SECONDS - 0.5)
    assert f"template:mini/{template.child}" in story.leased()
    assert do.Forget(template.child) not in story.commands
    story.pass_time(1.0)
    assert do.Forget(template.child) in story.commands
    assert f"template:mini/{template.child}" not in story.leased()
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_template_that_stands_still_and_forks_nothing_is_replaced() -> None:
    story, id_ = busy_story(request_timeout_seconds=60.0)
    template, worker = story.one(ChildKind.TEMPLATE), story.one(ChildKind.WORKER)
    story.kill(worker)
    story.step("reap", worker.child)
    story.step("control", template.child)
    assert story.one(ChildKind.WORKER).life is Life.ORDERED
    story.pass_time(FORK_SECONDS + 0.5)
    assert not template.is_alive
    story.answer_everything()
    story.pass_time(1.0)
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_fork_server_that_stands_still_and_forks_nothing_is_replaced() -> None:
    story = Story(request_timeout_seconds=60.0)
    id_ = story.ask()
    template = story.run_until_ordered(ChildKind.TEMPLATE)
    fork_server = story.one(ChildKind.FORK_SERVER)
    assert template.life is Life.ORDERED
    story.pass_time(FORK_SECONDS + 0.5)
    assert not fork_server.is_alive
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_template_that_stands_still_and_reports_no_end_does_not_hold_up_an_unload() -> None:
    story, id_ = busy_story(drain_seconds=2.0, request_timeout_seconds=60.0)
    template, worker = story.one(ChildKind.TEMPLATE), story.one(ChildKind.WORKER)
    unloaded = story.unload()
    story.kill(worker, 0)  # drained, and nobody reports it
    story.pass_time(2.0 + REPORT_SECONDS + 0.5)
    assert not template.is_alive
    story.answer_everything()
    assert story.outcome(unloaded) == "ok"
    assert story.outcome(id_) == "ok"


def test_supervisor_that_stood_still_itself_blames_no_forker() -> None:
    story = Story(request_timeout_seconds=600.0)
    id_ = story.ask()
    story.run_until_ordered(ChildKind.TEMPLATE)
    fork_server = story.one(ChildKind.FORK_SERVER)
    story.now += 2 * FORK_SECONDS
    story.tell(TimePassed())
    story.pass_time(1.0)
    assert fork_server.is_alive
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_fork_server_killed_while_it_imports_loses_no_request_but_one_that_always_dies_says_so() -> None:
    story = Story()
    id_ = story.ask()
    story.kill(story.run_until_ordered(ChildKind.FORK_SERVER))
    story.run_until_ordered(ChildKind.FORK_SERVER)
    assert story.outcome(id_) == "open"
    story.kill(story.one(ChildKind.FORK_SERVER), -11)
    story.run()
    assert story.outcome(id_) == "load_failed"
    assert "SIGSEGV" in story.error(id_).message


def test_sigbus_blames_the_files_and_no_request_however_often_it_comes() -> None:
    story = Story()
    id_ = story.ask(deadline_ms=600_000)
    for _ in range(4):
        story.run()
        worker = story.one(ChildKind.WORKER)
        assert worker.held
        story.kill(worker, -7)
        story.run_until_told()
        assert all(not entry.is_suspect for entry in story.state.open.values())
        story.pass_time(10.0)
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().deaths == {"weights_changed": 4}


def test_worker_that_drains_has_as_much_time_as_before_when_we_ourselves_stood_still() -> None:
    story = Story(drain_seconds=5.0)
    id_ = story.ask()
    story.run()
    worker = story.one(ChildKind.WORKER)
    story.unload()
    story.now += 60.0
    story.tell(TimePassed())
    story.pass_time(1.0)
    assert worker.is_alive
    story.answer(worker)
    assert story.outcome(id_) == "expired", "whoever waited did not stand still"
    story.run()
    assert not story.logged("killing")


def test_fork_server_that_dies_whenever_it_has_come_is_not_started_for_ever_without_a_pause() -> None:
    story = Story()
    story.ask(deadline_ms=600_000)
    pause_seconds = 0.0
    for _ in range(6):
        server = story.run_until_ordered(ChildKind.FORK_SERVER)
        story.step("ready", server.child)
        story.step("control", server.child)
        story.kill(server)
        story.run_until_told()
        pause_seconds = story.state.fork_server_retry_at - story.now
        story.pass_time(pause_seconds + 0.2)
    assert pause_seconds >= 4.0
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.state.fork_server_failures == 0
