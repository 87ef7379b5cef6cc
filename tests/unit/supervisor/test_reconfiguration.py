"""A new configuration: what is applied at once, which models come, go and are made anew. No request is lost."""

from __future__ import annotations

import pytest

from embeddaemon.config.settings import LogFormat, StartMethod
from embeddaemon.errors import ConfigError, CorruptModel
from embeddaemon.governor.budget import MIB
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.messages import Health, Load, Models, Reload
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.documents import status
from embeddaemon.supervisor.events import ReloadRequested, SettingsWrong
from embeddaemon.supervisor.housekeeping import SCALE_DOWN_AFTER_SECONDS
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.processes.lifecycle import DeathClass
from tests.support.supervisor_story import CLIENT, Story, spec
from tests.support.supervisor_world import Life, Process

NEW_TOKENS = 4096


def served(*specs: ModelSpec, **fields: object) -> Story:
    story = Story(*specs, **fields)  # type: ignore[arg-type]  # as Story takes them
    story.load()
    story.run()
    return story


def settle(story: Story) -> None:
    """Until all that was begun is done."""
    for _ in range(5):
        story.answer_everything()
        story.pass_time(0.3)


def loading(story: Story) -> Process:
    number = story.model().watch.successor
    assert number is not None, "nothing is loaded beside what serves"
    return story.world.processes[number]


def test_hangup_and_reload_have_the_files_read_and_compared_with_what_is_in_force() -> None:
    story = Story()
    story.tell(ReloadRequested())
    id_ = story._next_id()
    story.send(Reload(id=id_))
    reads = [each for each in story.commands if isinstance(each, do.ReadSettings)]
    assert [each.asker for each in reads] == [None, (CLIENT, id_)]
    assert all(each.settings is story.state.settings for each in reads)


def test_reload_is_for_the_owner_alone() -> None:
    story = Story()
    story.send(Reload(id=1), is_admin=False)
    assert story.error(1).code == "forbidden"
    assert story.count(do.ReadSettings) == 0


def test_what_needs_no_worker_is_in_force_at_once_and_disturbs_nobody() -> None:
    story = served()
    worker = story.one(ChildKind.WORKER)
    story.configure(
        spec(keep_alive_seconds=5.0, pinned=True),
        max_queued_requests=3,
        log_level="debug",
        log_format=LogFormat.JSON,
    )
    assert story.model().spec.pinned
    assert story.state.settings.max_queued_requests == 3
    assert do.SetLog("json", "debug") in story.commands
    story.pass_time(20.0)
    settle(story)
    assert story.one(ChildKind.WORKER) is worker


def test_shorter_keep_alive_holds_for_a_model_that_is_loaded() -> None:
    story = served(spec(keep_alive_seconds=1000.0))
    story.configure(spec(keep_alive_seconds=1.0))
    story.pass_time(2.0)
    settle(story)
    assert not story.living(ChildKind.WORKER)


def test_model_whose_workers_were_made_otherwise_gets_new_ones_without_a_gap() -> None:
    story = served()
    old = story.one(ChildKind.WORKER)
    held = story.ask()
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    assert story.model().spec.token_budget != 4096, "what serves was made for the old value"
    order = [each for each in story.commands if isinstance(each, do.StartTemplate)][-1].order
    assert order.token_budget == 4096
    meanwhile = story.ask()
    story.answer(old)
    assert (story.outcome(held), story.outcome(meanwhile)) == ("ok", "ok")
    last = story.ask()
    settle(story)
    assert story.outcome(last) == "ok"
    assert story.model().spec.token_budget == 4096
    assert not old.is_alive
    assert len(story.living(ChildKind.TEMPLATE)) == len(story.living(ChildKind.WORKER)) == 1
    assert story.model().watch.spec is None
    assert story.count(do.ReadSettings) == 0


def test_without_memory_for_both_the_old_workers_go_first_and_requests_wait() -> None:
    story = served(budget_bytes=700 * MIB)
    held = story.ask()
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    assert story.logged("reload_drains_first")
    waiting = story.ask()
    settle(story)
    assert (story.outcome(held), story.outcome(waiting)) == ("ok", "ok")
    assert story.model().spec.token_budget == 4096


