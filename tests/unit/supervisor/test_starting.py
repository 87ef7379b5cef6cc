from __future__ import annotations

import math
from dataclasses import replace

import pytest

from embeddaemon.config.settings import StartMethod
from embeddaemon.errors import CorruptModel, FailedLoad, HubUnreachable
from embeddaemon.governor.budget import MIB
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.protocol import control
from embeddaemon.protocol.error_codec import error_to_map
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import ControlLost, ForkerSaid
from embeddaemon.supervisor.housekeeping import FORK_SECONDS, SCALE_DOWN_AFTER_SECONDS
from embeddaemon.supervisor.processes.child import ChildKind
from tests.support.supervisor_story import Story, spec


def test_first_request_starts_fork_server_then_template_then_worker_and_is_answered() -> None:
    story = Story()
    id_ = story.ask()
    story.run()
    started = [type(command) for command in story.commands if type(command).__name__.startswith("Start")]
    assert started == [do.StartForkServer, do.StartTemplate, do.StartWorker]
    story.answer()
    assert story.outcome(id_) == "ok"


def test_nothing_is_started_before_somebody_asks() -> None:
    story = Story()
    story.pass_time(10.0)
    assert not story.world.processes
    assert story.supervisor.next_due() is None


def test_preloaded_model_is_there_before_anybody_asks() -> None:
    story = Story(spec(preload=True))
    story.run()
    assert story.model().serving


def test_fifty_requests_of_one_model_start_one_template_and_one_worker() -> None:
    story = Story()
    for _ in range(50):
        story.ask()
        story.pass_time(0.01)
    story.run()
    assert story.count(do.StartTemplate) == story.count(do.StartWorker) == 1


def test_minimum_of_workers_is_started_together() -> None:
    story = Story(spec(workers=(3, 3), estimate=200 * MIB))
    story.ask()
    story.run()
    assert len(story.living(ChildKind.WORKER)) == 3


def test_first_workers_lease_is_taken_with_the_templates_and_leases_sum_up() -> None:
    story = Story()
    story.ask()
    template = story.run_until_ordered(ChildKind.TEMPLATE)
    footprint = story.model().footprint
    assert footprint is not None
    assert story.leased() == {
        "fork-server": FORK_SERVER_BYTES,
        f"template:mini/{template.child}": footprint.template_peak_bytes,
        f"worker:mini/first-of-{template.child}": footprint.worker_peak_bytes,
    }


def test_template_lease_comes_down_to_what_it_measures() -> None:
    story = Story()
    story.ask()
    story.run()
    template = story.one(ChildKind.TEMPLATE)
    assert story.leased()[f"template:mini/{template.child}"] == story.world.private_bytes


def test_process_larger_than_its_lease_gets_a_larger_one_where_that_fits() -> None:
    story = Story()
    story.world.private_bytes = 400 * MIB
    story.ask()
    story.run()
    worker = story.one(ChildKind.WORKER)
    assert story.leased()[f"worker:mini/{worker.child}"] == 400 * MIB


def test_unload_between_template_ready_and_first_worker_returns_the_reserved_lease() -> None:
    story = Story()
    story.ask(deadline_ms=1000)
    template = story.run_until_ordered(ChildKind.TEMPLATE)
    unloaded = story.unload()
    story.pass_time(2.0)
    story.run()
    assert story.outcome(unloaded) == "ok"
    assert set(story.leased()) == {"fork-server"}
    assert not template.is_alive


def test_load_is_answered_when_a_worker_is_ready() -> None:
    story = Story()
    loaded = story.load()
    assert story.outcome(loaded) == "open"
    story.run()
    assert story.outcome(loaded) == "ok"
    assert story.outcome(story.load()) == "ok"


def test_load_that_takes_too_long_expires() -> None:
    story = Story()
    loaded = story.load(deadline_ms=1000)
    story.pass_time(1.3)
    assert story.outcome(loaded) == "expired"
    assert story.error(loaded).details["waited_for"] == "load"


def test_failed_load_is_told_to_all_who_wait_and_at_once_to_those_who_come_soon_after() -> None:
    story = Story()
    ids = [story.ask(), story.load(), story.ask()]
    story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
    story.run()
    assert [story.outcome(id_) for id_ in ids] == ["model_corrupt"] * 3
    soon = story.ask()
    assert story.outcome(soon) == "model_corrupt"
    assert story.error(soon).retry_after_ms
    assert story.count(do.StartTemplate) == 1


def test_failed_load_is_tried_again_by_the_first_request_after_the_back_off() -> None:
    story = Story()
    story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
    story.run()
    story.pass_time(1.0)
    again = story.ask()
    story.answer_everything()
    assert story.outcome(again) == "ok"


