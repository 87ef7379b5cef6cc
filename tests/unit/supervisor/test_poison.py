"""Texts that workers die of: who is suspected, who is convicted, and who has nothing to do with it."""

from __future__ import annotations

import pytest

from embeddaemon.governor.budget import MIB
from embeddaemon.protocol.journal import WHOLE_REQUEST, Record, Turn, digest_of_text
from embeddaemon.protocol.messages import Lane
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import KernelKilled
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.processes.lifecycle import DeathClass
from embeddaemon.supervisor.sickness.blame import MOST_DEATHS
from embeddaemon.supervisor.sickness.canary import SERIAL as CANARY_SERIAL
from embeddaemon.supervisor.sickness.suspects import MOST_CONVICTED, Suspects
from tests.support.supervisor_story import Story, spec
from tests.support.supervisor_world import Process

SEGFAULT, ABORTED, SIGTERM, SIGBUS, KILLED = -11, -6, -15, -7, -9
POISON = "the text that kills"
SEGV = DeathClass.SEGFAULT


def worker_of(story: Story) -> Process:
    return story.one(ChildKind.WORKER)


def die(story: Story, exit_code: int = SEGFAULT) -> None:
    """The worker dies of what it is at; its successor comes."""
    story.kill(worker_of(story), exit_code)
    story.run()


def wait_out(story: Story) -> None:
    """The longest back-off."""
    for _ in range(40):
        story.run()
        story.pass_time(1.0)
    story.run()


def convicted_story(**fields: object) -> tuple[Story, int]:
    """A text that two workers died of, and its request."""
    story = Story(**fields)  # type: ignore[arg-type]  # passed on by name
    id_ = story.ask(text=POISON)
    story.run()
    die(story)
    die(story)
    return story, id_


def test_text_that_kills_a_second_worker_is_refused_without_another_death() -> None:
    story, id_ = convicted_story()
    story.answer_everything()
    assert story.outcome(id_) == "poisoned"
    assert story.model().deaths == {"segfault": 2}
    assert story.state.counts["convicted"] == 1


def test_convicted_text_is_known_under_another_id_and_to_workers_that_come_later() -> None:
    story, _ = convicted_story()
    story.answer_everything()
    story.kill(worker_of(story), KILLED)
    story.run()
    again, other = story.ask(text=POISON, client=b"other"), story.ask(text="another")
    story.answer_everything()
    assert story.outcome(again, b"other") == "poisoned"
    assert story.outcome(other) == "ok"
    assert story.model().deaths == {"segfault": 2, "killed": 1}


def test_all_workers_of_the_model_are_told_and_nobody_elses() -> None:
    story = Story(
        spec(workers=(2, 2), estimate=200 * MIB),
        spec("other", estimate=200 * MIB, preload=True),
        budget_bytes=4000 * MIB,
    )
    story.load()
    story.run()
    story.ask(text=POISON)
    for _ in range(2):
        story.kill(next(each for each in story.living(ChildKind.WORKER) if each.held), SEGFAULT)
        story.run()
    told = {each.worker for each in story.commands if isinstance(each, do.SendConvict)}
    assert told == {worker.number for worker in story.model().workers.values()}


def test_only_what_the_worker_was_at_is_suspected() -> None:
    story = Story()
    ids = [story.ask(body_bytes=100_000) for _ in range(2)]  # a dispatch for each
    story.run()
    assert len(worker_of(story).dispatches) == 2
    die(story)
    entries = {entry.request.id: entry for entry in story.state.open.values()}
    assert entries[ids[0]].is_suspect
    assert not entries[ids[1]].is_suspect
    assert entries[ids[1]].deaths == 0


def test_innocents_of_the_same_micro_batch_are_answered() -> None:
    story = Story()
    innocents = [story.ask(text=f"text {number}") for number in range(3)]
    poisoned = story.ask(text=POISON)
    innocents += [story.ask(text=f"text {number}") for number in range(3, 5)]
    story.run()
    die(story)
    while story.outcome(poisoned) == "open":
        story.run()
        worker = worker_of(story)
        assert len(worker.held) == 1
        if worker.held[0].digest == digest_of_text(repr(POISON.encode()), "") and not worker.convicted:
            story.kill(worker, SEGFAULT)
        else:
            story.answer(worker)
    story.answer_everything()
    assert story.outcome(poisoned) == "poisoned"
    assert {story.outcome(each) for each in innocents} == {"ok"}
    assert story.model().deaths == {"segfault": 2}


