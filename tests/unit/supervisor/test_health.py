"""``health``: who is ready and who is not, and why; that asking changes nothing; what a deep answer says of vectors."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from embeddaemon.errors import BadOutput, ConfigError, CorruptModel
from embeddaemon.governor.budget import MIB
from embeddaemon.protocol import codec, error_codec, link
from embeddaemon.protocol.messages import Health, Vectors
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import ClientGone, RequestReceived, SettingsWrong, WorkerSaid
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.sickness.checkups import LONGEST_SECONDS, LOST_SECONDS
from tests.support.supervisor_story import CLIENT, Story, spec

DIM = 384
NUMBERS = [1.0] + [0.0] * (DIM - 1)


def ask(story: Story, *, client: bytes = CLIENT, is_admin: bool = True, **fields: Any) -> int:
    """A health request; gives its id."""
    request = Health(id=story._next_id(), **fields)
    story.tell(RequestReceived(client, request, b"", b"", 0, is_admin))
    return request.id


def document(story: Story, id_: int, client: bytes = CLIENT) -> Mapping[str, Any]:
    (reply,) = story.answers[client, id_]
    assert isinstance(reply, do.Reply)
    assert reply.document is not None, reply.answer
    return reply.document


def asked(story: Story, **fields: Any) -> Mapping[str, Any]:
    return document(story, ask(story, **fields))


def checkups(story: Story) -> list[do.SendDispatch]:
    """Dispatches that no client's request is in."""
    sent = [each for each in story.commands if isinstance(each, do.SendDispatch)]
    return [each for each in sent if isinstance(each.payload[0], bytes)]


def answer(story: Story, numbers: list[float], *, frames: list[bytes] | None = None) -> None:
    """The worker that got the last checkup answers it with a vector."""
    sent = checkups(story)[-1]
    (item,) = sent.dispatch.items
    header = Vectors(id=item.serial, model="mini", count=1, dim=len(numbers), dtype="float32", tokens=3)
    made = [codec.encode_answer(header), struct.pack(f"<{len(numbers)}f", *numbers)]
    result = link.Result(sent.worker, sent.dispatch.incarnation, item.serial, "", 1, 3, 0, 0)
    story.tell(WorkerSaid(result, frames or made))


def served(*specs: Any, **fields: Any) -> Story:
    story = Story(*specs, **fields)
    story.load()
    story.run()
    return story


def test_model_that_comes_by_need_is_ready_and_not_woken() -> None:
    story = Story()
    found = asked(story)
    assert found["live"]
    assert found["ready"]
    assert found["ok"]
    (model,) = found["models"]
    assert (model["state"], model["required"], model["loaded"], model["why"]) == ("available", False, False, None)
    assert story.count(do.StartForkServer) == 0


def test_preloaded_model_is_not_ready_until_it_is_loaded_and_asleep_is_ready_after() -> None:
    story = Story(spec(preload=True, keep_alive_seconds=5.0))
    assert asked(story)["why"] == ["model mini is to be loaded at the start and is loading"]
    story.run()
    assert asked(story)["ready"]
    story.pass_time(6.0)
    story.run()
    assert not story.model().serving
    assert asked(story)["ready"]


def test_pinned_model_that_was_there_and_is_gone_is_not_ready() -> None:
    story = Story(spec(pinned=True))
    assert asked(story)["ready"]
    story.load()
    story.run()
    story.unload()
    story.run()
    (why,) = asked(story)["why"]
    assert why == "model mini is pinned and is available"


def test_model_that_waits_for_memory_says_so_with_the_numbers() -> None:
    story = Story(spec("big", preload=True, pinned=True), spec("mini", preload=True), budget_bytes=700 * MIB)
    story.run()
    (why,) = asked(story)["why"]
    assert "mini is to be loaded at the start and is waiting for memory: needs 330 MiB; 184 MiB available" in why


def test_model_that_can_never_fit_says_so() -> None:
    story = Story(spec(preload=True), budget_bytes=500 * MIB)
    story.run()
    (why,) = asked(story)["why"]
    assert "mini is to be loaded at the start and is available: needs" in why