def test_failed_load_is_not_tried_again_while_nobody_asks() -> None:
    story = Story()
    story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
    story.run()
    story.pass_time(120.0)
    assert story.count(do.StartTemplate) == 1


def test_load_by_hand_does_not_wait_for_the_back_off() -> None:
    story = Story()
    story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
    story.run()
    loaded = story.load()
    story.run()
    assert story.outcome(loaded) == "ok"


def test_back_off_grows_and_a_good_answer_ends_it() -> None:
    story = Story()
    delays = []
    for _ in range(3):
        story.load()
        story.fail_to_load(story.run_until_ordered(ChildKind.TEMPLATE), CorruptModel("bad weights"))
        story.run()
        delays.append(story.model().retry_at - story.now)
    assert delays == pytest.approx([0.5, 1.0, 2.0])
    story.pass_time(3.0)
    story.ask()
    story.answer_everything()
    assert story.model().failures == 0


def test_hub_model_is_fetched_read_and_then_loaded() -> None:
    story = Story(spec(source="hub:org/name"))
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    (read,) = [command for command in story.commands if isinstance(command, do.ReadCard)]
    assert read.folder == "/cache/model"


def test_hub_that_cannot_be_reached_is_told_as_such() -> None:
    story = Story(spec(source="hub:org/name"))
    id_ = story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.FETCHER), HubUnreachable("no network"))
    story.run()
    assert story.outcome(id_) == "hub_unreachable"


def test_hub_model_whose_folder_is_broken_is_fetched_anew_next_time() -> None:
    story = Story(spec(source="hub:org/name"))
    story.card_errors["mini"] = CorruptModel("bad")
    assert (id_ := story.ask())
    story.run()
    assert story.outcome(id_) == "model_corrupt"
    story.card_errors.clear()
    story.pass_time(1.0)
    again = story.ask()
    story.answer_everything()
    assert story.outcome(again) == "ok"
    assert story.count(do.StartFetcher) == 2


def test_options_that_could_not_be_checked_before_the_folder_was_there_are_checked_then() -> None:
    story = Story(spec(source="hub:org/name"))
    good, bad = story.ask(), story.ask(task="poetry")
    story.answer_everything()
    assert story.outcome(good) == "ok"
    assert story.outcome(bad) == "unknown_task"


def test_fork_server_that_cannot_import_fails_all_who_wait_for_it_and_backs_off() -> None:
    story = Story(spec("one"), spec("two"))
    ids = [story.ask("one"), story.ask("two")]
    story.fail_to_load(story.run_until_ordered(ChildKind.FORK_SERVER), CorruptModel("no torch"))
    story.run()
    assert [story.outcome(id_) for id_ in ids] == ["model_corrupt"] * 2
    assert story.outcome(story.ask("one")) == "model_corrupt"
    assert story.count(do.StartForkServer) == 1
    story.pass_time(2.0)
    again = story.ask("one")
    story.pass_time(1.0)
    story.answer_everything()
    assert story.outcome(again) == "ok"


@pytest.mark.parametrize("error", [FailedLoad("libtorch: failed to map segment"), CorruptModel("no torch")])
def test_limit_on_the_address_space_is_named_where_what_cannot_be_loaded_may_come_of_it(error: FailedLoad) -> None:
    story = Story()
    story.state.machine = replace(story.state.machine, address_space_bytes=300 * MIB)
    id_ = story.ask()
    story.fail_to_load(story.run_until_ordered(ChildKind.FORK_SERVER), error)
    story.run()
    assert ("may map 300 MiB at most" in story.error(id_).message) is (type(error) is FailedLoad)


def test_fork_server_that_said_why_it_ends_was_not_killed_though_it_is_for_certainty() -> None:
    story = Story()
    story.ask()
    fork_server = story.run_until_ordered(ChildKind.FORK_SERVER)
    failed = control.LoadFailed(error_to_map(FailedLoad("no torch")))
    story.tell(ForkerSaid(fork_server.child, failed))
    story.tell(ControlLost(fork_server.child))
    story.kill(fork_server)
    story.run()
    (died,) = story.logged("fork_server_died")
    assert died["death"] == "load_failed"


def test_fork_server_that_never_gets_ready_is_killed_after_the_load_timeout() -> None:
    story = Story(load_timeout_seconds=10.0)
    id_ = story.ask()
    fork_server = story.run_until_ordered(ChildKind.FORK_SERVER)
    story.pass_time(10.5)
    assert not fork_server.is_alive
    story.step("control", fork_server.child)
    story.step("reap", fork_server.child)
    assert story.outcome(id_) == "load_failed"


