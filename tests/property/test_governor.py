"""Random histories of one governor, and of everything that a shell could tell it in between."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from embeddaemon.governor.budget import Budget
from embeddaemon.governor.core import FORK_SERVER, Demand, Evict, Governor, Granted, Never, Wait, WaitReason, Want
from embeddaemon.governor.eviction import Candidate
from embeddaemon.governor.samples import RAM, Limit, MemorySample, Observation

MINIMUM_RESIDENCE = 10.0
SAMPLE_VALID = 15.0
LIMIT = Limit(1000, "test")

counts = st.integers(1, 600)
picks = st.integers(0, 1000)


@dataclass(slots=True)
class Told:
    """What the story told the governor about one holder: an independent, naive ledger."""

    leased: int
    resident: int = 0
    measured: int | None = None


class GovernorStory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.next_name = 0
        self.told: dict[str, Told] = {}
        self.models: dict[str, Candidate] = {}
        self.last_sample: MemorySample | None = None

    @initialize(budget_bytes=st.integers(100, 1000), reserve_percent=st.integers(0, 40))
    def start(self, budget_bytes: int, reserve_percent: int) -> None:
        self.budget = Budget("ram", budget_bytes, budget_bytes * reserve_percent // 100, LIMIT)
        self.governor = Governor(
            self.budget, minimum_residence_seconds=MINIMUM_RESIDENCE, sample_valid_seconds=SAMPLE_VALID
        )

    def headroom(self) -> int:
        leased = sum(each.leased for each in self.told.values())
        headroom = self.budget.bytes - leased
        if self.last_sample is not None and self.now - self.last_sample.taken_at <= SAMPLE_VALID:
            pending = sum(max(0, each.leased - each.resident) for each in self.told.values())
            headroom = min(headroom, self.last_sample.free_bytes - pending)
        return headroom - self.budget.reserve_bytes

    def freed_by(self, models: tuple[Candidate, ...]) -> int:
        return sum(self.told[holder].leased for model in models for holder in model.holders)

    @rule(seconds=st.floats(0.0, 12.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(template=counts, worker=counts)
    def a_model_is_wanted(self, template: int, worker: int) -> None:
        self.next_name += 1
        name = str(self.next_name)
        wanted = [Want(f"template:{name}/1", template), Want(f"worker:{name}/1", worker)]
        if FORK_SERVER not in self.told:
            wanted.append(Want(FORK_SERVER, 20))
        demand = Demand(tuple(wanted))
        self.check_answer(demand)
        if self.governor.ask(demand, tuple(self.models.values()), self.now) == Granted():
            for want in demand.wants:
                self.governor.lease(want.holder, want.bytes, self.now)
                self.told[want.holder] = Told(want.bytes)
            holders = tuple(want.holder for want in wanted[:2])
            self.models[name] = Candidate(name, holders, idle_since=None, loaded_at=self.now)

    def check_answer(self, demand: Demand) -> None:
        answer = self.governor.ask(demand, tuple(self.models.values()), self.now)
        needed, headroom = demand.bytes_on(RAM), self.headroom()
        permanent = self.told[FORK_SERVER].leased if FORK_SERVER in self.told else 0
        fits_when_empty = needed + permanent <= self.budget.bytes - self.budget.reserve_bytes
        leaving = self.freed_by(tuple(model for model in self.models.values() if model.is_leaving))
        assert isinstance(answer, Never) == (not fits_when_empty)
        is_blocked = self.governor.pressure.blocks_leases(self.now)
        assert isinstance(answer, Granted) == (fits_when_empty and needed <= headroom and not is_blocked)
        match answer:
            case Evict(victims):
                self.check_victims(victims, needed - headroom - leaving)
            case Wait(reason=WaitReason.PRESSURE):
                assert is_blocked
                assert needed <= headroom + leaving + self.freed_by(self.all_evictable())
            case Wait():
                assert answer.needed_bytes == needed > answer.available_bytes == max(0, headroom)
                assert (answer.reason is WaitReason.EVICTION_UNDER_WAY) == (needed <= headroom + leaving)
                if answer.reason is not WaitReason.EVICTION_UNDER_WAY:
                    assert needed > headroom + leaving + self.freed_by(self.all_evictable())
                assert "needs" in answer.text()
            case Never():
                assert answer.needed_bytes == needed > answer.available_bytes
                assert "never" in answer.text()
            case Granted():
                pass

    def all_evictable(self) -> tuple[Candidate, ...]:
        return tuple(
            model
            for model in self.models.values()
            if model.idle_since is not None
            and not model.is_pinned
            and not model.is_leaving
            and self.now - model.loaded_at >= MINIMUM_RESIDENCE
        )

    def check_victims(self, victims: tuple[Candidate, ...], lacking: int) -> None:
        assert set(victims) <= set(self.all_evictable())
        assert len({victim.name for victim in victims}) == len(victims)
        assert self.freed_by(victims) >= lacking > 0
        for spared in victims:
            others = tuple(victim for victim in victims if victim is not spared)
            assert self.freed_by(others) < lacking, f"{spared.name} went for nothing"

    @precondition(lambda self: self.models)
    @rule(pick=picks, idle=st.booleans(), pinned=st.booleans(), leaving=st.booleans())
    def a_model_changes(self, pick: int, idle: bool, pinned: bool, leaving: bool) -> None:
        model = list(self.models.values())[pick % len(self.models)]
        self.models[model.name] = replace(
            model, idle_since=self.now if idle else None, is_pinned=pinned, is_leaving=leaving
        )

    @precondition(lambda self: self.models)
    @rule(pick=picks)
    def a_model_is_reaped(self, pick: int) -> None:
        model = list(self.models.values())[pick % len(self.models)]
        for holder in model.holders:
            self.governor.release(holder, self.now)
            del self.told[holder]
        del self.models[model.name]

    @precondition(lambda self: self.told)
    @rule(pick=picks, count=counts)
    def a_lease_is_lowered(self, pick: int, count: int) -> None:
        holder = list(self.told)[pick % len(self.told)]
        self.governor.lower(holder, count)
        self.told[holder].leased = min(self.told[holder].leased, count)

    @precondition(lambda self: self.told)
    @rule(pick=picks, more=counts)
    def a_lease_is_raised_where_it_fits(self, pick: int, more: int) -> None:
        holder = list(self.told)[pick % len(self.told)]
        count = self.told[holder].leased + more
        others = sum(each.leased for name, each in self.told.items() if name != holder)
        fits = others + count <= self.budget.bytes - self.budget.reserve_bytes
        assert self.governor.can_raise_to(holder, count) == fits
        if fits:
            self.governor.raise_to(holder, count)
            self.told[holder].leased = count

    @rule(pick=picks, resident=st.integers(0, 2000))
    def a_process_is_measured_perhaps_after_it_was_reaped(self, pick: int, resident: int) -> None:
        holder = [*self.told, "worker:gone/1"][pick % (len(self.told) + 1)]
        self.governor.measured(holder, resident)
        if holder in self.told:
            self.told[holder].measured = resident

    @rule(free=st.integers(0, 2000), age=st.floats(0.0, 30.0))
    def a_sample_arrives_perhaps_late(self, free: int, age: float) -> None:
        sample = MemorySample(self.now - age, free, LIMIT)
        self.governor.observe(Observation((sample,)), self.now)
        if self.last_sample is None or sample.taken_at >= self.last_sample.taken_at:
            self.last_sample = sample
            for each in self.told.values():
                each.resident = each.resident if each.measured is None else each.measured

    @invariant()
    def leases_never_pass_the_budget(self) -> None:
        snapshot = self.governor.snapshot(self.now)
        assert {lease.holder: lease.bytes for lease in snapshot.leases} == {
            holder: each.leased for holder, each in self.told.items()
        }
        assert snapshot.leased_bytes == sum(lease.bytes for lease in snapshot.leases)
        assert snapshot.leased_bytes <= self.budget.bytes - self.budget.reserve_bytes

    @invariant()
    def headroom_is_the_formula(self) -> None:
        assert self.governor.headroom(self.now) == self.headroom()
        assert self.governor.snapshot(self.now).headroom_bytes == self.headroom()


GovernorStory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGovernorStory = GovernorStory.TestCase