def test_failed_model_counts_where_it_is_the_default_one_or_named() -> None:
    story = Story(spec("mini"), spec("other"))
    story.card_errors["other"] = CorruptModel("half of it is missing")
    story.model("other").card = None
    story.ask("other")
    assert asked(story)["ready"], "the daemon is ready: it comes by need, and others serve"
    (model,) = asked(story, model="other")["models"]
    assert model["state"] == "failed"
    assert model["error"]["code"] == "model_corrupt"
    assert model["why"] == "model other is failed: model_corrupt: half of it is missing"
    assert not asked(story, model="other")["ready"]
    assert asked(story, model="mini")["ready"]


def test_question_that_is_wrong_is_an_error_and_counts_as_no_request() -> None:
    story = Story()
    assert story.error(ask(story, model="none")).code == "unknown_model"
    assert story.error(ask(story, deep=True, wake=True, is_admin=False)).code == "forbidden"
    assert not [name for name in story.state.counts if name.startswith("refused.")]


def test_configuration_that_is_wrong_is_warned_of_and_is_no_reason_not_to_be_ready() -> None:
    story = Story()
    assert asked(story)["warnings"] == []
    story.tell(SettingsWrong(ConfigError("no such key"), None))
    story.pass_time(7.0)
    health = asked(story)
    assert health["ok"]
    (warning,) = health["warnings"]
    assert "read again 7 s ago" in warning
    assert warning.endswith("running on the old one: no such key")


def test_daemon_that_stops_lives_and_is_not_ready() -> None:
    story = served()
    story.ask()
    story.stop()
    found = asked(story, deep=True)
    assert (found["live"], found["ready"], found["why"]) == (True, False, ["the daemon is stopping"])


def test_full_queue_is_told_and_is_no_fault() -> None:
    story = served(max_queued_requests=2)
    for _ in range(12):
        story.ask(body_bytes=100_000)
    found = asked(story)
    (model,) = found["models"]
    assert found["ok"]
    assert (model["queued"], model["queue_full"]) == (2, True)


def test_deep_answer_goes_past_a_full_queue_and_is_given_when_a_worker_has_embedded() -> None:
    story = served(max_queued_requests=2)
    for _ in range(12):
        story.ask(body_bytes=100_000)
    id_ = ask(story, deep=True)
    assert len(checkups(story)) == 1
    assert story.outcome(id_) == "open"
    story.pass_time(0.3)
    answer(story, NUMBERS)
    found = document(story, id_)
    (model,) = found["models"]
    assert found["ok"]
    assert model["deep"]["ok"] is True
    assert model["deep"]["seconds"] == pytest.approx(0.3)
    assert model["queue_full"]


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ([0.0] * DIM, "not finite, or all zero"),
        ([math.nan, *NUMBERS[1:]], "not finite, or all zero"),
        ([math.inf, *NUMBERS[1:]], "not finite, or all zero"),
        ([3.0, *NUMBERS[1:]], "length 3 where 1"),
        (NUMBERS[:4], "4 dimensions, not 384"),
    ],
)
def test_vector_that_is_none_is_found_out(numbers: list[float], why: str) -> None:
    story = served()
    story.model().card = None if "dimensions" not in why else story.model().card
    id_ = ask(story, deep=True)
    answer(story, numbers)
    found = document(story, id_)
    assert found["ready"]
    assert not found["ok"]
    assert why in found["models"][0]["deep"]["why"]
    assert why in found["why"][0]


@pytest.mark.parametrize("frames", [[b"\xc1"], [codec.encode_answer(error_codec.error_answer(1, BadOutput("nan")))]])
def test_answer_that_is_no_vector_is_found_out(frames: list[bytes]) -> None:
    story = served()
    id_ = ask(story, deep=True)
    answer(story, NUMBERS, frames=frames)
    assert document(story, id_)["models"][0]["deep"]["ok"] is False


