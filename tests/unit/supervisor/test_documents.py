from __future__ import annotations

from typing import Any

from embeddaemon.errors import CorruptModel
from embeddaemon.governor.budget import MIB
from embeddaemon.protocol.messages import Hello, Models, Request, Status
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.state import ChildKind
from tests.support.supervisor_story import CLIENT, Story, spec


def document(story: Story, request: Request) -> dict[str, Any]:
    story.send(request)
    reply = story.answers.pop((CLIENT, request.id))[0]
    assert isinstance(reply, do.Reply)
    assert reply.document is not None
    return dict(reply.document)


def state_of(story: Story, name: str = "mini") -> str:
    models = document(story, Models(id=999))["models"]
    return str(next(each for each in models if each["name"] == name)["state"])


def test_hello_tells_limits_and_default_model() -> None:
    hello = document(Story(), Hello(id=1))
    assert hello["default_model"] == "mini"
    assert hello["instance"] == "test"
    assert set(hello["limits"]) == {"max_texts", "max_text_bytes", "max_body_bytes", "max_ids"}


def test_states_of_a_model_from_available_to_unloading() -> None:
    story = Story()
    assert state_of(story) == "available"
    story.ask()
    assert state_of(story) == "loading"
    story.run()
    assert state_of(story) == "ready"
    story.unload()
    assert state_of(story) == "unloading"
    story.answer_everything()
    assert state_of(story) == "available"


def test_model_from_the_hub_is_unknown_until_it_was_fetched() -> None:
    assert state_of(Story(spec(source="hub:org/name"))) == "unknown"


def test_failed_model_says_why() -> None:
    story = Story()
    story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
    story.run()
    (model,) = document(story, Models(id=77))["models"]
    assert model["state"] == "failed"
    assert model["error"]["code"] == "model_corrupt"


def test_failed_model_stays_failed_until_it_is_tried_again_and_loads() -> None:
    story = Story()
    story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
    story.run()
    story.pass_time(600)
    assert state_of(story) == "failed"
    story.ask()
    assert state_of(story) == "loading"
    story.run()
    assert state_of(story) == "ready"


def test_model_that_waits_for_memory_says_for_how_much() -> None:
    story = Story()
    story.free_bytes = 100 * MIB
    story.ask()
    assert state_of(story) == "waiting"
    (model,) = document(story, Status(id=77))["models"]
    assert "needs" in model["waiting_for"]


def test_status_tells_workers_requests_and_memory() -> None:
    story = Story()
    story.ask()
    story.run()
    status = document(story, Status(id=77))
    (worker,) = status["workers"]
    process = story.one(ChildKind.WORKER)
    assert (worker["pid"], worker["state"], worker["in_flight"]) == (process.pid, "busy", 1)
    assert worker["lease_bytes"] == story.leased()[f"worker:mini/{process.child}"]
    assert status["open"] == 1
    assert status["memory"]["leased_bytes"] == sum(story.leased().values())
    pids = {lease["holder"]: lease["pid"] for lease in status["memory"]["leases"]}
    assert pids["fork-server"] == story.one(ChildKind.FORK_SERVER).pid
    story.answer()
    assert document(story, Status(id=78))["requests"]["answered"] == 1