def test_model_that_is_not_loaded_is_what_it_is_to_be_at_once() -> None:
    story = Story()
    story.configure(spec(token_budget=NEW_TOKENS))
    assert story.model().spec.token_budget == 4096
    assert story.model().card is not None
    assert not story.living(ChildKind.FORK_SERVER)


def test_model_that_is_being_loaded_is_loaded_anew_and_whoever_waits_is_answered() -> None:
    story = Story()
    id_ = story.ask()
    story.run_until_ordered(ChildKind.TEMPLATE)
    story.configure(spec(token_budget=NEW_TOKENS))
    settle(story)
    assert story.outcome(id_) == "ok"
    orders = [each.order.token_budget for each in story.commands if isinstance(each, do.StartTemplate)]
    assert orders[-1] == 4096


def test_new_model_can_be_asked_and_is_loaded_at_once_if_it_is_to_be_preloaded() -> None:
    story = served()
    story.configure(spec(), spec("second"), spec("third", preload=True))
    settle(story)
    assert story.model("third").serving
    assert not story.model("second").serving
    id_ = story.ask("second")
    settle(story)
    assert story.outcome(id_) == "ok"
    numbers = [worker.number for worker in story.state.workers.values()]
    assert len(set(numbers)) == len(numbers) == 3


def test_removed_model_finishes_what_was_accepted_takes_nothing_new_and_goes() -> None:
    story = served(spec("mini"), spec("other"))
    story.load("other")
    settle(story)
    busy, waiting = story.ask("other"), [story.ask("other", body_bytes=100_000) for _ in range(8)]
    story.configure(spec("mini"))
    refused = story.ask("other")
    assert story.error(refused).code == "unknown_model"
    assert story.error(refused).details["known"] == ["mini"]
    document = story.send(Models(id=story._next_id()))
    (reply,) = story.answers[CLIENT, document]
    assert isinstance(reply, do.Reply)
    assert [each["name"] for each in (reply.document or {})["models"]] == ["mini"]
    settle(story)
    assert {story.outcome(id_) for id_ in (busy, *waiting)} == {"ok"}
    assert list(story.state.models) == ["mini"]
    assert len(story.living(ChildKind.WORKER)) == 1
    assert not [holder for holder in story.leased() if "other" in holder]


def test_removed_model_that_is_not_there_is_forgotten_at_once_and_may_come_back() -> None:
    story = Story(spec("mini"), spec("other"))
    story.configure(spec("mini"))
    assert list(story.state.models) == ["mini"]
    story.configure(spec("mini"), spec("other"))
    id_ = story.ask("other")
    settle(story)
    assert story.outcome(id_) == "ok"


def test_removed_model_that_comes_back_while_it_finishes_stays_as_it_was() -> None:
    story = served(spec("other"), spec("mini"))
    story.ask("other")
    settle(story)
    held = story.ask("other")
    workers = len(story.living(ChildKind.WORKER))
    story.configure(spec("mini"))
    story.pass_time(1.0)
    story.configure(spec("mini"), spec("other"))
    after = story.ask("other")
    settle(story)
    assert (story.outcome(held), story.outcome(after)) == ("ok", "ok")
    assert len(story.living(ChildKind.WORKER)) == workers


def test_change_that_is_taken_back_while_it_is_made_leaves_what_serves() -> None:
    story = served()
    worker = story.one(ChildKind.WORKER)
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    beside = loading(story)
    story.configure(spec())
    settle(story)
    assert not beside.is_alive
    assert story.one(ChildKind.WORKER) is worker
    assert len(story.living(ChildKind.TEMPLATE)) == 1


def test_second_change_while_the_first_is_made_is_the_one_that_counts() -> None:
    story = served()
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    first = loading(story)
    story.configure(spec(token_budget=2048))
    settle(story)
    assert not first.is_alive
    assert story.model().spec.token_budget == 2048
    assert len(story.living(ChildKind.TEMPLATE)) == len(story.living(ChildKind.WORKER)) == 1


def test_change_of_what_needs_no_worker_does_not_disturb_a_change_under_way() -> None:
    story = served()
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    beside = loading(story)
    story.configure(spec(pinned=True, token_budget=NEW_TOKENS))
    assert loading(story) is beside
    assert story.model().spec.pinned
    settle(story)
    assert (story.model().spec.pinned, story.model().spec.token_budget) == (True, 4096)