def test_deep_answer_wakes_no_model() -> None:
    story = Story()
    (model,) = asked(story, deep=True)["models"]
    assert model["deep"]["ok"] is None
    assert "not loaded" in model["deep"]["why"]
    assert model["ready"]
    assert story.count(do.StartForkServer) == 0


def test_deep_answer_is_no_use_of_a_model_and_keeps_none() -> None:
    story = served(spec(keep_alive_seconds=10.0))
    worker = story.model().serving[0]
    before = (story.model().last_used, worker.idle_since, dict(story.state.counts))
    for _ in range(4):
        story.pass_time(2.0)
        ask(story, deep=True)
        answer(story, NUMBERS)
    assert (story.model().last_used, worker.idle_since, dict(story.state.counts)) == before
    story.pass_time(3.0)
    story.run()
    assert not story.model().serving


def test_model_is_woken_for_a_deep_answer_when_that_is_asked_for() -> None:
    story = Story()
    id_ = ask(story, deep=True, wake=True)
    story.run()
    answer(story, NUMBERS)
    assert document(story, id_)["models"][0]["deep"]["ok"] is True
    assert story.model().wakers == 0
    assert not story.model().has_work


def test_waking_is_for_the_owner_alone() -> None:
    story = Story()
    assert story.error(ask(story, deep=True, wake=True, is_admin=False)).code == "forbidden"
    assert story.model().wakers == 0


def test_model_that_cannot_be_woken_ends_the_wait() -> None:
    story = Story()
    story.card_errors["mini"] = CorruptModel("half of it is missing")
    story.model().card = None
    found = asked(story, deep=True, wake=True)
    assert "half of it is missing" in found["models"][0]["deep"]["why"]


def test_deep_answer_comes_in_bounded_time_whatever_a_worker_does() -> None:
    story = served()
    short, long = ask(story, deep=True, deadline_ms=1000), ask(story, deep=True, deadline_ms=3_600_000)
    story.pass_time(1.0)
    assert document(story, short)["models"][0]["deep"]["ok"] is False
    assert story.outcome(long) == "open"
    story.pass_time(LONGEST_SECONDS)
    assert "no vector came within" in document(story, long)["models"][0]["deep"]["why"]


def test_all_who_ask_meanwhile_share_one_text() -> None:
    story = served()
    ids = [ask(story, deep=True, client=str(number).encode()) for number in range(50)]
    assert len(checkups(story)) == 1
    answer(story, NUMBERS)
    assert all(document(story, id_, str(number).encode())["ok"] for number, id_ in enumerate(ids))
    ask(story, deep=True)
    assert len(checkups(story)) == 2


def test_worker_that_goes_meanwhile_is_no_fault_if_another_one_answers() -> None:
    story = served(spec(workers=(2, 2)))
    story.run()
    id_ = ask(story, deep=True)
    number = checkups(story)[-1].worker
    first = next(each for each in story.living(ChildKind.WORKER) if each.worker == number)
    story.kill(first)
    story.run_until_told()
    assert len(checkups(story)) == 2
    answer(story, NUMBERS)
    assert document(story, id_)["ok"]


def test_workers_that_go_under_the_text_one_after_the_other_are_told() -> None:
    story = served(spec(workers=(3, 3)))
    story.run()
    id_ = ask(story, deep=True)
    for _ in range(2):
        number = checkups(story)[-1].worker
        story.kill(next(each for each in story.living(ChildKind.WORKER) if each.worker == number))
        story.run_until_told()
    assert "2 workers ended" in document(story, id_)["models"][0]["deep"]["why"]


def test_who_asked_and_left_holds_nothing() -> None:
    story = Story()
    ask(story, deep=True, wake=True)
    story.tell(ClientGone(CLIENT))
    assert not story.state.askers
    assert story.model().wakers == 0
    story.run()
    assert not story.answers


def test_text_that_got_lost_on_its_way_is_not_waited_for_for_ever() -> None:
    story = served()
    ask(story, deep=True)
    story.pass_time(LOST_SECONDS + 1.0)
    id_ = ask(story, deep=True)
    assert len(checkups(story)) == 2
    answer(story, NUMBERS)
    assert document(story, id_)["ok"] is True
