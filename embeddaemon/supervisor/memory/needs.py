"""What a model's processes are leased: computed or declared at first, then after what was measured. Pure.

How measured numbers change a footprint is governor/learned.py; the file is written by the shell.
"""

from __future__ import annotations

from dataclasses import replace

from embeddaemon.governor.core import FORK_SERVER, Demand, Never, Want
from embeddaemon.governor.footprint import AUTO, Footprint
from embeddaemon.governor.formula import FORK_SERVER_BYTES
from embeddaemon.governor.learned import Key, Learned, deviation, footprint_with
from embeddaemon.governor.learned_json import to_text
from embeddaemon.protocol import control, link
from embeddaemon.supervisor.commands import KeepFootprints
from embeddaemon.supervisor.memory.learning import device_of, has_template, memory_of, needs_fork_server, threads_of
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.lifecycle import Taught, Worker
from embeddaemon.supervisor.state import State

FORK_SERVER_SLACK_PERCENT = 105
"""Of what it holds when everything is imported: it only forks from then on."""

_FORK_SERVER = Key(
    "fork server", "", "cpu", "fork", threads=0, token_budget=1, stream_tokens=0, element_bytes=0
)  # its place among the models' keys

WRITE_SECONDS = 10.0
"""Between two writes of what was learned: a worker's peak rises in many small steps."""

LEARN_AFTER_SECONDS = 5.0
"""What a worker held is believed once it has lived on for so long: one that dies of it teaches nothing."""

MORE_AFTER_DEATH = 1.25
"""What a worker is leased after one died at its hard limit: what it wanted nobody saw."""

MOST_MORE = 2
"""No lease of a worker is more than so many times what it was taken to need: what wants more, leaks, or is one bad
request."""


def settle_footprint(state: State, model: ModelState) -> None:
    """Decide anew what is leased for the model's next processes."""
    if model.computed is None:
        return
    found = _with_floor(_after_measurement(state, model, model.computed), model)
    # What was seen once must not make a model impossible that was served: a worker's hard limit holds it, and a
    # template that turns out larger is leased more when it is ready, if there is room.
    with_usual_worker = replace(
        found,
        worker_peak_bytes=model.computed.worker_peak_bytes,
        worker_bytes=model.computed.worker_bytes,
        device_bytes=model.computed.device_bytes,
    )
    possible = (each for each in (found, with_usual_worker) if _is_possible(state, model, each))
    model.footprint = next(possible, model.computed)


def never_fits(state: State, model: ModelState) -> Never | None:
    """Why the model can never be loaded here, whatever goes for it; None: it can, or nobody knows what it needs."""
    if model.footprint is None:
        return None
    return state.governor.refusal_beside(_whole_demand(state, model, model.footprint), ())


def warn_of_never(state: State) -> None:
    """Say in one line which models can never be loaded here, and with which numbers; nothing where all can."""
    found = ((model.name, never_fits(state, model)) for model in state.models.values() if not model.is_removed)
    nevers = {name: never for name, never in found if never is not None}
    if nevers:
        why = "; ".join(f"{name} {never.text()}" for name, never in nevers.items())
        state.log("warning", "will_never_fit", models=",".join(nevers), why=why)


def _is_possible(state: State, model: ModelState, footprint: Footprint) -> bool:
    return state.governor.refusal_beside(_whole_demand(state, model, footprint), ()) is None


def _after_measurement(state: State, model: ModelState, computed: Footprint) -> Footprint:
    key = key_of(state, model)
    return footprint_with(
        computed,
        None if key is None else state.learned.get(key),
        is_declared=model.spec.estimate != AUTO,
        computed=model.automatic,
    )


def _whole_demand(state: State, model: ModelState, footprint: Footprint) -> Demand:
    """Everything that the model needs to serve, with nothing of it there."""
    wants = [Want("worker", footprint.worker_peak_bytes)]
    if footprint.template_peak_bytes:
        wants.append(Want("template", footprint.template_peak_bytes))
    if needs_fork_server(state, model) and state.fork_server is None:
        wants.append(Want(FORK_SERVER, state.fork_server_bytes))
    device = memory_of(device_of(state, model.spec))
    if footprint.device_bytes and device in state.governor.devices:
        wants.append(Want("worker on device", footprint.device_bytes, device))
    return Demand(tuple(wants))


def most_worker_bytes(model: ModelState) -> int:
    """The most that one of its workers is ever leased."""
    assert model.automatic is not None, "its folder was not read: bug"
    assert model.computed is not None, "its folder was not read: bug"
    return MOST_MORE * max(model.automatic.worker_bytes, model.computed.worker_bytes)


