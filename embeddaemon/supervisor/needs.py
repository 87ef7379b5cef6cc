"""What a model's processes are leased: computed or declared at first, then after what was measured. Pure.

How measured numbers change a footprint is governor/learned.py; the file is written by the shell.
"""

from __future__ import annotations

from dataclasses import replace

from embeddaemon.governor.footprint import AUTO, Footprint
from embeddaemon.governor.learned import Key, deviation, footprint_with
from embeddaemon.governor.learned_json import to_text
from embeddaemon.protocol import control, link
from embeddaemon.supervisor.commands import KeepFootprints
from embeddaemon.supervisor.learning import device_of, has_template, threads_of
from embeddaemon.supervisor.lifecycle import Taught, Worker
from embeddaemon.supervisor.state import ModelState, State

WRITE_SECONDS = 10.0
"""Between two writes of what was learned: a worker's peak rises in many small steps."""

LEARN_AFTER_SECONDS = 5.0
"""What a worker held is believed once it has lived on for so long: one that dies of it teaches nothing."""

MORE_AFTER_DEATH = 1.25
"""What a worker is leased after one died at its hard limit: what it wanted nobody saw."""

MOST_MORE = 2.0
"""And no more than that, however many die: what needs more, leaks, or is one bad request."""


def settle_footprint(state: State, model: ModelState) -> None:
    """Decide anew what is leased for the model's next processes."""
    if model.computed is None:
        return
    found = _with_factor(_after_measurement(state, model, model.computed), model)
    # A peak that was measured once must not make a model impossible that has been served: its hard limit holds it.
    is_possible = _start_bytes(state, found) <= state.governor.budget.leasable_bytes
    model.footprint = found if is_possible else model.computed


def _after_measurement(state: State, model: ModelState, computed: Footprint) -> Footprint:
    key = key_of(state, model)
    return footprint_with(
        computed,
        None if key is None else state.learned.get(key),
        is_declared=model.spec.estimate != AUTO,
        token_budget=model.spec.token_budget,
        computed=model.automatic,
    )


def _start_bytes(state: State, footprint: Footprint) -> int:
    fork_server_bytes = state.fork_server_bytes if footprint.fork_server_bytes else 0
    return fork_server_bytes + footprint.template_peak_bytes + footprint.worker_peak_bytes


def _with_factor(footprint: Footprint, model: ModelState) -> Footprint:
    if model.worker_factor == 1.0:
        return footprint
    assert model.automatic is not None, "its folder was read"
    most_bytes = max(footprint.worker_bytes, int(model.automatic.worker_bytes * MOST_MORE))
    worker_bytes = min(int(footprint.worker_bytes * model.worker_factor), most_bytes)
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
    )


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
    """One of its workers died at its hard limit: the next is leased more, in this life of the daemon only."""
    model.worker_factor = min(MOST_MORE, model.worker_factor * MORE_AFTER_DEATH)
    settle_footprint(state, model)
    if model.footprint is not None:
        state.log("info", "estimate_raised", model=model.name, worker_bytes=model.footprint.worker_bytes)


def keep_when_due(state: State, now: float, *, at_once: bool = False) -> None:
    """Have what was learned written, not too often."""
    if state.learned_at is not None and (at_once or now - state.learned_at >= WRITE_SECONDS):
        state.learned_at = None
        state.commands.append(KeepFootprints(to_text(state.learned)))
