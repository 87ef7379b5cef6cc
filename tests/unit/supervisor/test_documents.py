from __future__ import annotations

from typing import Any

import pytest

from embeddaemon.errors import CorruptModel
from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.samples import MemorySample, Observation, Stall
from embeddaemon.protocol.messages import Hello, Models, Request, Status
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import SampleTaken
from embeddaemon.supervisor.processes.child import ChildKind
from tests.support.supervisor_story import CLIENT, LIMIT, Story, spec


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


def test_models_tell_what_their_processes_are_leased() -> None:
    story = Story()
    (model,) = document(story, Models(id=77))["models"]
    footprint = story.model().footprint
    assert footprint is not None
    estimate = model["estimate"]
    assert model["estimate_bytes"] == estimate["total_bytes"] == estimate["template_bytes"] + estimate["worker_bytes"]
    assert estimate["worker_peak_bytes"] == footprint.worker_peak_bytes
    assert (estimate["declared"], estimate["device_bytes"]) == (story.model().spec.estimate, 0)


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


def memory_of(story: Story) -> dict[str, Any]:
    return dict(document(story, Status(id=900 + story.documents))["memory"])


def test_memory_of_each_device_has_its_budget_its_limit_and_what_is_measured() -> None:
    story = Story()
    story.ask()
    story.run()
    story.pass_time(2.0)
    memory = memory_of(story)
    (ram,) = memory["devices"]
    assert {key: memory[key] for key in ram} == ram
    assert (ram["device"], ram["limit_bytes"], ram["limit_source"]) == ("ram", LIMIT.bytes, LIMIT.source)
    assert ram["budget_bytes"] == story.budget.bytes
    assert ram["leased_bytes"] == sum(story.leased().values())
    assert ram["measured_bytes"] == sum(lease["resident_bytes"] for lease in memory["leases"]) > 0


def test_leases_say_what_was_declared_leased_measured_and_the_peak_and_whose_they_are() -> None:
    story = Story()
    story.ask()
    story.run()
    story.pass_time(2.0)
    leases = {lease["holder"]: lease for lease in memory_of(story)["leases"]}
    worker = story.one(ChildKind.WORKER)
    lease = leases[f"worker:mini/{worker.child}"]
    assert (lease["model"], lease["pid"], lease["device"]) == ("mini", worker.pid, "ram")
    assert lease["declared_bytes"] >= lease["bytes"] >= lease["resident_bytes"] > 0
    assert lease["peak_bytes"] >= lease["resident_bytes"]
    assert leases["fork-server"]["model"] is None


def test_every_process_is_listed_with_its_kind_its_state_and_its_memory() -> None:
    story = Story()
    story.ask()
    story.run_until_ordered(ChildKind.TEMPLATE)
    loading = document(story, Status(id=78))["processes"]
    assert [(each["kind"], each["state"]) for each in loading] == [("fork server", "ready"), ("template", "loading")]
    story.run()
    story.pass_time(2.0)
    processes = document(story, Status(id=79))["processes"]
    assert [each["kind"] for each in processes] == ["fork server", "template", "worker"]
    worker = processes[-1]
    assert (worker["worker"], worker["model"], worker["state"], worker["in_flight"]) == ("0.1", "mini", "busy", 1)
    assert worker["idle_seconds"] is None
    assert worker["leased_bytes"] == story.leased()[f"worker:mini/{story.one(ChildKind.WORKER).child}"]
    assert worker["age_seconds"] >= 2.0


def test_memory_says_what_waits_for_it_and_since_when() -> None:
    story = Story()
    story.free_bytes = 100 * MIB
    story.ask()
    story.pass_time(3.0)
    waiting = story.model().waiting
    assert waiting is not None
    (told,) = memory_of(story)["waiting"]
    assert (told["model"], told["why"], told["device"]) == ("mini", waiting.text(), "ram")
    assert (told["needed_bytes"], told["available_bytes"]) == (waiting.needed_bytes, waiting.available_bytes)
    assert told["since_seconds"] == pytest.approx(3.0)
    story.free_bytes = LIMIT.bytes
    story.pass_time(6.0)
    assert memory_of(story)["waiting"] == []


def test_pressure_is_told_with_its_numbers_and_since_when() -> None:
    story = Story(budget_bytes=4 * GIB)
    story.load()
    story.run()
    story.pass_time(2.0)
    calm = memory_of(story)["pressure"]
    assert (calm["level"], calm["stall_some_percent"]) == ("normal", None)
    story.tell(
        SampleTaken(Observation((MemorySample(story.now, GIB, LIMIT),), Stall(story.now, 12.0, 3.0, is_ours=True)))
    )
    high = memory_of(story)["pressure"]
    assert (high["level"], high["since_seconds"]) == ("high", 0.0)
    assert (high["stall_some_percent"], high["stall_full_percent"]) == (12.0, 3.0)
    assert "12 % of the time lost" in high["why"]


def test_what_the_supervisor_itself_holds_and_the_kind_of_hard_limits_are_told() -> None:
    story = Story()
    story.supervisor.learn_hard_limits("rlimit")
    story.tell(SampleTaken(Observation((MemorySample(story.now, LIMIT.bytes, LIMIT),), own_bytes=40 * MIB)))
    memory = memory_of(story)
    assert (memory["supervisor_bytes"], memory["hard_limits"]) == (40 * MIB, "rlimit")
