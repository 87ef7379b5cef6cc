"""New workers for a model, made anew by order: because its configuration changed, or because somebody asked. Pure.

They load beside those that serve and take over without a gap, by the same way as new files do (reload.py). What a
model is to be from its next load on, while others serve it still as it was, is in its watch.
"""

from __future__ import annotations

from embeddaemon.models.card import ModelCard
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.messages import Document
from embeddaemon.supervisor.commands import ReadCard, Reply
from embeddaemon.supervisor.memory.learning import card_learned
from embeddaemon.supervisor.memory.needs import settle_footprint
from embeddaemon.supervisor.model_state import ModelState, Waiter
from embeddaemon.supervisor.processes.departures import end_child, unload
from embeddaemon.supervisor.processes.lifecycle import SERVING, DeathClass
from embeddaemon.supervisor.processes.staffing import fetch_for_successor
from embeddaemon.supervisor.state import State


def replace_workers(state: State, model: ModelState, now: float) -> None:
    """Load the model's files as they are now, by its configuration as it is now; then the old workers go."""
    watch = model.watch
    give_up_successor(state, model, now)
    if not model.serving or model.is_unloading:
        _start_over(state, model, now)
        return
    watch.is_ordered = True
    read_successor(state, model, now)


def give_up_successor(state: State, model: ModelState, now: float) -> None:
    """Nothing is loaded beside what serves."""
    watch = model.watch
    for number in (watch.successor, watch.fetcher):
        if (child := state.children.get(number or 0)) is not None:
            end_child(state, child, DeathClass.STOPPED, now)
    watch.abandon()
    watch.forget()
    watch.is_ordered, watch.folder = False, None


def read_successor(state: State, model: ModelState, now: float) -> None:
    """Have the files read that the successor is to load, or fetched first."""
    watch, spec = model.watch, model.watch.spec or model.spec
    folder = watch.folder
    if model.card is not None and spec.source == model.spec.source:
        folder = model.card.folder
    if folder is None and spec.is_of_hub:
        fetcher = fetch_for_successor(state, model, spec.source, now)
        watch.fetcher = None if fetcher is None else fetcher.number
        return
    watch.is_reading = True
    state.commands.append(ReadCard(spec, folder, is_successor=True))


def read_again_if_ordered(state: State, model: ModelState, now: float) -> None:
    """A successor that ended by no fault of its own is begun again; where all is gone or going, none is needed.

    Where a worker has died and its template lives, what was ordered waits for the next worker.
    """
    watch = model.watch
    if model.is_absent and watch.successor is None and watch.card is not None:
        watch.abandon()
    if watch.is_at_work:
        return
    if model.is_absent or model.is_unloading:
        _wait_for_load(model)
        watch.is_ordered = False
    elif watch.is_ordered and model.serving:
        read_successor(state, model, now)


def drain_first(state: State, model: ModelState, now: float) -> None:
    """There is no room for both: what serves goes, and is loaded again. That is all that was ordered."""
    unload(state, model, now)
    model.is_wanted, model.watch.is_ordered = True, False
    _wait_for_load(model)


def _wait_for_load(model: ModelState) -> None:
    """Whoever waits for new workers has them as soon as there are any."""
    model.load_waiters += model.replace_waiters
    model.replace_waiters.clear()


def _start_over(state: State, model: ModelState, now: float) -> None:
    """Nobody serves: what loads is stopped, and whoever waits goes on waiting."""
    is_wanted = model.is_wanted or model.has_work
    model.retry_at = now
    if not model.is_absent or model.fetcher is not None:
        unload(state, model, now)
    model.take_up_spec()
    model.is_card_fresh, model.is_wanted = False, is_wanted


def learn(state: State, model: ModelState, card: ModelCard) -> None:
    """What its folder says. Raises ConfigError when the declared estimate cannot be right."""
    card_learned(state, model, card)
    settle_footprint(state, model)


def keep_to(state: State, model: ModelState, spec: ModelSpec) -> None:
    """Other values of what needs no new workers."""
    is_estimated_otherwise, model.spec = spec.estimate != model.spec.estimate, spec
    if is_estimated_otherwise and model.card is not None:
        learn(state, model, model.card)


def by_hand(state: State, model: ModelState, waiter: Waiter, now: float) -> None:
    """Somebody asks for new workers, and waits for them."""
    model.replace_waiters.append(waiter)
    replace_workers(state, model, now)


def answer_replaced(state: State, model: ModelState, now: float) -> None:
    """Tell those who asked for new workers that they serve, once they do."""
    watch = model.watch
    if watch.is_ordered or watch.is_at_work or not any(worker.state in SERVING for worker in model.staying):
        return
    for waiter in model.replace_waiters:
        document = {"model": model.name, "state": "ready", "seconds": now - waiter.since}
        state.commands.append(Reply(waiter.client, Document(id=waiter.id), document))
    model.replace_waiters.clear()
