"""Which processes should live: what a wanted model lacks is leased and started, what is not wanted goes. Pure.

Asks the governor before every start, in the same step. How processes end is in endings.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from embeddaemon.config.settings import StartMethod
from embeddaemon.errors import ConfigError
from embeddaemon.governor.core import FORK_SERVER, Demand, Evict, Granted, Never, Wait
from embeddaemon.governor.eviction import Candidate
from embeddaemon.governor.footprint import FORK_SERVER_BYTES, Footprint, WeightsSummary, Workload, footprint_from
from embeddaemon.models.card import ModelCard
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.admission import no_headroom
from embeddaemon.supervisor.commands import (
    Kill,
    ReadCard,
    SendDrain,
    StartFetcher,
    StartForkServer,
    StartTemplate,
    StartWorker,
)
from embeddaemon.supervisor.dispatch import CREDITS
from embeddaemon.supervisor.lifecycle import COMING, SERVING, DeathClass, Worker, WorkerState
from embeddaemon.supervisor.requests import answer_waiters, fail_all
from embeddaemon.supervisor.state import Child, ChildKind, Machine, ModelState, State

FETCHER_BYTES = 128 * 1024 * 1024
"""A fork of the fork server that downloads: its own pages and the network's buffers."""

SCALE_UP_AFTER_SECONDS = 0.25
"""A request that waits so long with every worker full asks for one more, where more are allowed."""

SCALE_DOWN_AFTER_SECONDS = 30.0
"""A worker beyond the minimum that is idle so long goes."""

TURN_SECONDS = 5.0
"""Two models that do not fit together take turns at least so long, while both have work."""


def staff_all(state: State, now: float) -> None:
    """Staff every model, those whose requests wait longest first."""
    for model in sorted(state.models.values(), key=lambda each: each.queue.oldest() or now):
        staff(state, model, now)


def staff(state: State, model: ModelState, now: float) -> None:
    """Start what the model lacks, as far as memory, back-off and what must come first allow."""
    if model.has_work:
        model.is_wanted = True
    if not model.is_wanted or model.is_unloading or state.stop_deadline is not None or now < model.retry_at:
        return
    if model.card is None or model.footprint is None:
        _learn(state, model, now)
    elif not _forks(state, model):
        _start_workers(state, model, now)
    elif model.template is None:
        _start_template(state, model, now)
    elif state.children[model.template].can_fork:
        _start_workers(state, model, now)


def device_of(state: State, spec: ModelSpec) -> str:
    return state.machine.device if spec.device == "auto" else spec.device


def _forks(state: State, model: ModelState) -> bool:
    """Whether its workers are forked from a template; a device's state does not survive a fork."""
    return state.settings.start_method is StartMethod.FORK and device_of(state, model.spec) == "cpu"


def _learn(state: State, model: ModelState, now: float) -> None:
    """Read the model's folder, or have it fetched first."""
    if model.is_reading or model.fetcher is not None:
        return
    if model.spec.source.startswith("hub:") and model.folder is None:
        _start_fetcher(state, model, now)
    else:
        model.is_reading = True
        state.commands.append(ReadCard(model.spec, model.folder))


def card_learned(state: State, model: ModelState, card: ModelCard) -> None:
    """Note what the folder says. Raises ConfigError when the declared estimate cannot be right."""
    weights = WeightsSummary(
        file_bytes=card.weights_bytes,
        parameters=card.parameters,
        hidden_size=card.hidden,
        intermediate_size=card.intermediate,
        gated=card.gated,
    )
    model.footprint = _footprint(state, model, weights)
    model.card = card


def _footprint(state: State, model: ModelState, weights: WeightsSummary) -> Footprint:
    spec = model.spec
    workload = Workload(
        element_bytes=_element_bytes(spec.precision, state.machine),
        token_budget=spec.token_budget,
        start_method="fork" if _forks(state, model) else "spawn",
    )
    try:
        return footprint_from(spec.estimate, weights, workload)
    except ConfigError as error:
        raise ConfigError(f"models.{spec.name}.estimate: {error.message}") from error


def _element_bytes(precision: str, machine: Machine) -> int:
    if precision == "auto":
        return 2 if machine.has_bfloat16 or machine.device != "cpu" else 4
    return 4 if precision == "float32" else 2


def _fork_server_is_ready(state: State, now: float) -> bool:
    """True when it can be told to fork; else it is started, if that is allowed now."""
    if state.fork_server is not None:
        return state.children[state.fork_server].can_fork
    if now >= state.fork_server_retry_at and isinstance(_ask(state, [(FORK_SERVER, FORK_SERVER_BYTES)], now), Granted):
        child = _new_child(state, ChildKind.FORK_SERVER, FORK_SERVER_BYTES, now)
        state.fork_server = child.number
        state.commands.append(StartForkServer(child.number))
        state.log("info", "fork_server_starting", child=child.number)
    return False


