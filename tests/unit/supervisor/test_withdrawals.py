"""Requests that nobody waits for any more are not computed."""

from __future__ import annotations

from embeddaemon.governor.budget import MIB
from embeddaemon.protocol.messages import Cancel, Document, Lane
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import ClientGone
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.withdrawals import ASK_AFTER_SECONDS
from tests.support.supervisor_story import CLIENT, Story, spec


def ready_story() -> Story:
    """A worker that waits for work."""
    story = Story()
    story.load()
    story.run()
    return story


def cancels(story: Story) -> list[tuple[int, ...]]:
    """Serials that workers were told to drop, message by message."""
    return [command.serials for command in story.commands if isinstance(command, do.SendCancel)]


def test_withdrawn_request_leaves_the_queue_and_is_answered_so() -> None:
    story = Story()
    kept, withdrawn = story.ask(), story.ask()
    story.cancel(withdrawn)
    assert (story.outcome(kept), story.outcome(withdrawn)) == ("open", "cancelled")
    story.run()
    assert [held.header for held in story.one(ChildKind.WORKER).held] == [(CLIENT, kept)]


def test_cancel_says_how_many_requests_it_ended() -> None:
    story = Story()
    ids = [story.ask(), story.ask()]
    cancel = story.cancel(*ids, 12345)
    (reply,) = story.answers[CLIENT, cancel]
    assert reply == do.Reply(CLIENT, Document(id=cancel), {"cancelled": 2})


def test_worker_is_told_to_drop_what_was_withdrawn_and_its_credit_comes_back() -> None:
    story = ready_story()
    ids = [story.ask(), story.ask()]
    serials = tuple(story.state.open)
    story.cancel(*ids)
    assert [set(each) for each in cancels(story)] == [set(serials)]
    assert [story.outcome(id_) for id_ in ids] == ["cancelled", "cancelled"]
    story.answer()
    assert story.state.counts["results_dropped"] == 2
    assert not next(iter(story.model().workers.values())).dispatches


def test_withdrawn_request_of_a_dead_worker_is_not_computed_again() -> None:
    story = ready_story()
    story.cancel(story.ask())
    story.kill(story.one(ChildKind.WORKER))
    story.run()
    assert story.count(do.SendDispatch) == 1


def test_what_has_ended_or_never_was_or_is_anothers_is_passed_over() -> None:
    story = ready_story()
    done = story.ask()
    story.answer()
    theirs = story.ask(client=b"another")
    story.send(Cancel(id=900, ids=(done, theirs, 77)))
    assert story.outcome(done) == "ok"
    assert story.outcome(theirs, b"another") == "open"
    assert cancels(story) == []


def test_load_that_is_withdrawn_is_not_waited_for() -> None:
    story = Story()
    load = story.load()
    story.cancel(load)
    assert story.outcome(load) == "cancelled"
    story.run()
    assert story.outcome(load) == "cancelled"


def test_first_answer_that_nobody_takes_drops_all_that_its_client_left_behind() -> None:
    story = ready_story()
    for _ in range(6):
        story.ask(lane=Lane.BULK, body_bytes=story.model().pace.dispatch_bytes)
    theirs = story.ask(client=b"another")
    story.leave()
    worker = story.one(ChildKind.WORKER)
    story.answer_one(worker)
    story.deliver(worker)
    assert [entry.client for entry in story.state.open.values()] == [b"another"]
    assert len(cancels(story)) == 1
    assert story.state.counts["cancelled"] == 5
    story.answer()
    assert story.outcome(theirs, b"another") == "ok"
    assert story.count(do.SendDispatch) == 4


def test_who_waits_long_gets_a_sign_of_life_every_second_and_is_dropped_when_it_is_gone() -> None:
    story = Story()
    story.ask()
    story.ask()
    story.pass_time(3 * ASK_AFTER_SECONDS + 0.5)
    assert set(story.signs_of_life) == {do.SendWaiting(CLIENT, 2, "loading mini")}
    assert 2 <= len(story.signs_of_life) <= 3
    story.leave()
    story.pass_time(2 * ASK_AFTER_SECONDS)
    assert not story.state.open
    assert not story.model().queue
    assert story.state.counts["cancelled"] == 2


def test_sign_of_life_says_for_how_much_memory_a_model_waits() -> None:
    story = Story()
    story.free_bytes = 100 * MIB
    story.ask()
    story.pass_time(ASK_AFTER_SECONDS + 0.5)
    why = story.signs_of_life[-1].why
    waiting = story.model().waiting
    assert waiting is not None
    assert why == f"model 'mini' waits for memory: {waiting.text()}"


def test_sign_of_life_to_who_waits_for_a_worker_gives_no_reason() -> None:
    story = ready_story()
    story.ask()
    story.pass_time(ASK_AFTER_SECONDS + 0.5)
    assert set(story.signs_of_life) == {do.SendWaiting(CLIENT, 1)}


def test_sign_of_life_says_why_a_model_that_failed_is_not_started_yet() -> None:
    story = Story()
    story.ask()
    while story.model().retry_at - story.now < 2 * ASK_AFTER_SECONDS:
        story.pass_time(max(0.0, story.model().retry_at - story.now) + 0.5)
        template = story.run_until_ordered(ChildKind.TEMPLATE)
        story.step("fork", template.child)
        story.kill(template)
        while story.model().template == template.child:
            step = story.world.steps()[0]
            story.step(step.what, step.child)
    story.pass_time(ASK_AFTER_SECONDS)
    why = story.signs_of_life[-1].why
    assert why is not None
    assert why.startswith("model 'mini' is started again in ")
    assert "SIGKILL" in why


def test_sign_of_life_says_that_a_model_is_being_unloaded() -> None:
    story = ready_story()
    story.ask()
    story.unload(client=b"another")
    story.pass_time(ASK_AFTER_SECONDS + 0.5)
    assert story.signs_of_life[-1].why == "model 'mini' is being unloaded"


def test_reason_of_a_model_that_is_not_there_goes_before_none_of_one_that_computes() -> None:
    story = Story(spec("mini"), spec("other"))
    story.ask("mini")
    story.run()
    story.free_bytes = 100 * MIB
    story.pass_time(2.0)
    story.ask("other")
    story.pass_time(2 * ASK_AFTER_SECONDS)
    told = story.signs_of_life[-1]
    assert told.requests == 2
    assert told.why is not None
    assert told.why.startswith("model 'other' waits for memory: needs ")


def test_load_that_takes_long_gets_signs_of_life_too() -> None:
    story = Story()
    load = story.load()
    story.pass_time(ASK_AFTER_SECONDS + 0.5)
    assert set(story.signs_of_life) == {do.SendWaiting(CLIENT, 1, "loading mini")}
    story.leave()
    story.pass_time(2 * ASK_AFTER_SECONDS)
    assert story.model().load_waiters == []
    assert story.outcome(load) == "open"


def test_who_waits_for_a_moment_only_is_not_disturbed() -> None:
    story = ready_story()
    for _ in range(20):
        story.ask()
        story.pass_time(ASK_AFTER_SECONDS / 2)
        story.answer()
    assert story.signs_of_life == []


def test_client_that_left_nothing_behind_is_no_news() -> None:
    story = ready_story()
    before = len(story.commands)
    story.tell(ClientGone(CLIENT))
    assert story.commands[before:] == []
    assert story.state.counts["cancelled"] == 0
