"""What goes when memory runs short, and that everything comes back."""

from __future__ import annotations

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.core import WaitReason
from embeddaemon.governor.pressure import MAX_PAUSE_SECONDS
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.processes.child import ChildKind
from tests.support.supervisor_story import LIMIT, Story, spec

RESERVE = 200 * MIB
HIGH = RESERVE * 3 // 8
CRITICAL = RESERVE // 16


def two_models(**fields: object) -> Story:
    models = spec("one", estimate=300 * MIB), spec("two", estimate=300 * MIB)
    return Story(*models, budget_bytes=2048 * MIB, reserve_bytes=RESERVE, **fields)  # type: ignore[arg-type]  # by name


def both_loaded(**fields: object) -> Story:
    story = two_models(**fields)
    for name in ("one", "two"):
        story.ask(name)
        story.answer_everything()
        story.pass_time(3.0)
    return story


def test_nothing_is_started_while_memory_is_short_and_who_waits_is_told_why() -> None:
    story = two_models()
    story.ask("one")
    story.answer_everything()
    story.free_bytes = HIGH
    story.pass_time(2.0)
    id_ = story.ask("two", deadline_ms=5000)
    story.run()
    waiting = story.model("two").waiting
    assert waiting is not None
    assert waiting.reason in (WaitReason.PRESSURE, WaitReason.OTHER_PROCESSES)
    story.pass_time(6.0)
    assert story.outcome(id_) == "expired"
    assert story.error(id_).details["waited_for"] == "memory"


def test_idle_workers_trim_then_the_least_recently_used_model_goes_then_the_next() -> None:
    story = both_loaded()
    story.free_bytes = HIGH
    story.pass_time(1.0)
    assert story.count(do.SendTrim) == 2
    assert story.model("one").serving
    story.pass_time(2.0)
    story.run()
    assert story.model("one").is_absent
    assert story.model("two").serving
    story.pass_time(2.0)
    story.run()
    assert story.model("two").is_absent
    assert [line["what"] for line in story.logged("evicting")] == ["one", "two"]
    assert story.logged("memory_pressure")[0]["pressure"] == "high"


def test_pinned_and_busy_models_stay_while_memory_is_only_high() -> None:
    story = Story(spec("pinned", pinned=True), spec("busy"), budget_bytes=2048 * MIB, reserve_bytes=RESERVE)
    story.ask("pinned")
    story.answer_everything()
    story.ask("busy")
    story.run()
    story.free_bytes = HIGH
    story.pass_time(10.0)
    story.run()
    assert story.model("pinned").serving
    assert story.model("busy").serving


def test_worst_offender_is_killed_at_once_when_it_is_critical() -> None:
    story = both_loaded()
    story.ask("one")
    story.ask("two")
    offender = story.living(ChildKind.WORKER)[1]
    offender.most_bytes = None
    story.world.private_bytes = 20 * MIB
    offender.private_bytes = offender.kept_bytes = 1500 * MIB
    story.beat()
    story.free_bytes = CRITICAL
    story.pass_time(1.2)
    assert not offender.is_alive
    line = story.logged("recycling")[-1]
    assert (line["worker"], line["why"]) == ("two/0.1", "over_lease")
    assert "pressure" in line, "it was draining for that already"
    assert story.living(ChildKind.WORKER)[0].is_alive, "the others stay"


def test_busy_worker_within_its_lease_goes_only_when_there_is_nothing_else() -> None:
    story = both_loaded()
    busy = story.ask("two")
    story.free_bytes = CRITICAL
    story.pass_time(1.0)
    story.run()
    assert story.model("one").is_absent, "the idle one first"
    assert story.model("two").serving
    story.pass_time(2.0)
    story.run()
    assert not story.model("two").serving
    assert story.model("two").deaths["memory_pressure"] == 1
    story.free_bytes = LIMIT.bytes
    story.pass_time(2.0)
    story.answer_everything()
    assert story.outcome(busy) == "ok", "its request went to the successor"


def test_stall_of_the_machine_kills_nobody_who_keeps_to_the_lease() -> None:
    story = both_loaded()
    story.ask("one")
    story.ask("two")
    story.stall = (90.0, 60.0, True)
    story.pass_time(60.0)
    story.run()
    assert story.logged("recycling") == []
    assert story.model("one").serving


def test_pause_for_stalls_alone_ends_although_they_go_on() -> None:
    story = two_models()
    story.ask("one")
    story.answer_everything()
    story.stall = (90.0, 60.0, True)
    story.pass_time(2.0)
    id_ = story.ask("two", deadline_ms=120_000)
    story.run()
    assert story.living(ChildKind.TEMPLATE) == []
    assert story.model("two").waiting is not None
    story.pass_time(MAX_PAUSE_SECONDS + 2.0)
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_everything_is_as_before_when_memory_is_back() -> None:
    story = both_loaded()
    story.free_bytes = CRITICAL
    story.pass_time(10.0)
    story.run()
    assert story.model("one").is_absent
    story.free_bytes = LIMIT.bytes
    story.pass_time(2.0)
    ids = [story.ask(name) for name in ("one", "two")]
    for _ in range(3):
        story.answer_everything()
        story.pass_time(1.0)
    assert [story.outcome(id_) for id_ in ids] == ["ok", "ok"]
    assert story.logged("memory_pressure")[-1]["pressure"] == "normal"
