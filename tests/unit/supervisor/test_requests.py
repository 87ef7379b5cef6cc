from __future__ import annotations

import pytest

from embeddaemon.errors import ProtocolError
from embeddaemon.governor.budget import MIB
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Embed, Load, Tokenize, Unload
from embeddaemon.protocol.precisions import PRECISIONS
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import RequestMalformed, RequestReceived
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.dispatch import CREDITS, MAX_DISPATCH_REQUESTS
from tests.support.supervisor_story import CLIENT, Story, spec


def ready_story(**fields: object) -> Story:
    """A worker that waits for work."""
    story = Story(**fields)  # type: ignore[arg-type]  # passed on by name
    story.load()
    story.run()
    return story


def dispatches(story: Story) -> list[do.SendDispatch]:
    return [command for command in story.commands if isinstance(command, do.SendDispatch)]


def test_request_goes_to_an_idle_worker_in_the_same_step() -> None:
    story = ready_story()
    story.ask()
    (dispatch,) = dispatches(story)
    assert dispatch.payload == [(CLIENT, 2), b""]
    assert dispatch.dispatch.items[0].expires_in_ms == 30_000


def full(story: Story) -> int:
    """Bytes of a body that fills a dispatch."""
    return story.model().pace.dispatch_bytes


def test_worker_holds_two_dispatches_and_gets_the_next_for_one_that_is_through() -> None:
    story = ready_story()
    for _ in range(4):
        story.ask(body_bytes=full(story))
    worker = story.one(ChildKind.WORKER)
    assert len(worker.held) == CREDITS
    story.answer_one(worker)
    story.deliver(worker)
    assert len(dispatches(story)) == CREDITS + 1


@pytest.mark.parametrize(("kind", "is_measured"), [(Embed, True), (Tokenize, False)])
def test_pace_is_that_of_computing_and_not_of_tokenizing(kind: type[Embed | Tokenize], *, is_measured: bool) -> None:
    story = ready_story()
    before = story.model().pace.dispatch_bytes
    story.tell(RequestReceived(CLIENT, kind(id=9, model="mini"), (CLIENT, 9), b"", 1_000_000, is_admin=False))
    story.pass_time(0.1)
    story.answer()
    assert story.outcome(9) == "ok"
    assert (story.model().pace.dispatch_bytes > before) is is_measured


def test_small_requests_that_wait_go_together() -> None:
    story = Story()
    for _ in range(300):
        story.ask(body_bytes=10)
    story.run()
    assert [len(each.dispatch.items) for each in dispatches(story)] == [
        MAX_DISPATCH_REQUESTS,
        300 - MAX_DISPATCH_REQUESTS,
    ]