def test_change_that_cannot_be_loaded_leaves_what_serves_and_is_told_and_tried_at_the_next_reload() -> None:
    story = served()
    worker = story.one(ChildKind.WORKER)
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    story.fail_to_load(loading(story), CorruptModel("half of it is missing"))
    settle(story)
    assert story.one(ChildKind.WORKER) is worker
    shown = status(story.state, story.now)["models"][0]
    assert (shown["state"], shown["error"]["code"]) == ("ready", "model_corrupt")
    assert not story.model().watch.is_at_work
    story.configure(spec(token_budget=NEW_TOKENS))
    settle(story)
    assert story.model().spec.token_budget == 4096
    assert status(story.state, story.now)["models"][0]["error"] is None


def test_successor_that_is_killed_by_nobodys_fault_is_begun_again() -> None:
    story = served()
    story.configure(spec(token_budget=NEW_TOKENS))
    story.pass_time(0.3)
    story.kill(story.one(ChildKind.FORK_SERVER))
    id_ = story.ask()
    settle(story)
    story.pass_time(2.0)
    settle(story)
    assert story.outcome(id_) == "ok"
    assert story.model().spec.token_budget == 4096


def test_fewer_workers_are_told_to_go_and_more_may_come() -> None:
    story = served(spec(workers=(3, 3), threads=1))
    story.run()
    assert len(story.living(ChildKind.WORKER)) == 3
    story.configure(spec(workers=(1, 1), threads=1))
    settle(story)
    assert len(story.living(ChildKind.WORKER)) == 1
    story.configure(spec(workers=(2, 2), threads=1))
    settle(story)
    assert len(story.living(ChildKind.WORKER)) == 2
    assert story.count(do.StartTemplate) == 1, "threads are given: the template is the same"


def test_model_that_moves_to_the_card_is_drained_first() -> None:
    story = served(spec(), card_bytes=2048 * MIB)
    held = story.ask()
    story.configure(spec(device="cuda"))
    story.pass_time(0.3)
    assert story.logged("reload_drains_first")
    later = story.ask()
    settle(story)
    assert (story.outcome(held), story.outcome(later)) == ("ok", "ok")
    assert not story.living(ChildKind.TEMPLATE)
    assert story.model().spec.device == "cuda"


def test_model_of_another_repository_is_fetched_beside_what_serves() -> None:
    story = served()
    worker = story.one(ChildKind.WORKER)
    story.configure(spec(source="hub:org/name"))
    assert len(story.living(ChildKind.FETCHER)) == 1
    id_ = story.ask()
    story.answer(worker)
    assert story.outcome(id_) == "ok", "what serves goes on while it is fetched"
    settle(story)
    assert story.model().spec.source == "hub:org/name"
    assert story.model().folder is not None
    assert story.one(ChildKind.WORKER) is not worker
    assert not story.living(ChildKind.FETCHER)


@pytest.mark.parametrize("wrong", ["card", "estimate"])
def test_wrong_configuration_changes_nothing_and_says_so(wrong: str) -> None:
    story = served()
    before = story.state.settings
    asker = (CLIENT, story._next_id())
    if wrong == "card":
        story.card_errors["second"] = ConfigError("models.second.pooling = 3: must be …")
        story.configure(spec(keep_alive_seconds=1.0), spec("second"), asker=asker)
    else:
        story.configure(spec(keep_alive_seconds=1.0), spec("second", estimate=1), asker=asker)
    assert story.state.settings is before
    assert list(story.state.models) == ["mini"]
    assert story.model().spec.keep_alive_seconds != 1.0
    assert story.error(asker[1]).code == "config"
    config = status(story.state, story.now)["config"]
    assert config["error"]["code"] == "config"
    assert (config["reloads"], config["files"]) == (0, [])
    assert story.logged("configuration_wrong")
    story.configure(spec(keep_alive_seconds=1.0))
    config = status(story.state, story.now)["config"]
    assert (config["error"], config["reloads"], config["files"]) == (None, 1, ["/etc/e.toml"])


