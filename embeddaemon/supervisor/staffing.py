"""Which processes should live: what a wanted model lacks is leased and started. Pure.

Asks for memory (room.py) before every start, in the same step. How processes go is in departures.py and endings.py.
"""

from __future__ import annotations

from embeddaemon.config.settings import StartMethod
from embeddaemon.governor.core import Want
from embeddaemon.governor.samples import RAM
from embeddaemon.supervisor.commands import ReadCard, StartFetcher, StartForkServer, StartTemplate, StartWorker
from embeddaemon.supervisor.learning import (
    device_of,
    has_template,
    is_to_be_fetched,
    memory_of,
    order_for,
    threads_of,
)
from embeddaemon.supervisor.leases import give_back_reserved, new_child, reserve_first_worker
from embeddaemon.supervisor.lifecycle import Worker
from embeddaemon.supervisor.room import has_room, has_room_beside, has_room_for_fork_server
from embeddaemon.supervisor.state import Child, ChildKind, ModelState, State

FETCHER_BYTES = 128 * 1024 * 1024
"""A fork of the fork server that downloads: its own pages and the network's buffers."""

SCALE_UP_AFTER_SECONDS = 0.25
"""A request that waits so long with every worker full asks for one more, where more are allowed."""

MAX_WORKERS_PER_MODEL = 1024
"""What tells the slots of one model from those of the next in a worker's number."""


def staff_all(state: State, now: float) -> None:
    """Staff every model: those that wait for memory first, then those whose requests wait, the longest first."""

    def turn(model: ModelState) -> tuple[float, float]:
        oldest = model.queue.oldest()
        return (
            now if model.waiting_since is None else model.waiting_since,
            now if oldest is None else oldest,
        )

    for model in sorted(state.models.values(), key=turn):
        staff(state, model, now)


def staff(state: State, model: ModelState, now: float) -> None:
    """Start what the model lacks, as far as memory, back-off and what must come first allow."""
    if model.is_unloading:
        return
    if model.has_work:
        model.is_wanted = True
    else:
        # Whoever waited for it has gone, and its claim to what comes back with them.
        model.waiting_since = None
        if model.waiting is not None and not model.spec.preload:
            model.is_wanted = False
    if not model.is_wanted or state.stop_deadline is not None or now < model.retry_at:
        model.stop_waiting()
        return
    template = state.template_of(model)
    if model.card is None or model.footprint is None or (model.is_absent and not model.is_card_fresh):
        _learn(state, model, now)
    elif not has_template(state, model):
        _start_workers(state, model, None, now)
    elif template is None:
        _start_template(state, model, now)
    elif template.is_usable:
        _start_workers(state, model, template, now)


def _learn(state: State, model: ModelState, now: float) -> None:
    """Read the model's folder, or have it fetched first."""
    if model.is_reading or model.fetcher is not None:
        return
    if is_to_be_fetched(model):
        _start_fetcher(state, model, now)
    else:
        model.is_reading = True
        state.commands.append(ReadCard(model.spec, model.folder))


def _usable_fork_server(state: State, now: float) -> Child | None:
    """The fork server when it can be told to fork; else it is started, if that is allowed now."""
    if state.fork_server is not None:
        child = state.children[state.fork_server]
        return child if child.is_usable else None
    if now >= state.fork_server_retry_at and has_room_for_fork_server(state, now):
        child = new_child(state, ChildKind.FORK_SERVER, state.fork_server_bytes, now)
        state.fork_server = child.number
        state.commands.append(StartForkServer(child.number))
        state.log("info", "fork_server_starting", child=child.number)
    return None


def _start_fetcher(state: State, model: ModelState, now: float) -> None:
    if not has_room(state, model, [Want(f"fetcher:{model.name}", FETCHER_BYTES)], now, loads_on=None):
        return
    fork_server = _usable_fork_server(state, now)
    if fork_server is None:
        return
    child = new_child(state, ChildKind.FETCHER, FETCHER_BYTES, now, model=model.name, parent=fork_server.number)
    model.fetcher = child.number
    state.commands.append(StartFetcher(child.number, model.spec.source))
    state.log("info", "fetching", model=model.name, source=model.spec.source)