@pytest.mark.parametrize("exit_code", [KILLED, SIGTERM, SIGBUS])
def test_death_that_no_text_can_be_the_cause_of_convicts_nobody(exit_code: int) -> None:
    story = Story(request_timeout_seconds=600.0)
    for _ in range(3):
        story.ask(text=POISON)
        story.run()
        if story.living(ChildKind.WORKER) and worker_of(story).held:
            die(story, exit_code)
        wait_out(story)
    assert story.state.counts["convicted"] == 0
    assert story.model().suspects.suspected == 0


def test_machine_without_memory_and_a_dead_template_convict_nobody() -> None:
    story = Story(request_timeout_seconds=600.0)
    story.ask(text=POISON)
    for _ in range(3):
        story.run()
        story.tell(KernelKilled(worker_of(story).child, by_hard_limit=False))
        die(story, KILLED)
        wait_out(story)
        story.kill(story.one(ChildKind.TEMPLATE))
        wait_out(story)
    story.answer_everything()
    assert story.state.counts["convicted"] == 0
    assert story.state.counts["suspected"] == 0


def test_text_that_passes_the_workers_own_limit_twice_is_convicted() -> None:
    story = Story()
    id_ = story.ask(text=POISON)
    for _ in range(2):
        story.run()
        story.tell(KernelKilled(worker_of(story).child, by_hard_limit=True))
        die(story, KILLED)
    story.answer_everything()
    assert story.outcome(id_) == "poisoned"


def test_worker_killed_for_its_lease_makes_suspects_only_of_what_it_was_at() -> None:
    story = Story()
    at_it, waits = (story.ask(body_bytes=100_000) for _ in range(2))
    story.run()
    worker = worker_of(story)
    story.state.children[worker.child].ending = DeathClass.OVER_LEASE
    die(story, KILLED)
    entries = {entry.request.id: entry for entry in story.state.open.values()}
    assert entries[at_it].is_suspect
    assert not entries[waits].is_suspect
    assert story.model().suspects.suspected == 0


def test_worker_without_a_journal_makes_all_that_it_held_suspect_and_convicts_nobody() -> None:
    story = Story()
    ids = [story.ask(text=f"text {number}") for number in range(3)]
    for _ in range(2):
        story.run()
        worker_of(story).turns = None
        die(story)
    assert [story.outcome(each) for each in ids] == ["worker_crashed", "open", "open"]
    assert story.state.counts["convicted"] == 0


def test_request_whose_body_kills_before_it_is_decoded_is_given_up() -> None:
    story = Story()
    id_ = story.ask(text=POISON)
    for _ in range(2):
        story.run()
        worker = worker_of(story)
        worker.turns = (Turn(1.0, (Record(worker.held[0].serial, WHOLE_REQUEST),)),)
        die(story)
    assert story.outcome(id_) == "worker_crashed"


def test_request_with_ever_new_bad_texts_is_given_up() -> None:
    story = Story(request_timeout_seconds=600.0)
    id_ = story.ask()
    for number in range(MOST_DEATHS):
        story.run()
        worker = worker_of(story)
        worker.turns = (Turn(1.0, (Record(worker.held[0].serial, digest_of_text(f"text {number}", "")),)),)
        die(story)
        wait_out(story)
    assert story.outcome(id_) == "worker_crashed"


def test_of_a_stalled_worker_only_the_oldest_turn_is_suspected() -> None:
    story = Story()
    hangs, runs = (story.ask(body_bytes=100_000) for _ in range(2))
    story.run()
    worker = worker_of(story)
    first, second = worker.held
    worker.turns = (
        Turn(9.0, (Record(second.serial, second.digest),)),
        Turn(2.0, (Record(first.serial, first.digest),)),
    )
    story.state.children[worker.child].ending = DeathClass.STALLED
    die(story, KILLED)
    entries = {entry.request.id: entry for entry in story.state.open.values()}
    assert entries[hangs].is_suspect
    assert not entries[runs].is_suspect


