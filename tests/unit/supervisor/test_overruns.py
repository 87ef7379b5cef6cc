"""A worker that holds more than it was promised."""

from __future__ import annotations

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.learned import Learned
from embeddaemon.protocol import control
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.memory import needs
from embeddaemon.supervisor.memory.needs import most_worker_bytes
from embeddaemon.supervisor.processes.child import ChildKind
from tests.support.supervisor_story import Story, spec
from tests.support.supervisor_world import Process

ESTIMATE = 300 * MIB


def one_worker(budget_bytes: int = 2048 * MIB) -> tuple[Story, Process]:
    story = Story(spec(estimate=ESTIMATE), budget_bytes=budget_bytes)
    story.ask()
    story.answer_everything()
    return story, story.one(ChildKind.WORKER)


def lease_of(story: Story, process: Process) -> int:
    return story.governor.lease_of(story.state.children[process.child].holder).bytes


def grow(story: Story, worker: Process, count: int, *, is_kept: bool) -> None:
    """It grows, whatever the system allows, and says so with its next heartbeat."""
    worker.most_bytes = None
    story.grow(worker, count, is_kept=is_kept)
    story.pass_time(0.5)


def test_worker_is_held_to_its_lease_and_a_little_more_by_the_system() -> None:
    story, worker = one_worker()
    lease = lease_of(story, worker)
    assert worker.most_bytes is not None
    assert lease <= worker.most_bytes <= lease * 9 // 8


def test_lease_grows_with_its_worker_where_the_budget_has_room() -> None:
    story, worker = one_worker()
    lease = lease_of(story, worker)
    grow(story, worker, lease - worker.private_bytes + 30 * MIB, is_kept=True)
    assert worker.private_bytes < lease_of(story, worker) < worker.private_bytes * 1.1
    assert worker.most_bytes is not None
    assert worker.most_bytes >= lease_of(story, worker), "its hard limit follows"
    (line,) = story.logged("lease_raised")
    assert (line["from_bytes"], line["to_bytes"]) == (lease, lease_of(story, worker))
    assert worker.trims == 0
    assert worker.is_alive


def test_worker_that_trimming_brings_below_its_lease_stays() -> None:
    story, worker = one_worker()
    grow(story, worker, 2000 * MIB, is_kept=False)
    assert worker.trims == 1
    assert worker.is_alive
    story.pass_time(2.0)
    assert worker.trims == 1, "once for each time that it is over"
    assert story.count(do.SendDrain) == 0
    (line,) = story.logged("over_the_lease")
    assert line["lease_bytes"] == lease_of(story, worker)


def test_worker_that_keeps_more_than_twice_its_estimate_finishes_what_it_holds_and_goes() -> None:
    story, worker = one_worker()
    held = story.ask()
    grow(story, worker, 2000 * MIB, is_kept=True)
    assert worker.trims == 1
    story.pass_time(0.5)
    assert worker.is_draining
    (line,) = story.logged("recycling")
    assert (line["why"], line["held"]) == ("over_lease", 1)
    assert story.outcome(held) == "open"
    story.answer_everything()
    assert story.outcome(held) == "ok"
    after = story.ask()
    story.answer_everything()
    assert story.outcome(after) == "ok"
    assert story.one(ChildKind.WORKER) is not worker
    assert story.state.counts["recycled"] == 1
    assert story.model().failures == 0, "nobody is to blame"


def test_worker_for_whose_growth_there_is_no_room_goes() -> None:
    story, worker = one_worker(budget_bytes=352 * MIB + ESTIMATE + 160 * MIB)
    room = story.governor.headroom(story.now)
    grow(story, worker, lease_of(story, worker) - worker.private_bytes + room + 1, is_kept=True)
    story.pass_time(0.5)
    assert worker.is_draining


def test_worker_that_needs_more_only_while_it_computes_is_not_recycled() -> None:
    story, worker = one_worker()
    worker.peak_bytes = 4000 * MIB
    story.pass_time(3.0)
    assert worker.trims <= 1
    assert not worker.is_draining


def test_death_at_the_hard_limit_is_named_and_the_successor_is_leased_more() -> None:
    story, worker = one_worker()
    before = lease_of(story, worker)
    story.ask()
    story.grow(worker, 5000 * MIB, is_kept=True)
    story.run()
    (line,) = story.logged("worker_died")
    assert line["death"] == "out_of_memory"
    assert line["worker"] == "mini/0.1"
    assert story.model().deaths["out_of_memory"] == 1
    successor = story.one(ChildKind.WORKER)
    assert lease_of(story, successor) > before
    for _ in range(8):
        story.grow(story.one(ChildKind.WORKER), 5000 * MIB, is_kept=True)
        story.ask()
        for _ in range(40):
            story.run()
            story.pass_time(1.0)
    assert lease_of(story, story.one(ChildKind.WORKER)) <= 2 * before + MIB, "however many die"


def test_worker_that_dies_of_what_it_held_teaches_nothing_and_one_that_lives_on_does() -> None:
    story, worker = one_worker()
    before = story.model().footprint
    assert before is not None
    grow(story, worker, 250 * MIB, is_kept=True)
    story.pass_time(1.0)
    story.kill(worker)
    story.run()
    assert story.model().footprint == before
    story.ask()
    story.answer_everything()
    grow(story, story.one(ChildKind.WORKER), 250 * MIB, is_kept=True)
    story.pass_time(11.0)
    after = story.model().footprint
    assert after is not None
    assert before.worker_bytes < after.worker_bytes <= 270 * MIB * 1.1


def test_what_is_leased_after_deaths_has_one_bound_whatever_was_measured_before() -> None:
    story, worker = one_worker()
    automatic = story.model().automatic
    assert automatic is not None
    grow(story, worker, 2 * automatic.worker_bytes - 40 * MIB, is_kept=True)
    story.pass_time(11.0)
    for _ in range(5):
        story.ask()
        for _ in range(40):
            story.run()
            story.pass_time(1.0)
        story.grow(story.one(ChildKind.WORKER), 5000 * MIB, is_kept=True)
    story.run()
    footprint = story.model().footprint
    assert footprint is not None
    assert footprint.worker_bytes <= most_worker_bytes(story.model())


def test_fork_server_is_leased_what_it_was_found_to_need_before() -> None:
    story, _ = one_worker()
    assert needs.fork_server_bytes(Learned("x")) == FORK_SERVER_BYTES
    story.state.learned = Learned("x")
    needs.fork_server_measured(story.state, control.ForkServerReady(1, [], 1, 200 * MIB), story.now)
    assert story.state.fork_server_bytes == needs.fork_server_bytes(story.state.learned) == 210 * MIB
    assert story.state.learned_at == story.now, "to be written"


def test_worker_that_could_get_no_memory_says_so_with_its_exit_code() -> None:
    story, worker = one_worker()
    story.kill(worker, 7)
    story.run()
    (line,) = story.logged("worker_died")
    assert line["death"] == "out_of_memory"