def _start_template(state: State, model: ModelState, now: float) -> None:
    assert model.footprint is not None
    peak_bytes, first_worker_bytes = model.footprint.template_peak_bytes, model.footprint.worker_peak_bytes
    wants = [Want(f"template:{model.name}", peak_bytes), Want(f"worker:{model.name}", first_worker_bytes)]
    if not has_room(state, model, wants, now, loads_on=RAM):
        return
    fork_server = _usable_fork_server(state, now)
    if fork_server is None:
        return
    child = new_child(state, ChildKind.TEMPLATE, peak_bytes, now, model=model.name, parent=fork_server.number)
    child.loads_on = RAM
    reserve_first_worker(state, child, first_worker_bytes, now)
    model.template, model.is_card_fresh, model.load_started_at = child.number, False, now
    state.commands.append(StartTemplate(child.number, order_for(state, model)))
    state.log("info", "template_starting", model=model.name, child=child.number)


def _start_workers(state: State, model: ModelState, template: Child | None, now: float) -> None:
    for slot in range(model.spec.workers.max):
        if not _lacks_worker(model, now):
            return
        if slot not in model.workers and not _start_worker(state, model, slot, template, now):
            return


def _lacks_worker(model: ModelState, now: float) -> bool:
    """Below its minimum; or, below its maximum, every worker is full and a request has waited too long."""
    staying, serving = model.staying, model.serving
    if len(staying) < model.spec.workers.min:
        return True
    if len(staying) >= model.spec.workers.max or len(serving) < len(staying):
        return False
    # What waits in the queue waits because every worker is full: pump hands out whatever can be.
    oldest = model.queue.oldest()
    return oldest is not None and now - oldest > SCALE_UP_AFTER_SECONDS


def _start_worker(state: State, model: ModelState, slot: int, template: Child | None, now: float) -> bool:
    """Start the next incarnation of a slot; False when it has to wait."""
    wants = wants_of_worker(state, model)
    loads_on = memory_of(device_of(state, model.spec)) if template is None else None
    lease_bytes = wants[0].bytes
    if template is not None and template.reserved_bytes:
        lease_bytes = template.reserved_bytes
        give_back_reserved(state, template, now)
    else:
        ask = has_room_beside if model.staying else has_room
        if not ask(state, model, wants, now, loads_on=loads_on):
            return False
    spawns = state.settings.start_method is StartMethod.SPAWN
    parent = template
    if parent is None and not spawns and (parent := _usable_fork_server(state, now)) is None:
        return False
    number = None if parent is None else parent.number
    child = new_child(
        state,
        ChildKind.WORKER,
        lease_bytes,
        now,
        model=model.name,
        parent=number,
        slot=slot,
        on_device=wants[1] if len(wants) > 1 else None,
    )
    child.loads_on = loads_on
    if loads_on is not None and not model.staying:
        model.load_started_at = now
    worker = _next_incarnation(state, model, slot, child, now)
    model.is_card_fresh = False
    state.commands.append(
        StartWorker(
            child=child.number,
            worker=worker.number,
            incarnation=worker.incarnation,
            threads=threads_of(state, model),
            template=None if template is None else template.number,
            order=order_for(state, model) if template is None else None,
            spawn=spawns,
        )
    )
    state.log("info", "worker_starting", worker=worker.label, child=child.number)
    return True


def wants_of_worker(state: State, model: ModelState) -> list[Want]:
    """What one worker is leased: host memory, and that of its device where it has its own and we know it."""
    assert model.footprint is not None
    wants = [Want(f"worker:{model.name}", model.footprint.worker_peak_bytes)]
    device = memory_of(device_of(state, model.spec))
    if device != RAM and device in state.governor.devices:
        wants.append(Want(f"worker:{model.name}@{device}", model.footprint.device_bytes, device))
    return wants


def _next_incarnation(state: State, model: ModelState, slot: int, child: Child, now: float) -> Worker:
    model.incarnations[slot] += 1
    worker = Worker(
        number=list(state.models).index(model.name) * MAX_WORKERS_PER_MODEL + slot,
        slot=slot,
        incarnation=model.incarnations[slot],
        child=child.number,
        model=model.name,
        started_at=now,
        heard_at=now,
        idle_since=now,
    )
    model.workers[slot] = state.workers[worker.number] = worker
    return worker


def find_worker(state: State, number: int, incarnation: int) -> Worker | None:
    """The worker of a link message, if it is that slot's living incarnation."""
    worker = state.workers.get(number)
    return worker if worker is not None and worker.incarnation == incarnation else None
