"""Which processes should live: what a wanted model lacks is leased and started. Pure.

Asks for memory (room.py) before every start, in the same step. How processes go is in departures.py and endings.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from embeddaemon.config.settings import StartMethod
from embeddaemon.governor.core import Want
from embeddaemon.governor.footprint import Footprint
from embeddaemon.governor.samples import RAM
from embeddaemon.models.card import ModelCard
from embeddaemon.supervisor.commands import ReadCard, StartFetcher, StartForkServer, StartTemplate, StartWorker
from embeddaemon.supervisor.memory.learning import (
    device_of,
    has_template,
    is_to_be_fetched,
    memory_of,
    order_for,
    threads_of,
)
from embeddaemon.supervisor.memory.leases import give_back_reserved, new_child, reserve_first_worker
from embeddaemon.supervisor.memory.room import fits_now, has_room, has_room_beside, has_room_for_fork_server
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.processes.lifecycle import SERVING, Worker
from embeddaemon.supervisor.state import State

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
    if model.is_absent:
        model.take_up_spec()
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


def usable_fork_server(state: State, now: float) -> Child | None:
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
    fork_server = usable_fork_server(state, now)
    if fork_server is None:
        return
    child = new_child(state, ChildKind.FETCHER, FETCHER_BYTES, now, model=model.name, parent=fork_server.number)
    model.fetcher = child.number
    state.commands.append(StartFetcher(child.number, model.spec.source))
    state.log("info", "fetching", model=model.name, source=model.spec.source)


def fetch_for_successor(state: State, model: ModelState, source: str, now: float) -> Child | None:
    """Bring what is to be loaded beside what serves; None: it cannot begin now."""
    wants = [Want(f"fetcher:{model.name}", FETCHER_BYTES)]
    fork_server = usable_fork_server(state, now) if fits_now(state, wants, now) else None
    if fork_server is None:
        return None
    child = new_child(state, ChildKind.FETCHER, FETCHER_BYTES, now, model=model.name, parent=fork_server.number)
    state.commands.append(StartFetcher(child.number, source))
    state.log("info", "fetching", model=model.name, source=source)
    return child


def _start_template(state: State, model: ModelState, now: float) -> None:
    assert model.card is not None
    assert model.footprint is not None
    wants = _wants_of_template(model, model.footprint)
    if not has_room(state, model, wants, now, loads_on=RAM):
        return
    child = _order_template(state, model, model.card, wants, now)
    if child is not None:
        model.template, model.is_card_fresh, model.load_started_at = child.number, False, now


def _wants_of_template(model: ModelState, footprint: Footprint) -> list[Want]:
    """What it is leased at the peak of its load, and its first worker."""
    return [
        Want(f"template:{model.name}", footprint.template_peak_bytes),
        Want(f"worker:{model.name}", footprint.worker_peak_bytes),
    ]


def _order_template(
    state: State, model: ModelState, card: ModelCard, wants: Sequence[Want], now: float
) -> Child | None:
    """None when there is no fork server to fork it now."""
    fork_server = usable_fork_server(state, now)
    if fork_server is None:
        return None
    template, first_worker = wants
    child = new_child(state, ChildKind.TEMPLATE, template.bytes, now, model=model.name, parent=fork_server.number)
    child.loads_on = RAM
    reserve_first_worker(state, child, first_worker.bytes, now)
    state.commands.append(StartTemplate(child.number, order_for(state, model, card)))
    state.log("info", "template_starting", model=model.name, child=child.number)
    return child


def wants_of_successor(state: State, model: ModelState, footprint: Footprint) -> list[Want]:
    """What loads new files is leased, beside what serves the old ones."""
    return _wants_of_template(model, footprint) if has_template(state, model) else _wants(state, model, footprint)


def start_successor(
    state: State, model: ModelState, card: ModelCard, wants: Sequence[Want], now: float
) -> Child | None:
    """Start what loads new files beside what serves the old ones; None: there is no fork server now."""
    if has_template(state, model):
        return _order_template(state, model, card, wants, now)
    slot = next(slot for slot in range(MAX_WORKERS_PER_MODEL) if slot not in model.workers)
    return _order_worker(state, model, slot, wants, now, template=None, card=card)


def _start_workers(state: State, model: ModelState, template: Child | None, now: float) -> None:
    # Those that serve files of before keep their slots until others serve.
    slots = model.spec.workers.max + sum(worker.child in model.watch.leaving for worker in model.workers.values())
    for slot in range(slots):
        if not _lacks_worker(model, now):
            return
        if slot not in model.workers and not _start_worker(state, model, slot, template, now):
            return


def _lacks_worker(model: ModelState, now: float) -> bool:
    """Below its minimum; or, below its maximum, every worker is full and a request has waited too long."""
    staying = model.staying
    serving = [worker for worker in staying if worker.state in SERVING]
    if len(staying) < model.spec.workers.min:
        return True
    if len(staying) >= model.spec.workers.max or len(serving) < len(staying):
        return False
    # What waits in the queue waits because every worker is full: pump hands out whatever can be.
    oldest = model.queue.oldest()
    return oldest is not None and now - oldest > SCALE_UP_AFTER_SECONDS


def _start_worker(state: State, model: ModelState, slot: int, template: Child | None, now: float) -> bool:
    """Start the next incarnation of a slot; False when it has to wait."""
    assert model.card is not None
    wants = wants_of_worker(state, model)
    if template is not None and template.reserved_bytes:
        wants = [Want(wants[0].holder, template.reserved_bytes)]
        give_back_reserved(state, template, now)
    else:
        loads_on = memory_of(device_of(state, model.spec)) if template is None else None
        ask = has_room_beside if model.staying else has_room
        if not ask(state, model, wants, now, loads_on=loads_on):
            return False
    if _order_worker(state, model, slot, wants, now, template=template, card=model.card) is None:
        return False
    model.is_card_fresh = False
    return True


def _order_worker(
    state: State,
    model: ModelState,
    slot: int,
    wants: Sequence[Want],
    now: float,
    *,
    template: Child | None,
    card: ModelCard,
) -> Child | None:
    """None when there is no fork server to fork it now."""
    spawns = state.settings.start_method is StartMethod.SPAWN
    parent = template
    if parent is None and not spawns and (parent := usable_fork_server(state, now)) is None:
        return None
    number = None if parent is None else parent.number
    child = new_child(
        state,
        ChildKind.WORKER,
        wants[0].bytes,
        now,
        model=model.name,
        parent=number,
        slot=slot,
        on_device=wants[1] if len(wants) > 1 else None,
    )
    if template is None:
        child.loads_on = memory_of(device_of(state, model.spec))
        if not model.staying:
            model.load_started_at = now
    worker = _next_incarnation(state, model, slot, child, now)
    state.commands.append(
        StartWorker(
            child=child.number,
            worker=worker.number,
            incarnation=worker.incarnation,
            threads=threads_of(state, model),
            template=None if template is None else template.number,
            order=order_for(state, model, card) if template is None else None,
            spawn=spawns,
        )
    )
    state.log("info", "worker_starting", worker=worker.label, child=child.number)
    return child


def wants_of_worker(state: State, model: ModelState) -> list[Want]:
    """What one worker is leased: host memory, and that of its device where it has its own and we know it."""
    assert model.footprint is not None
    return _wants(state, model, model.footprint)


def _wants(state: State, model: ModelState, footprint: Footprint) -> list[Want]:
    wants = [Want(f"worker:{model.name}", footprint.worker_peak_bytes)]
    device = memory_of(device_of(state, model.spec))
    if device != RAM and device in state.governor.devices:
        wants.append(Want(f"worker:{model.name}@{device}", footprint.device_bytes, device))
    return wants


def _next_incarnation(state: State, model: ModelState, slot: int, child: Child, now: float) -> Worker:
    model.incarnations[slot] += 1
    worker = Worker(
        number=model.number * MAX_WORKERS_PER_MODEL + slot,
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