def test_dispatch_is_bounded_in_bytes() -> None:
    story = Story()
    for _ in range(5):
        story.ask(body_bytes=full(story) // 2)
    story.run()
    assert [len(each.dispatch.items) for each in dispatches(story)] == [2, 2]


def test_requests_of_one_lane_are_computed_in_order() -> None:
    story = Story()
    for _ in range(20):
        story.ask(body_bytes=full(story) // 3)
    story.run()
    worker = story.one(ChildKind.WORKER)
    seen: list[object] = []
    while worker.held:
        seen.append(worker.held[0].header)
        story.answer_one(worker)
        story.deliver(worker)
    assert seen == [(CLIENT, id_) for id_ in range(1, 21)]


def test_two_workers_share_what_waits() -> None:
    story = Story(spec(workers=(2, 2), estimate=200 * MIB))
    story.load()
    story.run()
    for _ in range(4):
        story.ask(body_bytes=full(story))
    assert sorted(len(each.held) for each in story.living(ChildKind.WORKER)) == [2, 2]


def test_request_expires_in_the_queue_at_its_deadline() -> None:
    story = Story()
    id_ = story.ask(deadline_ms=500)
    story.pass_time(0.499)
    assert story.outcome(id_) == "open"
    story.pass_time(0.002)
    assert story.outcome(id_) == "expired"
    assert story.state.counts["expired"] == 1


def test_request_expires_in_a_worker_and_its_late_answer_is_dropped_and_the_credit_is_back() -> None:
    story = ready_story()
    id_ = story.ask(deadline_ms=500)
    story.pass_time(0.6)
    assert story.error(id_).details["waited_for"] == "worker"
    worker = story.one(ChildKind.WORKER)
    story.answer(worker)
    assert story.outcome(id_) == "expired"
    assert story.state.counts["results_dropped"] == 1
    assert not next(iter(story.model().workers.values())).dispatches


def test_expired_request_of_a_dead_worker_is_not_computed_again() -> None:
    story = ready_story()
    story.ask(deadline_ms=500)
    story.pass_time(0.6)
    story.kill(story.one(ChildKind.WORKER))
    story.run()
    assert len(dispatches(story)) == 1


def test_deadline_in_the_past_is_refused() -> None:
    story = ready_story()
    id_ = story.ask(deadline_ms=-3)
    assert story.outcome(id_) == "expired"
    assert "3 ms" in story.error(id_).message


def test_full_queue_refuses_at_once() -> None:
    story = Story(max_queued_requests=2)
    ids = [story.ask() for _ in range(3)]
    assert [story.outcome(id_) for id_ in ids] == ["open", "open", "busy"]
    assert story.error(ids[2]).details == {"queued": 2, "limit": 2}


def test_bytes_that_wait_in_all_queues_are_bounded_together() -> None:
    story = Story(spec("one"), spec("two"), max_queued_bytes=1000)
    story.ask("one", body_bytes=600)
    assert story.outcome(story.ask("two", body_bytes=600)) == "busy"


def test_body_over_the_limit_is_refused() -> None:
    story = Story(limits=Limits(max_body_bytes=1000))
    assert story.outcome(story.ask(body_bytes=1001)) == "input_too_large"


def test_id_that_is_in_use_is_refused_and_its_owner_is_still_answered() -> None:
    story = ready_story()
    id_ = story.ask()
    story.send(Embed(id=id_))
    story.answer()
    first, second = story.answers[CLIENT, id_]
    assert isinstance(first, do.Reply)
    assert isinstance(second, do.Forward)


def test_two_clients_may_use_the_same_id() -> None:
    story = ready_story()
    for client in (b"one", b"two"):
        story.tell(RequestReceived(client, Embed(id=7), (client, 7), b"", 10, is_admin=False))
    story.answer()
    assert story.outcome(7, b"one") == story.outcome(7, b"two") == "ok"


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (Embed(id=1, model="other"), "unknown_model", {"known": ["mini"]}),
        (Embed(id=1, task="poetry"), "unknown_task", {"known": ["document", "query"]}),
        (Tokenize(id=1, task="poetry"), "unknown_task", {"known": ["document", "query"]}),
        (Embed(id=1, dimensions=5), "unknown_dimensions", {"offered": [384, 128]}),
        (Embed(id=1, precision="int3"), "invalid_input", {"offered": list(PRECISIONS)}),
    ],
)
def test_options_that_the_model_does_not_offer_are_refused(
    request_: Embed | Tokenize, code: str, details: object
) -> None:
    story = Story()
    story.send(request_)
    assert story.outcome(1) == code
    assert story.error(1).details == details
    assert not story.world.processes


def test_task_and_prompt_together_are_refused_before_any_work() -> None:
    story = Story()
    story.send(Embed(id=9, task="query", prompt="write: "))
    assert story.outcome(9) == "invalid_input"
    assert not story.world.processes


@pytest.mark.parametrize("request_", [Load(id=1, model="mini"), Unload(id=1, model="mini")])
def test_only_the_owner_loads_and_unloads(request_: Load | Unload) -> None:
    story = Story()
    story.send(request_, is_admin=False)
    assert story.outcome(1) == "forbidden"


def test_malformed_request_is_counted_and_answered() -> None:
    story = Story()
    story.tell(RequestMalformed(CLIENT, 0, ProtocolError("three frames")))
    assert story.outcome(0) == "malformed"
    assert story.state.counts["malformed"] == 1


def test_endings_are_counted_by_what_they_were() -> None:
    story = ready_story()
    story.ask()
    story.answer(code="text_too_long")
    story.ask()
    for _ in range(2):  # two workers agree
        story.answer(code="bad_output")
        story.run()
    story.ask()
    story.answer()
    counts = story.state.counts
    assert (counts["refused.text_too_long"], counts["failed.bad_output"], counts["answered"]) == (1, 1, 1)