def test_suspect_that_was_computed_alone_is_none_any_more() -> None:
    story = Story()
    ids = [story.ask(text=f"text {number}") for number in range(3)]
    story.run()
    die(story)
    assert story.model().suspects.suspected == 3
    story.answer_everything()
    assert {story.outcome(each) for each in ids} == {"ok"}
    assert story.model().suspects.suspected == 0


def test_conviction_lapses() -> None:
    story, _ = convicted_story(poison_seconds=100.0)
    story.answer_everything()
    assert len(story.model().suspects.convicted(story.now)) == 1
    story.now += 101.0
    assert story.model().suspects.convicted(story.now) == ()


def test_two_deaths_by_one_text_cost_the_model_nothing() -> None:
    story, _ = convicted_story(restart_limit=2)
    assert story.model().failures == 0
    assert story.logged("quarantined") == []
    other = story.ask(text="another", lane=Lane.BULK)
    story.answer_everything()
    assert story.outcome(other) == "ok"


def test_load_with_force_acquits() -> None:
    story, _ = convicted_story()
    story.answer_everything()
    story.load(force=True)
    again = story.ask(text=POISON)
    story.answer_everything()
    assert story.outcome(again) == "ok"


def test_who_was_only_there_is_no_suspect_once_the_culprit_is_known() -> None:
    suspects = Suspects()
    assert suspects.died({b"bad", b"near"}, 1, SEGV, now=0.0, remember_seconds=10.0) is None
    assert suspects.died({b"bad"}, 2, SEGV, now=1.0, remember_seconds=10.0) == {1, 2}
    assert suspects.suspected == 0
    assert suspects.died({b"near"}, 3, SEGV, now=2.0, remember_seconds=10.0) is None


def test_text_that_died_long_ago_is_a_first_offender() -> None:
    suspects = Suspects()
    suspects.died({b"bad"}, 1, SEGV, now=0.0, remember_seconds=10.0)
    assert suspects.died({b"bad"}, 2, SEGV, now=11.0, remember_seconds=10.0) is None


def test_same_death_told_twice_is_one() -> None:
    suspects = Suspects()
    suspects.died({b"bad"}, 1, SEGV, now=0.0, remember_seconds=10.0)
    assert suspects.died({b"bad"}, 1, SEGV, now=0.0, remember_seconds=10.0) is None


def test_convicts_are_bounded_and_the_oldest_goes() -> None:
    suspects = Suspects()
    for number in range(MOST_CONVICTED + 1):
        for death in (2 * number, 2 * number + 1):
            suspects.died({b"%d" % number}, death, SEGV, now=float(number), remember_seconds=1e6)
    digests = {text.digest for text in suspects.convicted(1.0)}
    assert len(digests) == MOST_CONVICTED
    assert b"0" not in digests


def test_text_that_hangs_for_longer_than_anybody_waits_is_convicted_all_the_same() -> None:
    story = Story(stall_seconds=10.0)
    for _ in range(2):
        id_ = story.ask(text=POISON, deadline_ms=5000)
        story.run()
        story.pass_time(6.0)
        assert story.outcome(id_) == "expired"
        worker_of(story).turn_ms = 11_000
        story.pass_time(2.0)
        story.run()
    id_ = story.ask(text=POISON)
    story.answer_everything()
    assert story.outcome(id_) == "poisoned"
    assert story.model().deaths == {"stalled": 2}


def test_worker_that_dies_of_our_own_text_convicts_nobody_and_the_death_counts() -> None:
    story = Story()
    for _ in range(2):
        story.ask()
        story.run()
        worker_of(story).turns = (Turn(1.0, (Record(CANARY_SERIAL, digest_of_text("canary", "")),)),)
        die(story)
    assert story.state.counts["convicted"] == 0
    assert story.model().failures == 2
