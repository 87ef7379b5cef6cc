"""What ``status``, ``ps`` and ``doctor`` print of the daemon's own document."""

from __future__ import annotations

from typing import Any

import pytest

from embeddaemon.cli import memory
from embeddaemon.cli.trouble import put_config, put_refused, put_users
from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.samples import MemorySample, Observation, Stall
from embeddaemon.supervisor import documents
from embeddaemon.supervisor.events import SampleTaken
from embeddaemon.supervisor.processes.child import ChildKind
from tests.support.supervisor_story import LIMIT, Story, spec


def status_of(story: Story) -> dict[str, Any]:
    return documents.status(story.state, story.now)


def busy_story() -> Story:
    story = Story()
    story.ask()
    story.run()
    story.pass_time(2.0)
    return story


def table(printed: str) -> list[list[str]]:
    """The cells of a table whose cells hold no two spaces in a row."""
    return [[cell for cell in line.split("  ") if cell] for line in printed.splitlines()]


def test_each_device_is_a_line_with_its_budget_what_is_left_and_where_the_limit_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = busy_story()
    memory.put_devices(status_of(story)["memory"])
    headings, row = table(capsys.readouterr().out)
    assert [heading.strip() for heading in headings] == [
        "DEVICE", "BUDGET", "LEASED", "MEASURED", "HEADROOM", "LIMIT",
    ]  # fmt: skip
    assert row[0].strip() == "ram"
    assert row[-1].strip() == f"4.0 GiB, {LIMIT.source}"


def test_processes_of_every_kind_are_listed_with_what_they_were_promised_and_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = busy_story()
    memory.put_processes(status_of(story))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["KIND", "supervisor", "fork-server", "template", "worker"]
    assert lines[0].split() == [
        "KIND", "MODEL", "WORKER", "PID", "STATE", "HELD", "DECLARED", "LEASED", "MEASURED", "PEAK", "IDLE",
    ]  # fmt: skip
    (process,) = [each for each in status_of(story)["processes"] if each["kind"] == "worker"]
    assert lines[-1].split()[:6] == ["worker", "mini", "0.1", str(process["pid"]), "busy", "1"]
    assert memory.size(process["leased_bytes"]) in lines[-1]
    assert lines[-1].endswith("-"), "who holds a request is not idle"


def test_what_waits_for_memory_is_said_with_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(spec("mini"), spec("other"))
    story.free_bytes = 100 * MIB
    story.ask("other")
    story.pass_time(3.0)
    waiting = story.model("other").waiting
    assert waiting is not None
    memory.put_waiting(status_of(story)["memory"])
    assert capsys.readouterr().out == f"waiting   other for 3.0 s: {waiting.text()}\n"


def test_pressure_is_said_while_memory_is_short_and_only_then(capsys: pytest.CaptureFixture[str]) -> None:
    story, sample = Story(), (MemorySample(100.0, LIMIT.bytes, LIMIT),)
    story.tell(SampleTaken(Observation(sample)))
    memory.put_pressure(status_of(story)["memory"])
    assert capsys.readouterr().out == ""
    story.tell(SampleTaken(Observation(sample, Stall(story.now, 12.0, 3.0, is_ours=True))))
    memory.put_pressure(status_of(story)["memory"])
    printed = capsys.readouterr().out
    assert printed.startswith("pressure  high for 0.0 s: ")
    assert "12 % of the time lost to waiting for memory here" in printed


def test_leases_and_the_supervisors_own_memory_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    story = busy_story()
    story.tell(SampleTaken(Observation((MemorySample(story.now, LIMIT.bytes, LIMIT),), own_bytes=40 * MIB)))
    memory.put_leases(status_of(story))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0].split("/")[0] for line in lines[1:]] == [
        "fork-server", "template:mini", "worker:mini", "supervisor",
    ]  # fmt: skip
    assert lines[-1].split() == ["supervisor", "1", "-", "reserve", "40", "MiB", "-"]


def test_doctor_has_a_line_for_each_budget_each_lease_and_each_model_that_waits() -> None:
    story = Story(spec("mini"), spec("big", estimate=1650 * MIB))
    story.supervisor.learn_hard_limits("rlimit")
    story.ask("mini")
    story.run()
    story.ask("big")
    story.pass_time(2.0)
    lines = memory.memory_lines(status_of(story)["memory"])
    assert [line.split(":")[0] for line in lines] == [
        "budget of ram",
        "hard limits of workers",
        "lease of fork-server",
        "lease of template",
        "lease of worker",
        "big waits for memory",
    ]
    assert LIMIT.source in lines[0]
    assert all(word in lines[2] for word in ("declared", "leased", "measured", "peak"))


def test_document_of_a_daemon_that_says_less_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"memory": {"device": "ram", "budget_bytes": GIB}}
    memory.put_devices(document["memory"])
    memory.put_pressure(document["memory"])
    memory.put_waiting(document["memory"])
    memory.put_leases(document)
    memory.put_processes(document)
    assert "1.0 GiB" in capsys.readouterr().out


def test_quarantine_is_shown_with_its_reason_and_nothing_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(restart_limit=1, quarantine_seconds=50.0)
    memory.put_quarantined(status_of(story))
    assert capsys.readouterr().out == ""
    story.load()
    story.run()
    story.kill(story.one(ChildKind.WORKER), -11)
    story.run()
    memory.put_quarantined(status_of(story))
    printed = capsys.readouterr().out
    assert printed.startswith("quarantine  mini for another 50 s: ")
    assert "SIGSEGV" in printed


def test_refusals_and_users_are_told_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    put_refused({"counts": {"answered": 5}, "clients": {"counts": {"refused_user": 0}}})
    put_users({"users": [{"user": "uid:5", "requests": 0, "bytes": 0, "refused": 0}]})
    put_config({"config": {"files": ["/etc/e.toml"], "error": None, "restart_needed": {}}})
    assert capsys.readouterr().out == ""
    put_refused({"counts": {"refused.busy": 2, "answered": 5}, "clients": {"counts": {"refused_user": 3}}})
    put_users({"users": [{"user": "uid:5", "requests": 1, "bytes": 2048, "loads_last_minute": 4, "refused": 2}]})
    assert capsys.readouterr().out.splitlines() == [
        "refused   2 busy, 3 refused_user",
        "user      uid:5: 1 request(s) in flight (2 KiB), 4 load(s) within a minute, 2 refused by a quota",
    ]