def _start_fetcher(state: State, model: ModelState, now: float) -> None:
    demand = [(f"fetcher:{model.name}", FETCHER_BYTES)]
    if not _has_room(state, model, demand, now) or not _fork_server_is_ready(state, now):
        return
    child = _new_child(state, ChildKind.FETCHER, FETCHER_BYTES, now, model=model.name, parent=state.fork_server)
    model.fetcher = child.number
    state.commands.append(StartFetcher(child.number, model.spec.source))
    state.log("info", "fetching", model=model.name, source=model.spec.source)


def _start_template(state: State, model: ModelState, now: float) -> None:
    assert model.footprint is not None
    peak_bytes, first_worker_bytes = model.footprint.template_peak_bytes, model.footprint.worker_bytes
    demand = [(f"template:{model.name}", peak_bytes), (model.reserved_holder, first_worker_bytes)]
    if not _has_room(state, model, demand, now) or not _fork_server_is_ready(state, now):
        return
    child = _new_child(state, ChildKind.TEMPLATE, peak_bytes, now, model=model.name, parent=state.fork_server)
    state.governor.lease(model.reserved_holder, first_worker_bytes, now)
    model.is_reserved = True
    model.template = child.number
    state.commands.append(StartTemplate(child.number, _order(state, model)))
    state.log("info", "template_starting", model=model.name, child=child.number, lease_bytes=peak_bytes)


def _start_workers(state: State, model: ModelState, now: float) -> None:
    for slot in range(model.spec.workers.max):
        if len(model.workers) >= _wanted_workers(model, now):
            return
        if slot not in model.workers and not _start_worker(state, model, slot, now):
            return


def _wanted_workers(model: ModelState, now: float) -> int:
    bounds = model.spec.workers
    living = len(model.workers)
    if bounds.min <= living < bounds.max and all(worker.state in SERVING for worker in model.workers.values()):
        oldest = model.queue.oldest()
        is_full = all(len(worker.dispatches) >= CREDITS for worker in model.workers.values())
        if is_full and oldest is not None and now - oldest > SCALE_UP_AFTER_SECONDS:
            return living + 1
    return max(bounds.min, living)


def _start_worker(state: State, model: ModelState, slot: int, now: float) -> bool:
    """Start the next incarnation of a slot; False when it has to wait."""
    assert model.footprint is not None
    incarnation = model.incarnations[slot] + 1
    lease_bytes = model.footprint.worker_peak_bytes
    if model.is_reserved:
        give_back_reserved(state, model)
    elif not _has_room(state, model, [(f"worker:{model.name}", lease_bytes)], now):
        return False
    spawns = state.settings.start_method is StartMethod.SPAWN
    if model.template is None and not spawns and not _fork_server_is_ready(state, now):
        return False
    parent = model.template if model.template is not None else (None if spawns else state.fork_server)
    child = _new_child(state, ChildKind.WORKER, lease_bytes, now, model=model.name, parent=parent, slot=slot)
    model.incarnations[slot] = incarnation
    model.workers[slot] = Worker(
        number=_number_of(state, model, slot),
        slot=slot,
        incarnation=incarnation,
        child=child.number,
        model=model.name,
        started_at=now,
        heard_at=now,
        idle_since=now,
    )
    state.commands.append(
        StartWorker(
            child=child.number,
            worker=model.workers[slot].number,
            incarnation=incarnation,
            threads=threads_of(state, model),
            template=model.template,
            order=None if model.template is not None else _order(state, model),
            spawn=spawns,
        )
    )
    state.log("info", "worker_starting", worker=model.workers[slot].label, child=child.number, lease_bytes=lease_bytes)
    return True


def give_back_reserved(state: State, model: ModelState) -> None:
    """Return the lease that waits for the first worker."""
    if model.is_reserved:
        state.governor.release(model.reserved_holder)
        model.is_reserved = False


MAX_WORKERS_PER_MODEL = 1024


def _number_of(state: State, model: ModelState, slot: int) -> int:
    return list(state.models).index(model.name) * MAX_WORKERS_PER_MODEL + slot


def find_worker(state: State, number: int, incarnation: int) -> Worker | None:
    """The worker of a link message, if it is that slot's living incarnation."""
    index, slot = divmod(number, MAX_WORKERS_PER_MODEL)
    names = list(state.models)
    if index >= len(names):
        return None
    worker = state.models[names[index]].workers.get(slot)
    return worker if worker is not None and worker.incarnation == incarnation else None