def _with_floor(footprint: Footprint, model: ModelState) -> Footprint:
    worker_bytes = max(footprint.worker_bytes, min(model.worker_floor_bytes, most_worker_bytes(model)))
    return replace(
        footprint, worker_bytes=worker_bytes, worker_peak_bytes=max(worker_bytes, footprint.worker_peak_bytes)
    )


def key_of(state: State, model: ModelState) -> Key | None:
    """Under which what is measured of the model is remembered; None while its folder was not read."""
    if model.card is None or not model.card.weights_digest:
        return None
    return Key(
        weights_digest=model.card.weights_digest,
        precision=model.spec.precision,
        device=device_of(state, model.spec),
        start_method="fork" if has_template(state, model) else "spawn",
        threads=threads_of(state, model),
        token_budget=model.spec.token_budget,
        stream_tokens=model.stream_tokens,
        element_bytes=model.element_bytes,
    )


def fork_server_bytes(learned: Learned) -> int:
    """What the fork server is leased at its start: as it was found to need here, else as it was found elsewhere."""
    measured = learned.get(_FORK_SERVER)
    return FORK_SERVER_BYTES if measured is None else measured.template_bytes * FORK_SERVER_SLACK_PERCENT // 100


def fork_server_measured(state: State, ready: control.ForkServerReady, now: float) -> None:
    """It has imported everything."""
    is_news = state.learned.note_template(_FORK_SERVER, ready.private_bytes, ready.private_bytes)
    if is_news and state.learned_at is None:
        state.learned_at = now
    state.fork_server_bytes = fork_server_bytes(state.learned)


def template_measured(state: State, model: ModelState, ready: control.TemplateReady, now: float) -> None:
    """A template has loaded the model."""
    key = key_of(state, model)
    if key is not None:
        changed = state.learned.note_template(key, ready.private_bytes, ready.peak_bytes)
        _learned(state, model, now, is_worth_writing=changed)


def worker_measured(state: State, model: ModelState, worker: Worker, beat: link.Heartbeat, now: float) -> None:
    """A worker says what it holds, and held at most."""
    worker.taught.heard(beat, now)
    key = key_of(state, model)
    if key is None or now - worker.taught.since < LEARN_AFTER_SECONDS:
        return
    taught, worker.taught = worker.taught, Taught()
    changed = state.learned.note_worker(
        key, taught.private_bytes, taught.peak_bytes, taught.device_bytes, taught.tokens
    )
    _learned(state, model, now, is_worth_writing=changed)


def _learned(state: State, model: ModelState, now: float, *, is_worth_writing: bool) -> None:
    if not is_worth_writing:
        return
    if state.learned_at is None:
        state.learned_at = now
    settle_footprint(state, model)
    _warn_of_declared(state, model)


def _warn_of_declared(state: State, model: ModelState) -> None:
    """Once for each life of the daemon and direction: with the number that would be right."""
    key = key_of(state, model)
    measured = None if key is None else state.learned.get(key)
    if model.spec.estimate == AUTO or measured is None or model.computed is None:
        return
    text = deviation(model.computed.total_bytes, measured, token_budget=model.spec.token_budget)
    if text is not None and not model.is_estimate_warned:
        model.is_estimate_warned = True
        state.log("warning", "estimate_off", model=model.name, why=text)


def needs_more(state: State, model: ModelState) -> None:
    """One of its workers died at its hard limit: the next is leased more."""
    if model.footprint is not None:
        needs_at_least(state, model, int(model.footprint.worker_bytes * MORE_AFTER_DEATH))


def needs_at_least(state: State, model: ModelState, worker_bytes: int) -> None:
    """What its next workers are leased at least, within its bound, in this life of the daemon only."""
    before = model.footprint
    model.worker_floor_bytes = max(model.worker_floor_bytes, worker_bytes)
    settle_footprint(state, model)
    if before is not None and model.footprint is not None and model.footprint.worker_bytes > before.worker_bytes:
        state.log("info", "estimate_raised", model=model.name, worker_bytes=model.footprint.worker_bytes)


def keep_when_due(state: State, now: float, *, at_once: bool = False) -> None:
    """Have what was learned written, not too often."""
    if state.learned_at is not None and (at_once or now - state.learned_at >= WRITE_SECONDS):
        state.learned_at = None
        state.commands.append(KeepFootprints(to_text(state.learned)))