def test_file_that_cannot_be_read_changes_nothing_and_says_so() -> None:
    story = served()
    story.tell(SettingsWrong(ConfigError("/etc/e.toml: is not TOML"), None))
    assert status(story.state, story.now)["config"]["error"]["message"] == "/etc/e.toml: is not TOML"
    assert story.model().serving


def test_what_waits_for_the_next_start_is_told_and_stays() -> None:
    story = Story()
    asker = (CLIENT, story._next_id())
    story.configure(spec(), cache_bytes=1 << 20, asker=asker)
    assert story.state.settings.cache_bytes == 0
    (kept,) = story.logged("restart_needed")
    assert kept["key"] == "daemon.cache_size"
    (reply,) = story.answers[asker]
    assert isinstance(reply, do.Reply)
    assert list((reply.document or {})["restart_needed"]) == ["daemon.cache_size"]
    assert list(status(story.state, story.now)["config"]["restart_needed"]) == ["daemon.cache_size"]
    story.configure(spec())
    assert status(story.state, story.now)["config"]["restart_needed"] == {}


def test_daemon_that_stops_reads_nothing_again() -> None:
    story = served()
    story.ask()
    story.stop()
    story.tell(ReloadRequested())
    assert story.count(do.ReadSettings) == 0
    id_ = story._next_id()
    story.send(Reload(id=id_))
    assert story.error(id_).code == "draining"


# By hand: ``load --force``.


def force(story: Story, *, deadline_ms: int | None = None) -> int:
    return story.send(Load(id=story._next_id(), model="mini", force=True, deadline_ms=deadline_ms))


def test_forced_load_gives_a_model_new_workers_without_a_gap_and_is_answered_when_they_serve() -> None:
    story = served()
    old = story.one(ChildKind.WORKER)
    id_, held = force(story), story.ask()
    assert story.outcome(id_) == "open"
    story.answer(old)
    assert story.outcome(held) == "ok"
    settle(story)
    assert story.outcome(id_) == "ok"
    assert not old.is_alive
    assert story.model().serving
    assert not story.model().replace_waiters


def test_forced_load_of_a_model_that_is_not_there_just_loads_it() -> None:
    story = Story()
    id_ = force(story)
    settle(story)
    assert story.outcome(id_) == "ok"
    assert story.count(do.StartTemplate) == 1


def test_forced_load_of_bad_files_leaves_what_serves_and_says_why() -> None:
    story = served()
    worker = story.one(ChildKind.WORKER)
    story.card_errors["mini"] = CorruptModel("half of it is missing")
    id_ = force(story)
    assert story.error(id_).code == "model_corrupt"
    assert story.one(ChildKind.WORKER) is worker


def test_forced_load_without_memory_for_both_is_answered_after_the_old_ones_went() -> None:
    story = served(budget_bytes=700 * MIB)
    id_ = force(story)
    settle(story)
    assert story.outcome(id_) == "ok"
    assert len(story.logged("reload_drains_first")) == 1
    assert story.count(do.StartTemplate) == 2


def test_forced_load_that_takes_too_long_ends_at_its_deadline() -> None:
    story = served()
    id_ = force(story, deadline_ms=1000)
    story.pass_time(2.0)
    assert story.error(id_).code == "expired"
    settle(story)
    assert story.outcome(story.ask()) == "open"


def test_forced_load_whose_client_left_holds_nothing() -> None:
    story = served()
    id_ = force(story)
    story.cancel(id_)
    assert story.outcome(id_) == "cancelled"
    assert not story.model().replace_waiters


def makers(story: Story) -> set[int]:
    """The children that loaded what workers serve with: their template, or themselves."""
    found = set()
    for worker in story.model().serving:
        parent = story.state.children.get(story.state.children[worker.child].parent or 0)
        found.add(parent.number if parent is not None and parent.kind is ChildKind.TEMPLATE else worker.child)
    return found


def take_steps(story: Story, number: int) -> None:
    for _ in range(number):
        if steps := story.world.steps():
            story.step(steps[0].what, steps[0].child)


