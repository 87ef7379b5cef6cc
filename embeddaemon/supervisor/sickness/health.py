"""What ``health`` answers: whether the daemon is ready, and why not; each model likewise (docs/protocol.md). Pure.

Alive is who answers at all. Ready is who does what its configuration promises: a model that is preloaded is there once
the daemon has started, a pinned one stays, the default one can be asked. A model that comes by need is ready to come;
asking changes nothing about it. Texts that are embedded for a deep answer are checkups.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embeddaemon.errors import Busy, EmbedDaemonError
from embeddaemon.protocol.error_codec import error_to_map
from embeddaemon.supervisor.documents import state_of
from embeddaemon.supervisor.memory.needs import never_fits
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.requests import admission
from embeddaemon.supervisor.sickness.askers import Outcome
from embeddaemon.supervisor.state import State


def health(
    state: State, models: Sequence[ModelState], now: float, *, is_named: bool, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """The document about these models. ``is_named``: somebody asks for one of them, and not for the daemon."""
    shown = [_model(state, model, now, is_named=is_named, outcome=outcomes.get(model.name)) for model in models]
    why = ["the daemon is stopping"] if state.is_draining else []
    why += [str(each["why"]) for each in shown if not each["ready"]]
    sick = [f"{each['name']}: {each['deep']['why']}" for each in shown if each["deep"] and each["deep"]["ok"] is False]
    return {
        "live": True,
        "ready": not why,
        "ok": not why and not sick,
        "why": [*why, *sick],
        "warnings": _warnings(state, now),
        "instance": state.machine.instance,
        "version": state.machine.version,
        "pid": state.machine.pid,
        "uptime_seconds": now - state.machine.started_at,
        "draining": state.is_draining,
        "models": shown,
    }


def _warnings(state: State, now: float) -> list[str]:
    """What is no reason not to be ready."""
    known = state.configuration
    if known.error is None or known.tried_at is None:
        return []
    since = f"read again {now - known.tried_at:.0f} s ago"
    return [f"config: {_files(known.files)} is wrong ({since}): running on the old one: {known.error}"]


def _files(files: Sequence[str]) -> str:
    return ", ".join(files) or "what was configured"


def _model(state: State, model: ModelState, now: float, *, is_named: bool, outcome: Outcome | None) -> dict[str, Any]:
    why = why_not_ready(state, model, now, is_named=is_named)
    oldest = model.queue.oldest()
    return {
        "name": model.name,
        "state": state_of(model, now),
        "required": is_required(model),
        "ready": why is None,
        "why": why,
        "loaded": bool(model.serving),
        "error": None if model.serving or model.error is None else error_to_map(model.error),
        "retry_seconds": max(0.0, model.retry_at - now),
        "queued": len(model.queue),
        "queue_full": is_queue_full(state, model),
        "oldest_wait_seconds": 0.0 if oldest is None else now - oldest,
        "deep": None if outcome is None else {"ok": outcome.ok, "why": outcome.why, "seconds": outcome.seconds},
    }


def is_required(model: ModelState) -> bool:
    """Whether the configuration says that it is to be there without anybody asking for it."""
    return model.spec.preload or model.spec.pinned


def why_not_ready(state: State, model: ModelState, now: float, *, is_named: bool) -> str | None:
    """What keeps a model from what its configuration promises; None: nothing, it is there or comes when it is asked."""
    if model.serving:
        return None
    counts = is_named or is_required(model) or model.name == state.settings.default_model
    if model.error is not None and counts:
        return f"model {model.name} is {state_of(model, now)}: {_short(model.error)}"
    if model.spec.preload and model.ready_at is None:
        return f"model {model.name} is to be loaded at the start and is {_and_why(state, model, now)}"
    if model.spec.pinned and model.ready_at is not None:
        return f"model {model.name} is pinned and is {_and_why(state, model, now)}"
    return None


def _and_why(state: State, model: ModelState, now: float) -> str:
    word = state_of(model, now)
    if model.waiting is not None:
        return f"{word} for memory: {model.waiting.text()}"
    never = never_fits(state, model)
    return word if never is None else f"{word}: {never.text()}"


def _short(error: EmbedDaemonError) -> str:
    return f"{error.code}: {error}"


def is_queue_full(state: State, model: ModelState) -> bool:
    """Whether an ordinary request would be refused now because others wait."""
    try:
        admission.check_queue(state, model, 0)
    except Busy:
        return True
    return False