def threads_of(state: State, model: ModelState) -> int:
    """Compute threads of one worker: as configured, else its share of the cores."""
    return model.spec.threads or max(1, state.machine.cores // model.spec.workers.min)


def _order(state: State, model: ModelState) -> LoadOrder:
    assert model.card is not None
    return LoadOrder(
        card=model.card,
        device=device_of(state, model.spec),
        precision=model.spec.precision,
        token_budget=model.spec.token_budget,
        limits=state.settings.limits,
    )


def _new_child(
    state: State,
    kind: ChildKind,
    lease_bytes: int,
    now: float,
    *,
    model: str | None = None,
    parent: int | None = None,
    slot: int | None = None,
) -> Child:
    """Lease and record in one step: no process of ours is without either."""
    number = state.next_child()
    holder = FORK_SERVER if kind is ChildKind.FORK_SERVER else f"{kind.value}:{model}/{number}"
    state.governor.lease(holder, lease_bytes, now)
    child = Child(number=number, kind=kind, started_at=now, holder=holder, model=model, parent=parent, slot=slot)
    state.children[number] = child
    return child


def _ask(state: State, demand: list[tuple[str, int]], now: float) -> Granted | Evict | Wait | Never:
    return state.governor.ask(Demand(tuple(demand)), candidates(state, now), now)


def _has_room(state: State, model: ModelState, demand: list[tuple[str, int]], now: float) -> bool:
    """Ask for the model; if there is no room send away what may go, or wait, or answer that there never will be."""
    if state.settings.start_method is StartMethod.FORK and state.fork_server is None:
        demand = [(FORK_SERVER, FORK_SERVER_BYTES), *demand]
    match _ask(state, demand, now):
        case Granted():
            model.waiting = model.waiting_since = None
            return True
        case Evict(victims=victims):
            for victim in victims:
                state.log("info", "evicting", model=victim.name, for_model=model.name)
                unload(state, state.models[victim.name], now, wanted=False)
            return False
        case Wait() as wait:
            if model.waiting_since is None:
                model.waiting_since = now
                state.log("info", "waiting_for_memory", model=model.name, why=wait.text())
            model.waiting = wait
            return False
        case Never() as never:
            model.is_wanted = bool(model.workers)
            error = no_headroom(model, never)
            state.log("error", "never_fits", model=model.name, why=never.text())
            if not model.workers:
                fail_all(state, model, error)
                answer_waiters(state, model, error)
            return False


def candidates(state: State, now: float) -> Sequence[Candidate]:
    """What could be evicted: each loaded model as one, its template with all its workers."""
    return [_candidate(state, model, now) for model in state.models.values() if not model.is_absent]


def _candidate(state: State, model: ModelState, now: float) -> Candidate:
    numbers = {worker.child for worker in model.workers.values()} | {model.template}
    is_coming = not model.serving
    idle_since = None if model.has_work or is_coming else model.last_used
    if idle_since is None and not is_coming and _turn_is_over(state, model, now):
        idle_since = model.loaded_at
    return Candidate(
        name=model.name,
        holders=tuple(state.children[number].holder for number in numbers if number in state.children),
        idle_since=idle_since,
        loaded_at=model.loaded_at,
        is_pinned=model.spec.pinned,
        is_leaving=model.is_unloading,
    )


def _turn_is_over(state: State, model: ModelState, now: float) -> bool:
    """Busy, but it has had its turn, and another model has waited for one as long."""
    waits = [
        each.waiting_since for each in state.models.values() if each is not model and each.waiting_since is not None
    ]
    return bool(waits) and now - min(waits) >= TURN_SECONDS and now - model.loaded_at >= TURN_SECONDS


def unload(state: State, model: ModelState, now: float, *, wanted: bool) -> None:
    """Drain its workers; when the last is gone its template goes too (endings.py). Work that waits brings it back."""
    model.is_wanted = wanted
    if model.is_absent:
        return
    model.is_unloading = True
    for worker in list(model.workers.values()):
        drain(state, worker, now)
    if not model.workers and model.template is not None:
        end_child(state, model.template, DeathClass.STOPPED)


def drain(state: State, worker: Worker, now: float) -> None:
    """Let a worker finish what it holds and go; one that does not serve yet just goes."""
    if worker.state in COMING:
        end_child(state, worker.child, DeathClass.STOPPED)
    elif worker.state in SERVING:
        worker.becomes(WorkerState.DRAINING, now)
        worker.drain_by = now + state.settings.drain_seconds
        state.commands.append(SendDrain(worker.number, worker.incarnation))


def end_child(state: State, number: int, why: DeathClass) -> None:
    """Kill a process, remembering why; its end is reported as any other."""
    child = state.children.get(number)
    if child is not None:
        child.ending = child.ending or why
        state.commands.append(Kill(number))