@pytest.mark.parametrize("steps_between", range(11))
@pytest.mark.parametrize(
    ("spawns", "workers"),
    [(False, 1), (False, 2), (True, 1), (True, 2)],
    ids=["forked", "two forked", "spawned", "two spawned"],
)
def test_second_forced_load_gives_new_workers_again_whenever_it_comes(
    spawns: bool, workers: int, steps_between: int
) -> None:
    method = StartMethod.SPAWN if spawns else StartMethod.FORK
    sizes = spec(workers=(workers, workers), estimate=400 * MIB)
    story = served(sizes, start_method=method, budget_bytes=4000 * MIB)
    settle(story)
    first = force(story)
    take_steps(story, steps_between)
    before = set(story.world.processes)
    second = force(story)
    while story.outcome(second) == "open":
        if story.world.steps():
            take_steps(story, 1)
        else:
            story.pass_time(0.3)
    assert makers(story) - before
    settle(story)
    assert (story.outcome(first), story.outcome(second)) == ("ok", "ok")
    assert len(story.model().serving) == workers
    assert not makers(story) & before


@pytest.mark.parametrize("steps_between", range(5, 8))
def test_second_forced_load_joins_one_under_way_where_nobody_serves(steps_between: int) -> None:
    story = served(budget_bytes=700 * MIB)
    first = force(story)
    take_steps(story, steps_between)
    assert not story.model().serving
    second = force(story)
    settle(story)
    assert (story.outcome(first), story.outcome(second)) == ("ok", "ok")
    assert story.count(do.StartTemplate) == 2


@pytest.mark.parametrize("steps_between", range(4))
def test_forced_load_goes_on_through_a_change_that_needs_no_workers(steps_between: int) -> None:
    story = served()
    id_ = force(story)
    take_steps(story, steps_between)
    story.configure(spec(pinned=True))
    settle(story)
    assert story.outcome(id_) == "ok"
    assert story.count(do.StartTemplate) == 2


def test_forced_load_while_a_change_is_under_way_is_answered_also_when_that_is_taken_back() -> None:
    story = served()
    story.configure(spec(token_budget=NEW_TOKENS))
    id_ = force(story)
    story.configure(spec())
    settle(story)
    assert story.outcome(id_) == "ok"
    assert story.model().spec.token_budget != NEW_TOKENS


def test_health_of_a_model_that_is_removed_meanwhile_is_answered() -> None:
    story = Story(spec("mini"), spec("other"))
    id_ = story.send(Health(id=story._next_id(), model="other", deep=True, wake=True))
    story.configure(spec("mini"))
    settle(story)
    story.pass_time(40.0)
    assert story.outcome(id_) == "ok"


def fetching(story: Story) -> Process:
    """The process that fetches, forked and not heard of since."""
    fetcher = story.run_until_ordered(ChildKind.FETCHER)
    story.step("fork", fetcher.child)
    return fetcher


def read_last(story: Story) -> do.ReadCard:
    return [each for each in story.commands if isinstance(each, do.ReadCard)][-1]


def test_what_was_fetched_for_one_change_is_not_loaded_for_the_next() -> None:
    story = served()
    story.configure(spec(source="hub:org/one"))
    story.run_until_ordered(ChildKind.FETCHER)
    story.run()
    assert story.model().watch.folder is not None
    story.configure(spec(source="path:/models/two"))
    assert (read_last(story).spec.source, read_last(story).folder) == ("path:/models/two", None)
    story.configure(spec(source="hub:org/three"))
    assert len(story.living(ChildKind.FETCHER)) == 1


@pytest.mark.parametrize("is_serving", [True, False])
def test_what_was_fetched_for_a_change_that_was_taken_back_is_not_loaded(*, is_serving: bool) -> None:
    story = served() if is_serving else Story(spec(source="hub:org/one"))
    if is_serving:
        story.configure(spec(source="hub:org/one"))
    else:
        story.ask()
    fetcher = fetching(story)
    story.step("ready", fetcher.child)  # it has said what it brought, and nobody has heard it yet
    story.configure(spec())
    story.run()
    settle(story)
    assert story.model().folder is None
    assert read_last(story).folder is None


def test_removed_model_that_comes_back_while_it_goes_is_preloaded_as_it_is_configured() -> None:
    models = (spec("other"), spec("mini", preload=True))
    story = Story(*models)
    story.run()
    story.ask()
    story.configure(models[0])
    story.answer()
    story.pass_time(0.3)
    assert story.model().is_unloading
    story.configure(*models)
    settle(story)
    assert story.model().serving


