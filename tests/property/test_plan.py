"""Plans of random models: what is said of each follows from the budget, and the supervisor's core leases the same."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from embeddaemon.cli.plan import planned_model
from embeddaemon.governor.budget import MIB, Budget
from embeddaemon.governor.core import Governor, Want
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.plan import Fit, Outcome, PlannedModel, Start, plan
from embeddaemon.governor.samples import RAM, Limit
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.state import State
from tests.support.supervisor_story import Story, spec
from tests.support.supervisor_world import card

LIMIT = Limit(4096 * MIB, "test")
CUDA = "cuda:0"

counts = st.integers(1, 900).map(lambda count: count * MIB)


@st.composite
def planned_models(draw: st.DrawFn, name: str) -> PlannedModel:
    starts = []
    for number in range(draw(st.integers(1, 3))):
        device = draw(st.sampled_from((RAM, RAM, CUDA)))
        wants = [Want(f"worker:{name}/{number}", draw(counts))]
        if device != RAM:
            wants.append(Want(f"worker:{name}/{number}@{device}", draw(counts), device))
        starts.append(Start(tuple(wants), tuple(draw(st.integers(1, want.bytes)) for want in wants)))
    return PlannedModel(name, tuple(starts), draw(st.booleans()), draw(st.booleans()))


histories = st.integers(1, 6).flatmap(lambda count: st.tuples(*(planned_models(str(each)) for each in range(count))))


@given(histories, st.integers(600, 4096), st.integers(100, 1500))
def test_what_is_said_of_each_model_follows_from_what_is_leased(
    models: tuple[PlannedModel, ...], ram_mib: int, cuda_mib: int
) -> None:
    budgets = (Budget(RAM, ram_mib * MIB, 10 * MIB, LIMIT), Budget(CUDA, cuda_mib * MIB, 0, LIMIT))
    loaded: dict[str, Counter[str]] = {}
    fork_server = 0
    for model, outcome in zip(models, plan(Governor(*budgets), models), strict=True):
        assert outcome.workers_wanted == len(model.starts)
        assert (outcome.workers == 0) == (outcome.fit in (Fit.NEVER, Fit.WAITS))
        assert (outcome.workers == len(model.starts)) == (outcome.fit in (Fit.YES, Fit.EVICTS))
        assert (outcome.why is None) == (outcome.fit in (Fit.YES, Fit.EVICTS))
        if outcome.fit is Fit.WAITS:
            assert outcome.others
            assert all(next(each for each in models if each.name == name).is_pinned for name in outcome.others)
        else:
            assert (outcome.fit is Fit.EVICTS) <= bool(outcome.others)
            for name in outcome.others:
                assert not next(each for each in models if each.name == name).is_pinned
                del loaded[name]
        if outcome.workers:
            loaded[model.name] = resting(model.starts[: outcome.workers])
            fork_server = FORK_SERVER_BYTES if model.needs_fork_server else fork_server
        assert leased(outcome) == sum(loaded.values(), Counter({RAM: fork_server})) + Counter()
        for budget in budgets:
            assert leased(outcome)[budget.device] <= budget.leasable_bytes


def resting(starts: tuple[Start, ...]) -> Counter[str]:
    found: Counter[str] = Counter()
    for start in starts:
        for want, rest_bytes in zip(start.wants, start.rest_bytes, strict=True):
            found[want.device] += rest_bytes
    return found


def leased(outcome: Outcome) -> Counter[str]:
    return +Counter({each.device: each.bytes for each in outcome.leased})


specs = st.builds(
    spec,
    workers=st.integers(1, 3).map(lambda count: (count, count)),
    estimate=st.one_of(st.just("auto"), st.integers(200, 900).map(lambda count: count * MIB)),
    pinned=st.booleans(),
    keep_alive_seconds=st.just(math.inf),
)


@settings(max_examples=60)
@given(st.lists(specs, min_size=1, max_size=4), st.integers(700, 4096), st.sampled_from((0, 100)))
def test_the_core_of_the_supervisor_leases_what_was_planned(
    unnamed: list[ModelSpec], budget_mib: int, cache_mib: int
) -> None:
    models = [replace(each, name=f"m{number}", source=f"path:/m{number}") for number, each in enumerate(unnamed)]
    story = Story(*models, budget_bytes=budget_mib * MIB, cache_bytes=cache_mib * MIB)
    for outcome in planned(models, Story(*models, budget_bytes=budget_mib * MIB, cache_bytes=cache_mib * MIB)):
        before = {name for name, model in story.state.models.items() if not model.is_absent}
        id_ = story.load(outcome.name, deadline_ms=20_000)
        for _ in range(10):
            run(story)
            story.pass_time(3.0)
        after = {name for name, model in story.state.models.items() if not model.is_absent}
        assert story.outcome(id_) == {Fit.NEVER: "no_headroom", Fit.WAITS: "expired"}.get(outcome.fit, "ok")
        assert len(story.model(outcome.name).serving) == outcome.workers
        assert before - after == (set() if outcome.fit is Fit.WAITS else set(outcome.others))
        assert sum(story.leased().values()) == leased(outcome)[RAM]


def run(story: Story) -> None:
    """Everything that processes do by themselves; a template is as large as its footprint says."""
    while steps := story.world.steps():
        process = story.world.processes[steps[0].child]
        story.world.private_bytes = MIB
        child = story.state.children.get(process.child)
        if child is not None and child.kind is ChildKind.TEMPLATE:
            footprint = story.model(child.model or "").footprint
            assert footprint is not None
            story.world.private_bytes = footprint.template_bytes
        story.step(steps[0].what, steps[0].child)


def planned(models: list[ModelSpec], story: Story) -> tuple[Outcome, ...]:
    state: State = story.state
    found: list[ModelState] = [state.models[each.name] for each in models]
    return plan(state.governor, [planned_model(state, model, card(model.name)) for model in found])