def test_forked_worker_that_never_gets_ready_is_killed_and_replaced() -> None:
    story = Story(request_timeout_seconds=60.0)
    id_ = story.ask()
    worker = story.run_until_ordered(ChildKind.WORKER)
    story.step("fork", worker.child)
    story.step("control", story.one(ChildKind.TEMPLATE).child)
    story.pass_time(FORK_SECONDS + 0.5)
    assert not worker.is_alive
    story.answer_everything()
    assert story.outcome(id_) == "ok"


def test_spawned_workers_need_neither_fork_server_nor_template() -> None:
    story = Story(spec(estimate=900 * MIB), start_method=StartMethod.SPAWN)
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert {each.kind for each in story.world.processes.values()} == {ChildKind.WORKER}


def test_another_worker_is_started_while_requests_wait_and_goes_when_it_is_idle_long() -> None:
    story = Story(spec(workers=(1, 2), estimate=200 * MIB, keep_alive_seconds=math.inf))
    ids = [story.ask(body_bytes=20_000) for _ in range(6)]
    story.run()
    story.pass_time(1.0)
    story.run()
    assert len(story.living(ChildKind.WORKER)) == 2
    story.answer_everything()
    assert {story.outcome(id_) for id_ in ids} == {"ok"}
    story.pass_time(SCALE_DOWN_AFTER_SECONDS + 1.0)
    story.run()
    assert len(story.living(ChildKind.WORKER)) == 1


def test_one_more_worker_beyond_the_minimum_sends_no_other_model_away() -> None:
    story = Story(spec("busy", workers=(1, 3), estimate=400 * MIB), spec("idle"), budget_bytes=1050 * MIB)
    story.ask("idle")
    story.answer_everything()
    for _ in range(6):
        story.ask("busy", body_bytes=20_000)
    story.run()
    story.pass_time(4.0)
    story.run()
    assert story.model("idle").serving
    assert len(story.model("busy").serving) == 1


def test_keep_alive_of_zero_sends_a_model_away_after_its_answer() -> None:
    story = Story(spec(keep_alive_seconds=0.0))
    story.ask()
    story.answer_everything()
    story.pass_time(0.5)
    story.run()
    assert set(story.leased()) == {"fork-server"}


def test_idle_model_goes_after_its_keep_alive_and_a_pinned_one_stays() -> None:
    story = Story(spec("idle", keep_alive_seconds=10.0), spec("pinned", keep_alive_seconds=10.0, pinned=True))
    story.ask("idle")
    story.ask("pinned")
    story.answer_everything()
    story.pass_time(9.0)
    assert story.model("idle").serving
    story.pass_time(2.0)
    story.run()
    assert story.model("idle").is_absent
    assert story.model("pinned").serving


def test_unload_lets_a_worker_finish_and_is_answered_when_all_is_gone() -> None:
    story = Story()
    id_ = story.ask()
    story.run()
    unloaded = story.unload()
    assert story.outcome(unloaded) == "open"
    story.answer_everything()
    assert story.outcome(id_) == "ok"
    assert story.outcome(unloaded) == "ok"
    assert set(story.leased()) == {"fork-server"}


def test_request_that_comes_during_an_unload_brings_the_model_back_after_it() -> None:
    story = Story()
    story.load()
    story.run()
    unloaded = story.unload()
    id_ = story.ask()
    story.answer_everything()
    assert story.outcome(unloaded) == "ok"
    assert story.outcome(id_) == "ok"
    assert story.count(do.StartTemplate) == 2


def test_unload_of_what_is_not_loaded_is_answered_at_once() -> None:
    story = Story()
    assert story.outcome(story.unload()) == "ok"


def test_folder_is_read_again_before_every_load_and_not_for_every_request() -> None:
    story = Story()
    for loads in (1, 2):
        story.ask()
        story.ask()
        story.answer_everything()
        assert story.count(do.ReadCard) == loads
        story.unload()
        story.run()


def test_folder_that_broke_since_it_was_read_first_is_an_error_of_its_own() -> None:
    story = Story()
    story.card_errors["mini"] = FailedLoad("the folder is gone")
    assert story.outcome(story.ask()) == "load_failed"
    assert story.count(do.StartForkServer) == 0


def test_unload_ends_a_fetch_that_is_under_way_and_gives_its_lease_back() -> None:
    story = Story(spec(source="hub:org/mini"))
    id_ = story.ask(deadline_ms=500)
    fetcher = story.run_until_ordered(ChildKind.FETCHER)
    story.step("fork", fetcher.child)
    story.step("control", story.one(ChildKind.FORK_SERVER).child)
    story.pass_time(1.0)
    assert story.outcome(id_) == "expired"
    unloaded = story.unload()
    assert not fetcher.is_alive
    story.run()
    assert story.outcome(unloaded) == "ok"
    assert set(story.leased()) == {"fork-server"}
    again = story.ask()
    story.answer_everything()
    assert story.outcome(again) == "ok"