def test_forced_load_of_a_model_that_is_removed_meanwhile_says_so_and_loads_nothing() -> None:
    story = served(spec(), spec("other"))
    id_ = force(story)
    story.configure(spec("other"))
    assert story.outcome(id_) == "unknown_model"
    loads = story.count(do.StartTemplate)
    settle(story)
    assert "mini" not in story.state.models
    assert story.count(do.StartTemplate) == loads


def test_change_that_can_never_fit_leaves_what_serves_and_says_so() -> None:
    story = served(spec(), budget_bytes=1200 * MIB)
    worker = story.one(ChildKind.WORKER)
    story.configure(spec(token_budget=NEW_TOKENS, estimate=3000 * MIB))
    settle(story)
    assert story.one(ChildKind.WORKER) is worker
    assert story.model().serving
    assert story.logged("reload_failed")[0]["code"] == "no_headroom"
    story.configure(spec(token_budget=NEW_TOKENS))
    settle(story)
    assert story.model().spec.token_budget == NEW_TOKENS, "and the next one is tried"
    assert story.model().serving


def test_other_estimate_while_new_workers_load_has_them_made_anew() -> None:
    story = served()
    id_ = force(story)
    first = loading(story)
    story.configure(spec(estimate=400 * MIB))
    assert loading(story) is not first
    settle(story)
    assert story.outcome(id_) == "ok"
    assert story.model().spec.estimate == 400 * MIB


def test_fewer_workers_and_idle_ones_too_many_spare_the_one_that_loads_beside_them() -> None:
    story = served(spec(estimate=600 * MIB), start_method=StartMethod.SPAWN)
    worker = story.one(ChildKind.WORKER)
    story.configure(spec(token_budget=NEW_TOKENS, estimate=600 * MIB))
    successor = loading(story)
    story.configure(spec(token_budget=NEW_TOKENS, estimate=600 * MIB, pinned=True))
    story.pass_time(2 * SCALE_DOWN_AFTER_SECONDS)
    assert worker.is_alive
    assert not worker.is_draining
    assert successor.is_alive


def test_worker_with_the_old_files_that_comes_late_sends_nobody_away() -> None:
    story = served(spec(workers=(2, 2)))
    old, killed = story.living(ChildKind.WORKER)
    story.kill(killed)
    story.run_until_told()
    late = story.run_until_ordered(ChildKind.WORKER)
    story.step("fork", late.child)
    story.configure(spec(workers=(2, 2), token_budget=NEW_TOKENS))
    while loading(story).life is not Life.READY:
        step = next(each for each in story.world.steps() if each.child != late.child)
        story.step(step.what, step.child)
    while story.model().watch.successor is not None:
        step = next(each for each in story.world.steps() if each.child != late.child)
        story.step(step.what, step.child)
    story.step("ready", late.child)
    story.step("link", late.child)
    assert not old.is_draining, "nobody serves what it is to be yet"
    settle(story)
    assert not old.is_alive
    assert not late.is_alive
    assert len(story.model().serving) == 2


def test_forced_load_that_waits_when_all_is_gone_ends_at_its_deadline() -> None:
    story = served(spec(keep_alive_seconds=1e6))
    story.world.cannot_start = True
    server = story.one(ChildKind.FORK_SERVER)
    story.kill(server)
    id_ = force(story)
    story.run()
    story.pass_time(60.0)
    assert story.outcome(id_) in ("load_failed", "expired")
    assert not any(story.model().waiters)


def test_change_under_way_is_made_also_when_the_worker_of_before_dies_meanwhile() -> None:
    story = served()
    story.configure(spec(token_budget=NEW_TOKENS))
    successor, worker = loading(story), story.one(ChildKind.WORKER)
    story.step("fork", successor.child)
    story.step("control", story.one(ChildKind.FORK_SERVER).child)
    story.kill(successor)
    story.state.children[successor.child].ending = DeathClass.PRESSURE
    story.kill(worker)
    story.run_until_told()
    story.pass_time(0.5)
    assert not story.model().serving
    story.run()
    settle(story)
    assert story.model().spec.token_budget == NEW_TOKENS
    assert story.model().serving
