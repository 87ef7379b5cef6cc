"""Random histories of the supervisor: requests, deaths at any stage, loads, unloads, time; whatever a shell tells."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from embeddaemon.config.settings import StartMethod
from embeddaemon.errors import CorruptModel, HubUnreachable, ModelChanged
from embeddaemon.governor.budget import MIB
from embeddaemon.models.spec import WorkerBounds
from embeddaemon.protocol.messages import Lane
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.events import FilesSeen, KernelKilled, TimePassed
from embeddaemon.supervisor.housekeeping import HOUSEKEEPING_SECONDS
from embeddaemon.supervisor.memory.candidates import TURN_SECONDS
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.cache import CACHE
from embeddaemon.supervisor.requests.dispatch import CREDITS, MAX_DISPATCH_REQUESTS
from embeddaemon.supervisor.requests.withdrawals import ASK_AFTER_SECONDS
from embeddaemon.supervisor.stopping import STOP_SECONDS
from tests.support.supervisor_story import Story, spec
from tests.support.supervisor_world import Life, Process

KEEP_ALIVE_SECONDS = 20.0
DRAIN_SECONDS = 5.0
FILE_CHECK_SECONDS = 1.0
QUARANTINE_SECONDS = 5.0
CANARY_SECONDS = 3.0
SLACK = 1e-6

picks = st.integers(0, 1000)
names = st.sampled_from(["small", "large", "hub"])


@dataclass(frozen=True)
class Asked:
    """Something that must end."""

    client: bytes
    deadline: float


class SupervisorStory(RuleBasedStateMachine):
    """``asked`` has who asked it, and the deadline, of every request, load and unload by its id.

    ``checked`` has the same of health checks.
    """

    @initialize(
        budget_mib=st.sampled_from([900, 1150, 2000]),
        most_workers=st.integers(1, 3),
        start_method=st.sampled_from([StartMethod.FORK, StartMethod.FORK, StartMethod.SPAWN]),
        reserve_mib=st.sampled_from([0, 60]),
        cache_mib=st.sampled_from([0, 40]),
        restart_limit=st.sampled_from([3, 10]),
    )
    def start(
        self,
        *,
        budget_mib: int,
        most_workers: int,
        start_method: StartMethod,
        reserve_mib: int,
        cache_mib: int,
        restart_limit: int,
    ) -> None:
        # A spawned worker shares nothing: each takes the runtime again.
        runtime_mib = 400 if start_method is StartMethod.SPAWN else 0
        self.story = Story(
            spec(
                "small",
                estimate=(runtime_mib + 200) * MIB,
                keep_alive_seconds=KEEP_ALIVE_SECONDS,
                workers=(1, most_workers),
            ),
            spec("large", estimate=(runtime_mib + 450) * MIB, keep_alive_seconds=KEEP_ALIVE_SECONDS, preload=True),
            spec(
                "hub", source="hub:org/name", estimate=(runtime_mib + 300) * MIB, keep_alive_seconds=KEEP_ALIVE_SECONDS
            ),
            budget_bytes=(budget_mib + runtime_mib + reserve_mib + cache_mib) * MIB,
            reserve_bytes=reserve_mib * MIB,
            cache_bytes=cache_mib * MIB,
            start_method=start_method,
            drain_seconds=DRAIN_SECONDS,
            max_queued_requests=8,
            load_timeout_seconds=40.0,
            file_check_seconds=FILE_CHECK_SECONDS,
            restart_limit=restart_limit,
            quarantine_seconds=QUARANTINE_SECONDS,
            canary_seconds=CANARY_SECONDS,
        )
        self.story.world.answers_canaries = True
        self.specs = tuple(model.spec for model in self.story.state.models.values())
        self.asked: dict[int, Asked] = {}
        self.checked: dict[int, Asked] = {}
        self.client = b"1"
        self.left_at: dict[bytes, float] = {}
        self.sent: dict[int, tuple[Lane, int]] = {}
        self.incarnations: dict[int, int] = {}
        self.seen = 0

    # What clients do.

    @rule(
        name=names,
        lane=st.sampled_from(Lane),
        deadline_ms=st.integers(50, 30_000),
        body_bytes=st.sampled_from([10, 5000, 20_000]),
        times=st.integers(1, 4),
        text=st.sampled_from(["", "", "one that many send"]),
    )
    def requests_come(self, name: str, lane: Lane, deadline_ms: int, body_bytes: int, *, times: int, text: str) -> None:
        for _ in range(times):
            id_ = self.story.ask(
                name, lane=lane, deadline_ms=deadline_ms, body_bytes=body_bytes, client=self.client, text=text
            )
            self.note(id_, deadline_ms)
            for serial, entry in self.story.state.open.items():
                self.sent[serial] = (entry.request.lane, entry.body_bytes)

    @rule(name=names, deadline_ms=st.integers(50, 30_000))
    def load(self, name: str, deadline_ms: int) -> None:
        self.note(self.story.load(name, deadline_ms=deadline_ms, client=self.client), deadline_ms)

    @rule(name=names, deadline_ms=st.integers(50, 30_000))
    def unload(self, name: str, deadline_ms: int) -> None:
        self.note(self.story.unload(name, deadline_ms=deadline_ms, client=self.client), deadline_ms)

    @rule(
        name=st.sampled_from([None, "small", "large", "hub"]),
        deadline_ms=st.integers(50, 30_000),
        deep=st.booleans(),
        wake=st.booleans(),
    )
    def somebody_asks_who_is_well(self, name: str | None, deadline_ms: int, *, deep: bool, wake: bool) -> None:
        id_ = self.story.health(name, deadline_ms=deadline_ms, deep=deep, wake=wake, client=self.client)
        asked = Asked(self.client, self.story.now + deadline_ms / 1000)
        is_refused = self.story.outcome(id_, self.client) not in ("ok", "open")
        (self.asked if is_refused else self.checked)[id_] = asked

    @rule(picked=st.lists(picks, min_size=1, max_size=4), times=st.integers(1, 2))
    def a_client_withdraws(self, picked: list[int], times: int) -> None:
        """Some that are open, some that are not, some that never were; perhaps twice."""
        mine = [id_ for id_, asked in self.asked.items() if asked.client == self.client]
        ids = [*(mine[pick % len(mine)] for pick in picked if mine), 10**9]
        for _ in range(times):
            cancel = self.story.cancel(*ids, client=self.client)
            assert self.story.answers.pop((self.client, cancel)), "a cancel without an answer"
            self.story.documents -= 1
        assert all(self.outcome(id_) != "open" for id_ in ids[:-1])

    @rule()
    def a_client_goes_and_another_comes(self) -> None:
        self.story.leave(self.client)
        self.left_at[self.client] = self.story.now
        self.client = b"%d" % (len(self.left_at) + 1)

    def note(self, id_: int, deadline_ms: int) -> None:
        self.asked[id_] = Asked(self.client, self.story.now + deadline_ms / 1000)

    @property
    def all_asked(self) -> dict[int, Asked]:
        return self.asked | self.checked

    def outcome(self, id_: int) -> str:
        return self.story.outcome(id_, self.all_asked[id_].client)

    def is_open(self, id_: int) -> bool:
        """Without an answer, and somebody waits for it."""
        return self.all_asked[id_].client == self.client and self.outcome(id_) == "open"

    # What processes do.

    @rule(pick=picks, times=st.integers(1, 12))
    def the_world_goes_on(self, pick: int, times: int) -> None:
        for number in range(times):
            steps = self.story.world.steps()
            if steps:
                step = steps[(pick + number * 7) % len(steps)]
                self.story.step(step.what, step.child)

    @rule()
    def the_world_settles(self) -> None:
        self.story.run()

    def pick(self, processes: list[Process], pick: int) -> Process | None:
        return processes[pick % len(processes)] if processes else None

    @rule(pick=picks, exit_code=st.sampled_from([-9, -11, -15, -7, 0, 1, 4]))
    def a_process_dies(self, pick: int, exit_code: int) -> None:
        alive = [each for each in self.story.world.processes.values() if each.is_alive]
        if process := self.pick(alive, pick):
            self.story.kill(process, exit_code)

    @rule(pick=picks, exit_code=st.sampled_from([-9, -11, -15]), has_journal=st.booleans())
    def a_worker_dies(self, pick: int, exit_code: int, *, has_journal: bool) -> None:
        if process := self.pick([each for each in self.story.living(ChildKind.WORKER) if each.is_alive], pick):
            process.turns = process.turns if has_journal else None
            self.story.kill(process, exit_code)

    @rule(pick=picks, hangs=st.booleans(), is_mute=st.booleans(), is_wrong=st.booleans())
    def a_worker_goes_bad(self, pick: int, *, hangs: bool, is_mute: bool, is_wrong: bool) -> None:
        if worker := self.pick(self.story.living(ChildKind.WORKER), pick):
            worker.turn_ms = 100_000 if hangs else 0
            worker.is_mute, worker.is_wrong = is_mute, is_wrong

    @rule(pick=picks)
    def the_machine_has_no_memory_left_for_a_process(self, pick: int) -> None:
        alive = [each for each in self.story.world.processes.values() if each.is_alive]
        if process := self.pick(alive, pick):
            self.story.tell(KernelKilled(process.child, by_hard_limit=False))
            self.story.kill(process)

    @rule(pick=picks)
    def a_load_fails(self, pick: int) -> None:
        coming = [each for each in self.story.world.processes.values() if each.life is Life.COMING]
        if process := self.pick(coming, pick):
            found = ModelChanged("others") if pick % 3 == 0 else CorruptModel("bad")
            error = HubUnreachable("no") if process.kind is ChildKind.FETCHER else found
            self.story.fail_to_load(process, error)

    @rule(pick=picks)
    def a_fork_is_refused(self, pick: int) -> None:
        ordered = [each for each in self.story.world.processes.values() if each.life is Life.ORDERED]
        if process := self.pick(ordered, pick):
            self.story.world.refuse_fork(process)

    @rule(
        pick=picks,
        code=st.sampled_from(["", "", "", "invalid_input", "expired", "bad_output"]),
        times=st.integers(1, 3),
    )
    def a_worker_answers(self, pick: int, code: str, times: int) -> None:
        for _ in range(times):
            if worker := self.pick([each for each in self.story.living(ChildKind.WORKER) if each.held], pick):
                self.story.answer_one(worker, code=code)

    @rule(mib=st.integers(0, 4096))
    def others_take_memory(self, mib: int) -> None:
        self.story.free_bytes = mib * MIB

    @rule(mib=st.integers(0, 400))
    def processes_turn_out_larger(self, mib: int) -> None:
        self.story.world.private_bytes = mib * MIB

    @rule(pick=picks, mib=st.integers(1, 500), kept=st.booleans())
    def a_worker_grows(self, pick: int, mib: int, *, kept: bool) -> None:
        """For good, or so that trimming helps; beyond its hard limit the kernel ends it."""
        ready = [each for each in self.story.living(ChildKind.WORKER) if each.life is Life.READY]
        if worker := self.pick(ready, pick):
            self.story.grow(worker, mib * MIB, is_kept=kept)

    @rule(some=st.sampled_from([0.0, 7.0, 15.0, 60.0]), full=st.sampled_from([0.0, 15.0, 40.0]), is_ours=st.booleans())
    def the_machine_stalls(self, some: float, full: float, *, is_ours: bool) -> None:
        self.story.stall = (some, full, is_ours)

    @rule(cannot_start=st.booleans())
    def the_system_refuses_processes(self, *, cannot_start: bool) -> None:
        self.story.world.cannot_start = cannot_start

    @rule(name=names, is_broken=st.booleans(), marks=st.sampled_from(["1", "2", "3"]))
    def a_folder_changes(self, name: str, is_broken: bool, marks: str) -> None:
        self.story.marks[name] = marks
        if is_broken:
            self.story.card_errors[name] = CorruptModel("bad")
        else:
            self.story.card_errors.pop(name, None)

    @rule(
        kept=st.sets(names, min_size=1),
        tokens=st.sampled_from([8192, 8192, 4096]),
        changed=names,
        pinned=st.booleans(),
        most_workers=st.integers(1, 3),
    )
    def the_configuration_changes(
        self, kept: set[str], tokens: int, changed: str, *, pinned: bool, most_workers: int
    ) -> None:
        """Models come and go, one is to have other workers, one is kept otherwise."""
        specs = []
        for each in self.specs:
            if each.name in kept:
                bounds = WorkerBounds(min=1, max=most_workers) if each.name == "small" else each.workers
                budget = tokens if each.name == changed else each.token_budget
                specs.append(replace(each, token_budget=budget, pinned=pinned and each.name == "hub", workers=bounds))
        self.story.configure(*specs)

    @rule(name=names, deadline_ms=st.integers(50, 30_000))
    def load_anew(self, name: str, deadline_ms: int) -> None:
        self.note(self.story.load(name, deadline_ms=deadline_ms, client=self.client, force=True), deadline_ms)

    @rule(is_hanging=st.booleans(), marks=st.sampled_from(["1", "2", None]))
    def the_file_system_hangs(self, *, is_hanging: bool, marks: str | None) -> None:
        """Or answers at last: with what it once saw, or that it cannot."""
        self.story.is_hanging = is_hanging
        looks, self.story.looks = self.story.looks, []
        for look in looks:
            self.story.tell(FilesSeen(look.model, marks))

    @rule(name=names, marks=st.sampled_from(["2", "3"]))
    def files_change_and_are_still(self, name: str, marks: str) -> None:
        self.story.marks[name] = marks
        self.story.pass_time(2 * FILE_CHECK_SECONDS + 1.0)

    @rule(seconds=st.sampled_from([0.01, 0.2, 1.0, 6.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.story.pass_time(seconds)

    @rule(seconds=st.sampled_from([3.0, 60.0, 600.0]))
    def we_stand_still(self, seconds: float) -> None:
        self.story.now += seconds
        self.story.tell(TimePassed())

    @rule()
    @precondition(lambda self: self.story.state.is_draining)
    def asked_to_stop_again(self) -> None:
        self.story.stop()

    @rule(chance=st.integers(0, 9))
    def asked_to_stop(self, chance: int) -> None:
        if chance == 0:
            self.story.stop()

    # What always holds.

    @invariant()
    def every_request_ends_once_and_in_time(self) -> None:
        for id_, asked in self.all_asked.items():
            if self.is_open(id_):
                assert self.story.now <= asked.deadline + HOUSEKEEPING_SECONDS + SLACK, f"request {id_} is late"
        assert len(self.story.answers) <= len(self.all_asked)
        entries = self.story.state.open.values()
        assert all(self.outcome(entry.request.id) == "open" for entry in entries)
        assert set(self.story.state.ids.values()) == set(self.story.state.open)

    @invariant()
    def every_ending_is_counted_once(self) -> None:
        counts = self.story.state.counts
        ended = sum(
            count
            for key, count in counts.items()
            if key in ("answered", "expired", "cancelled") or key.startswith(("refused.", "failed."))
        )
        waiters = sum(len(waiters) for model in self.story.state.models.values() for waiters in model.waiters)
        # A load or an unload that is done is not counted.
        done = self.story.documents - self.story.health_documents
        assert ended + done + waiters + len(self.story.state.open) == len(self.asked)

    @invariant()
    def whoever_asks_for_health_is_answered_or_gone_and_wakes_only_while_it_waits(self) -> None:
        state = self.story.state
        assert self.story.health_documents + len(state.askers) <= len(self.checked)
        assert {asker.client for asker in state.askers} <= {asked.client for asked in self.checked.values()}
        for model in state.models.values():
            assert model.wakers == sum(asker.wakes and model.name in asker.names for asker in state.askers)
        assert all(name in state.models for name in state.checkups)

    @invariant()
    def quarantine_is_kept(self) -> None:
        for model in self.story.state.models.values():
            until = model.intensity.quarantined_until
            assert self.story.now >= until or model.retry_at >= until

    @invariant()
    def nothing_is_kept_for_long_for_who_has_gone(self) -> None:
        longest = 2 * ASK_AFTER_SECONDS + HOUSEKEEPING_SECONDS + SLACK
        for entry in self.story.state.open.values():
            left_at = self.left_at.get(entry.client)
            assert left_at is None or self.story.now <= max(left_at, entry.received_at) + longest

    @invariant()
    def leases_are_those_of_our_processes_and_fit_the_budget(self) -> None:
        leased = self.story.leased()
        own = {holder for child in self.story.state.children.values() for holder in child.holders}
        assert set(leased) - {CACHE} == own
        assert sum(leased.values()) <= self.story.budget.leasable_bytes

    @invariant()
    def nothing_waits_without_a_reason(self) -> None:
        story, state = self.story, self.story.state
        before_next_look = story.now - HOUSEKEEPING_SECONDS - SLACK
        for model in state.models.values():
            is_held_up = state.is_draining or model.is_unloading or before_next_look < model.retry_at
            if not model.queue or model.workers or is_held_up:
                continue
            template = state.template_of(model)
            is_coming = template is not None or model.fetcher is not None or model.is_reading
            awaits_fork_server = state.fork_server is not None or before_next_look < state.fork_server_retry_at
            assert is_coming or model.waiting is not None or awaits_fork_server, f"{model.name} waits for nothing"

    @invariant()
    def every_living_process_has_a_record(self) -> None:
        living = {each.child for each in self.story.world.processes.values() if each.is_alive}
        assert living <= set(self.story.state.children)

    @invariant()
    def dispatches_keep_their_bounds_and_incarnations_rise(self) -> None:
        for command in self.story.commands[self.seen :]:
            if isinstance(command, do.StartWorker):
                assert command.incarnation == self.incarnations.get(command.worker, 0) + 1
                self.incarnations[command.worker] = command.incarnation
        self.seen = len(self.story.commands)
        for dispatch, most_bytes in self.story.dispatched:
            requests = [self.sent[item.serial] for item in dispatch.items if item.serial in self.sent]
            if not requests:
                continue  # a health check's own text
            assert 1 <= len(requests) <= MAX_DISPATCH_REQUESTS
            assert len(requests) == 1 or sum(size for _, size in requests) <= most_bytes
            assert len({lane for lane, _ in requests}) == 1
        self.story.dispatched.clear()
        for worker in self.story.living(ChildKind.WORKER):
            held = [self.sent[min(serials)][0] for serials in worker.dispatches if min(serials) in self.sent]
            assert max(held.count(lane) for lane in Lane) <= CREDITS

    @invariant()
    def nothing_waits_beside_an_idle_worker(self) -> None:
        for model in self.story.state.models.values():
            assert not model.queue or all(worker.dispatches for worker in model.serving)

    @invariant()
    def queues_know_their_bytes(self) -> None:
        for model in self.story.state.models.values():
            assert model.queue.waiting_bytes == sum(entry.body_bytes for entry in model.queue)
            assert len(model.queue) <= 8 + len(Lane) * CREDITS * MAX_DISPATCH_REQUESTS * 3

    def teardown(self) -> None:
        if not hasattr(self, "story"):
            return
        if self.story.state.is_draining:
            self.everything_stops()
        else:
            self.everything_comes_to_rest()

    def everything_comes_to_rest(self) -> None:
        """Nothing more happens from outside, and workers answer: in the end only the fork server is left."""
        self.story.free_bytes, self.story.world.private_bytes, self.story.stall = 4096 * MIB, 20 * MIB, None
        self.story.world.cannot_start = False
        self.story.card_errors.clear()
        self.story.configure(*self.specs)
        for worker in self.story.living(ChildKind.WORKER):
            worker.turn_ms, worker.is_mute, worker.is_wrong = 0, False, False
        for _ in range(60):
            self.story.answer_everything()
            self.story.pass_time(2.0)
        self.story.run()
        assert not any(self.is_open(id_) for id_ in self.all_asked)
        assert not self.story.state.open
        assert not self.story.state.askers
        assert not self.story.state.checkups
        assert set(self.story.leased()) <= {"fork-server", CACHE}
        assert self.story.supervisor.next_due() is None or self.story.state.children
        self.story.card_errors.clear()
        for name in ("small", "large", "hub"):
            id_ = self.story.ask(name)
            self.story.answer_everything()
            self.story.pass_time(6.0)
            self.story.answer_everything()
            if self.story.outcome(id_) == "quarantined":  # the first worker of all was one that computes wrongly
                self.story.pass_time(self.story.model(name).retry_at - self.story.now + 1.0)
                id_ = self.story.ask(name)
                self.story.answer_everything()
            assert self.story.outcome(id_) in ("ok", "no_headroom"), name

    def everything_stops(self) -> None:
        """Nobody answers any more; the exit comes all the same."""
        self.story.run()
        self.story.pass_time(DRAIN_SECONDS + 2 * STOP_SECONDS + 3 * HOUSEKEEPING_SECONDS)
        assert self.story.exit_code == 0
        assert not any(self.is_open(id_) for id_ in self.all_asked)


TestSupervisor = SupervisorStory.TestCase
TestSupervisor.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@given(
    paces=st.lists(st.tuples(st.floats(0.05, 1.0), st.booleans(), st.booleans()), min_size=80, max_size=120),
    private_mib=st.integers(1, 300),
)
@settings(max_examples=25, deadline=None)
def test_two_busy_models_that_fit_only_one_at_a_time_alternate(
    paces: list[tuple[float, bool, bool]], private_mib: int
) -> None:
    story = Story(spec("one", estimate=400 * MIB), spec("two", estimate=400 * MIB), budget_bytes=900 * MIB)
    story.world.private_bytes = private_mib * MIB
    waiting: dict[str, tuple[int, float]] = {}
    served: list[str] = []
    started_at = story.now
    for seconds, one_first, is_killed in paces:
        for name in ("one", "two") if one_first else ("two", "one"):
            if name not in waiting or story.outcome(waiting[name][0]) != "open":
                waiting[name] = (story.ask(name, deadline_ms=60_000), story.now)
        story.answer_everything()
        for name, (id_, asked_at) in waiting.items():
            if story.outcome(id_) == "ok" and served[-1:] != [name]:
                served.append(name)
            # A turn of its own, one of the other, and back-off after a death.
            assert story.now - asked_at < 2 * TURN_SECONDS + 5.0
        if is_killed and seconds > 0.9 and (workers := story.living(ChildKind.WORKER)):
            story.kill(workers[0])
        story.pass_time(seconds)
        assert sum(story.leased().values()) <= story.budget.leasable_bytes
        assert len([model for model in story.state.models.values() if model.serving]) <= 1
    assert len(served) >= (story.now - started_at) // (2 * TURN_SECONDS + 5.0)
