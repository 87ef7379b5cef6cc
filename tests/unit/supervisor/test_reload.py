"""New files of a model that serves: when they are loaded, who answers meanwhile, what comes of files that are bad."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embeddaemon.config.settings import StartMethod
from embeddaemon.errors import CorruptModel, ModelChanged
from embeddaemon.governor.budget import MIB
from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import Embed, Timings, Vectors
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.documents import models, status
from embeddaemon.supervisor.events import FilesSeen, RequestReceived, WorkerSaid
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.cache import digest
from tests.support.supervisor_story import CLIENT, Story, spec
from tests.support.supervisor_world import Process

BAD = CorruptModel("half of it is missing")


def served(*specs: object, **fields: object) -> Story:
    story = Story(*specs, **fields)  # type: ignore[arg-type]  # as Story takes them
    story.load()
    story.run()
    return story


def look(story: Story, times: int = 1) -> None:
    """Time passes until the files were looked at so many times."""
    for _ in range(times):
        before = story.count(do.LookAtFiles)
        for _ in range(50):
            if story.count(do.LookAtFiles) > before:
                break
            story.pass_time(0.2)
        else:
            raise AssertionError("nobody looks")


def change(story: Story, marks: str = "2") -> None:
    """The files change, and are still for long enough."""
    story.marks["mini"] = marks
    look(story, 2)


def loading(story: Story) -> Process:
    """What loads the new files."""
    number = story.model().watch.successor
    assert number is not None, "nothing loads new files"
    return story.world.processes[number]


def test_new_files_are_loaded_beside_what_serves_and_taken_over_without_a_gap() -> None:
    story = served()
    old_template, old_worker = story.one(ChildKind.TEMPLATE), story.one(ChildKind.WORKER)
    held = story.ask()
    change(story)
    assert loading(story).kind is ChildKind.TEMPLATE
    meanwhile = story.ask()
    story.answer(old_worker)
    assert (story.outcome(held), story.outcome(meanwhile)) == ("ok", "ok")
    story.step("fork", loading(story).child)
    story.step("control", story.world.fork_server or 0)
    number = loading(story).child
    story.step("ready", number)
    story.step("control", number)
    last = story.ask()
    assert len(old_worker.held) == 1, "nobody served while the new worker was forked"
    story.run()
    story.answer(old_worker)
    story.run()
    assert story.outcome(last) == "ok"
    assert not old_worker.is_alive
    assert not old_template.is_alive
    new = story.one(ChildKind.WORKER)
    assert new.parent == number == story.one(ChildKind.TEMPLATE).child
    assert story.model().card is not None
    assert story.model().card.revision == "2"  # type: ignore[union-attr]  # asserted before
    assert len(story.logged("model_files_changed")) == len(story.logged("model_reloaded")) == 1
    assert not story.model().watch.leaving


def test_leases_of_both_are_held_while_both_are_there_and_only_one_after() -> None:
    story = served()
    before = story.leased()
    change(story)
    assert sum(story.leased().values()) > sum(before.values())
    story.run()
    story.pass_time(1.0)
    story.run()
    assert sorted(story.leased().values()) == sorted(before.values())


def test_files_that_are_still_being_written_are_waited_for() -> None:
    story = served()
    for marks in range(2, 8):
        story.marks["mini"] = str(marks)
        look(story)
        assert not story.logged("model_files_changed")
    look(story)
    assert story.logged("model_files_changed")


def test_files_that_come_back_as_they_were_lead_to_nothing() -> None:
    story = served()
    story.marks["mini"] = "2"
    look(story)
    del story.marks["mini"]
    look(story, 3)
    assert not story.logged("model_files_changed")


@pytest.mark.parametrize("is_understood", [False, True])
def test_bad_new_files_change_nothing_but_what_is_told_and_the_next_ones_are_tried(is_understood: bool) -> None:
    story = served()
    worker = story.one(ChildKind.WORKER)
    if not is_understood:
        story.card_errors["mini"] = BAD
    change(story)
    if is_understood:
        story.fail_to_load(loading(story), BAD)
        story.run()
    for document in (models(story.state, story.now), status(story.state, story.now)):
        (shown,) = document["models"]
        assert (shown["state"], shown["error"]["code"]) == ("ready", "model_corrupt")
    assert story.logged("reload_failed")[0]["code"] == "model_corrupt"
    look(story, 10)
    assert len(story.logged("model_files_changed")) == 1, "the same files were tried again"
    id_ = story.ask()
    story.answer(worker)
    assert story.outcome(id_) == "ok"
    story.card_errors.clear()
    change(story, "3")
    story.run()
    assert story.one(ChildKind.WORKER) is not worker
    assert models(story.state, story.now)["models"][0]["error"] is None


def test_new_files_that_change_while_they_are_loaded_are_tried_when_they_are_still() -> None:
    story = served()
    change(story)
    story.fail_to_load(loading(story), ModelChanged("changed"))
    story.run()
    change(story, "3")
    story.run()
    assert story.model().card.revision == "3"  # type: ignore[union-attr]  # it is loaded


def test_without_memory_for_both_the_old_ones_are_drained_first_and_requests_wait() -> None:
    story = served(spec(estimate=700 * MIB), budget_bytes=1200 * MIB)
    old_worker, old_template = story.one(ChildKind.WORKER), story.one(ChildKind.TEMPLATE)
    held = story.ask()
    change(story)
    assert story.logged("reload_drains_first")
    assert old_worker.is_draining
    waiting = story.ask()
    story.answer(old_worker)
    story.run()
    assert not old_template.is_alive
    story.answer_everything()
    assert (story.outcome(held), story.outcome(waiting)) == ("ok", "ok")
    assert story.model().card.revision == "2"  # type: ignore[union-attr]  # it is loaded


def test_idle_model_comes_back_after_it_was_drained_for_its_new_files() -> None:
    story = served(spec(estimate=700 * MIB), budget_bytes=1200 * MIB)
    change(story)
    story.run()
    assert story.model().serving
    assert story.model().card.revision == "2"  # type: ignore[union-attr]  # it is loaded


def test_workers_that_load_for_themselves_are_replaced_one_after_the_other() -> None:
    story = served(spec(workers=(2, 2), estimate=600 * MIB), start_method=StartMethod.SPAWN, budget_bytes=4000 * MIB)
    old = story.living(ChildKind.WORKER)
    change(story)
    successor = loading(story)
    assert len(story.living(ChildKind.WORKER)) == 3
    assert all(each.is_alive and not each.is_draining for each in old)
    story.step("ready", successor.child)
    story.deliver(successor)
    story.run()
    assert not any(each.is_alive for each in old)
    assert len(story.living(ChildKind.WORKER)) == 2
    assert story.model().card.revision == "2"  # type: ignore[union-attr]  # it is loaded


def test_spawned_successor_that_cannot_load_leaves_the_others_alone() -> None:
    story = served(spec(estimate=600 * MIB), start_method=StartMethod.SPAWN, budget_bytes=4000 * MIB)
    worker = story.one(ChildKind.WORKER)
    change(story)
    story.fail_to_load(loading(story), BAD)
    story.run()
    assert story.one(ChildKind.WORKER) is worker
    assert not story.model().failures
    assert story.model().watch.error is not None


def test_look_that_never_ends_holds_up_nothing_and_no_other_is_begun_for_its_model() -> None:
    story = served(spec(), spec("other"))
    story.load("other")
    story.run()
    story.is_hanging = True
    story.pass_time(100.0)
    assert [look.model for look in story.looks].count("mini") == 1
    assert [look.model for look in story.looks].count("other") == 1
    story.is_hanging = False
    story.tell(FilesSeen("other", None))
    look(story)
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_files_are_not_looked_at_when_it_is_switched_off() -> None:
    story = served(file_check_seconds=0.0)
    story.marks["mini"] = "2"
    story.pass_time(20.0)
    assert not story.count(do.LookAtFiles)


def test_model_that_is_unloaded_meanwhile_takes_its_successor_along() -> None:
    story = served()
    change(story)
    successor = loading(story)
    id_ = story.unload()
    story.run()
    assert story.outcome(id_) == "ok"
    assert not successor.is_alive
    assert [each.kind for each in story.world.processes.values() if each.is_alive] == [ChildKind.FORK_SERVER]


def test_template_that_dies_meanwhile_is_followed_by_one_with_the_new_files() -> None:
    story = served()
    change(story)
    id_ = story.ask()
    story.kill(story.world.processes[story.model().template or 0])
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().card.revision == "2"  # type: ignore[union-attr]  # it is loaded
    assert len(story.living(ChildKind.TEMPLATE)) == 1


def test_successor_that_is_killed_is_tried_with_the_next_change_and_nobody_is_blamed() -> None:
    story = served()
    change(story)
    story.step("fork", loading(story).child)
    story.step("control", story.world.fork_server or 0)
    story.kill(loading(story))
    story.run()
    assert story.model().watch.error is not None
    assert not story.model().failures
    change(story, "3")
    story.run()
    assert story.model().watch.error is None


def test_files_that_change_during_a_first_load_are_read_again_and_its_requests_wait() -> None:
    story = Story()
    id_ = story.ask()
    template = story.run_until_ordered(ChildKind.TEMPLATE)
    story.marks["mini"] = "2"
    story.fail_to_load(template, ModelChanged("changed while it was read"))
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.model().card.revision == "2"  # type: ignore[union-attr]  # it is loaded


def test_files_that_never_stop_changing_end_the_requests() -> None:
    story = Story()
    id_ = story.ask()
    for _ in range(2):
        template = story.run_until_ordered(ChildKind.TEMPLATE)
        story.fail_to_load(template, ModelChanged("changed while it was read"))
        story.run_until_told()
    assert story.outcome(id_) == "model_changed"


def answer_for_real(story: Story, worker: Process) -> None:
    """A worker answers all that it holds with frames that can be kept."""
    while worker.held:
        held = worker.held.pop(0)
        assert isinstance(held.header, tuple)
        header = Vectors(
            id=held.header[1], model="mini", count=1, dim=384, dtype="float32", tokens=4, timings=Timings(1, 2, 3)
        )
        result = link.Result(worker.worker, worker.incarnation, held.serial, "", 1, 4, 2, 3)
        story.tell(WorkerSaid(result, [codec.encode_answer(header), b"v" * 1536]))
    worker.dispatches.clear()


def ask_for_real(story: Story, id_: int) -> None:
    request = replace(Embed(id=id_, model="mini"))
    story.tell(RequestReceived(CLIENT, request, (CLIENT, id_), b"", 50, is_admin=False, digest=digest(b"a query")))


def test_cache_answers_with_nothing_of_the_old_files_not_even_what_comes_after_the_swap() -> None:
    story = served(cache_bytes=MIB)
    worker = story.one(ChildKind.WORKER)
    ask_for_real(story, 1001)
    answer_for_real(story, worker)
    ask_for_real(story, 1002)
    assert story.state.cache.hits == 1
    change(story)
    late = replace(Embed(id=1003, model="mini"))
    other = digest(b"another")
    story.tell(RequestReceived(CLIENT, late, (CLIENT, 1003), b"", 50, is_admin=False, digest=other))
    story.run()
    assert worker.held, "the old worker still computes what it was given"
    answer_for_real(story, worker)
    story.run()
    ask_for_real(story, 1004)
    story.tell(RequestReceived(CLIENT, replace(late, id=1005), (CLIENT, 1005), b"", 50, is_admin=False, digest=other))
    assert story.state.cache.hits == 1
    assert len(story.one(ChildKind.WORKER).held) == 2
