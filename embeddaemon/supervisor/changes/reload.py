"""New files of a model that serves: noticed, loaded beside the old ones, taken over without a dropped request. Pure.

Looking at the files is file_looks.py's; what is known of them is in watch.py. A model that does not serve needs none of
this: its folder is read again before it is loaded.
"""

from __future__ import annotations

from dataclasses import replace

from embeddaemon.errors import EmbedDaemonError, FailedLoad, ModelChanged
from embeddaemon.models.card import ModelCard
from embeddaemon.supervisor.changes.replacement import (
    answer_replaced,
    drain_first,
    learn,
    read_again_if_ordered,
    read_successor,
)
from embeddaemon.supervisor.commands import LookAtFiles
from embeddaemon.supervisor.events import FilesSeen
from embeddaemon.supervisor.memory.learning import device_of, footprint_for, has_template, memory_of
from embeddaemon.supervisor.memory.room import fits_now, is_loading, never_fits_beside_pinned
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.child import Child, ChildKind
from embeddaemon.supervisor.processes.departures import drain, end_child
from embeddaemon.supervisor.processes.lifecycle import BLAMELESS, SERVING, DeathClass, explain
from embeddaemon.supervisor.processes.staffing import start_successor, wants_of_successor
from embeddaemon.supervisor.requests import admission
from embeddaemon.supervisor.requests.life import end_with_error, refuse_all
from embeddaemon.supervisor.state import State


def look_at_files(state: State, now: float) -> None:
    """Have the files of models that serve looked at; go on with what was found."""
    interval_seconds = state.settings.file_check_seconds
    for model in state.models.values():
        end_outgoing(state, model, now)
        read_again_if_ordered(state, model, now)
        _advance(state, model, now)
        if not interval_seconds or state.is_draining or not model.serving or model.is_unloading:
            continue
        if model.card is None or not model.card.files.names:
            continue
        if model.watch.is_due(now, interval_seconds):
            model.watch.is_looking, model.watch.looked_at = True, now
            state.commands.append(LookAtFiles(model.name, model.card.folder, model.card.files.names))


def files_seen(state: State, event: FilesSeen, now: float) -> None:
    """What a look found. Files that move from look to look are being written: those are waited for."""
    model = state.models[event.model]
    watch = model.watch
    watch.is_looking, watch.looked_at = False, now
    if event.marks is None or model.card is None or not model.serving or model.is_unloading or watch.is_at_work:
        return
    if watch.notices(model.card.files.marks, event.marks):
        watch.tried = event.marks
        state.log("info", "model_files_changed", model=model.name, folder=model.card.folder)
        read_successor(state, model, now)


def successor_read(state: State, model: ModelState, card: ModelCard, now: float) -> None:
    """The new files can be understood."""
    if not model.watch.is_reading:
        return  # unloaded meanwhile
    model.watch.is_reading, model.watch.card = False, card
    _advance(state, model, now)


def _advance(state: State, model: ModelState, now: float) -> None:
    """Start what loads the new files: beside what serves if there is memory for both, else after it."""
    card = model.watch.card
    if card is None or model.watch.successor is not None or state.is_draining:
        return
    goal = _goal(model)
    loads_on = memory_of(device_of(state, goal.spec))
    if is_loading(state, loads_on):
        return
    try:
        wants = wants_of_successor(state, goal, footprint_for(state, goal, card))
    except EmbedDaemonError as error:
        reload_failed(state, model, error)
        return
    if (never := never_fits_beside_pinned(state, model, wants)) is not None:
        reload_failed(state, model, admission.no_headroom(model, never))
        return
    # What is forked and what loads for itself do not go together in one model.
    is_alike = has_template(state, goal) == has_template(state, model)
    if not is_alike or not fits_now(state, wants, now):
        state.log("info", "reload_drains_first", model=model.name)
        drain_first(state, model, now)
        return
    child = start_successor(state, goal, card, wants, now)
    if child is not None:
        model.watch.successor = child.number


def _goal(model: ModelState) -> ModelState:
    """The model as it is to be: with its new configuration, where that has changed and nothing serves it yet."""
    return model if model.watch.spec is None else replace(model, spec=model.watch.spec, footprint=None)


def take_over(state: State, model: ModelState) -> None:
    """The successor has loaded the new files: from now on they are the model's. What serves goes on for a moment."""
    watch = model.watch
    assert watch.card is not None, "a successor that loads nothing: bug"
    assert watch.successor is not None, "taken over by nobody: bug"
    watch.leaving |= {worker.child for worker in model.workers.values() if worker.child != watch.successor}
    if has_template(state, model):
        if model.template is not None:
            watch.leaving.add(model.template)
        model.template = watch.successor
    card = watch.card
    model.take_up_spec()
    watch.abandon()
    watch.forget()
    watch.is_ordered = False
    learn(state, model, card)
    state.log("info", "model_reloaded", model=model.name, revision=card.revision)
    check_queue(state, model)


def relieve_outgoing(state: State, model: ModelState, now: float) -> None:
    """Once a worker with the files that are the model's now is ready, those with the old ones may go."""
    if not any(worker.state in SERVING for worker in model.staying):
        return
    for worker in list(model.workers.values()):
        if worker.child in model.watch.leaving and worker.state in SERVING:
            drain(state, worker, now)
    answer_replaced(state, model, now)


def end_outgoing(state: State, model: ModelState, now: float) -> None:
    """Old templates without workers go; what is gone is forgotten."""
    for number in list(model.watch.leaving):
        child = state.children.get(number)
        if child is None:
            model.watch.leaving.discard(number)
        elif child.kind is ChildKind.TEMPLATE and not child.is_leaving and not any(state.children_of(number)):
            end_child(state, child, DeathClass.STOPPED, now)


def check_queue(state: State, model: ModelState) -> None:
    """End what waits and asks for what the model, as it is known now, does not offer."""
    for entry in list(model.queue):
        try:
            admission.check_offers(model.card, entry.request)
        except EmbedDaemonError as error:
            end_with_error(state, entry, error)


def successor_gone(state: State, model: ModelState, child: Child, death: DeathClass, exit_code: int | None) -> None:
    """What was to load the new files ended. What serves goes on, and the next change of the files is tried again."""
    if death in BLAMELESS:
        model.watch.abandon()
        model.watch.tried = None
        return
    text = f"loading the new files of model {model.name!r}: the process {explain(death, exit_code)}"
    reload_failed(state, model, child.load_error or FailedLoad(text))


def fetched_for_successor(
    state: State, model: ModelState, child: Child, death: DeathClass, exit_code: int | None
) -> None:
    """What brings the successor's files has ended; if it brought them they are read at the next look around."""
    model.watch.fetcher = None
    if model.watch.folder is None and death not in BLAMELESS:
        text = f"fetching for model {model.name!r} {explain(death, exit_code)}"
        reload_failed(state, model, child.load_error or FailedLoad(text))


def reload_failed(state: State, model: ModelState, error: EmbedDaemonError) -> None:
    """The new files are no good: nothing changes but what is told about them."""
    model.watch.abandon()
    if not model.serving:
        return
    model.watch.error, model.watch.is_ordered = error, False
    refuse_all(state, model.replace_waiters, error)
    if isinstance(error, ModelChanged):
        model.watch.tried = None
    state.log("error", "reload_failed", model=model.name, code=error.code, error=str(error))
