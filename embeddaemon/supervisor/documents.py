"""What hello, models and status answer: the state as maps (docs/protocol.md has the keys). Pure; changes nothing."""

from __future__ import annotations

from typing import Any

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol.error_codec import error_to_map
from embeddaemon.protocol.limits import VERSION
from embeddaemon.supervisor.memory.document import memory, processes
from embeddaemon.supervisor.memory.learning import device_of, threads_of
from embeddaemon.supervisor.memory.leases import lease_of
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.lifecycle import Worker
from embeddaemon.supervisor.state import State


def hello(state: State) -> dict[str, Any]:
    """Who we are and what we take."""
    limits = state.settings.limits
    return {
        "v": VERSION,
        "server": "embeddaemon",
        "version": state.machine.version,
        "instance": state.machine.instance,
        "pid": state.machine.pid,
        "endpoint": state.settings.endpoint,
        "default_model": state.settings.default_model,
        "limits": {
            "max_texts": limits.max_texts,
            "max_text_bytes": limits.max_text_bytes,
            "max_body_bytes": limits.max_body_bytes,
            "max_ids": limits.max_ids,
        },
        "timeout_ms": int(state.settings.request_timeout_seconds * 1000),
    }


def models(state: State, now: float) -> dict[str, Any]:
    """Which models are configured, and what is known of each."""
    return {
        "default_model": state.settings.default_model,
        "models": [_model(state, model, now) for model in state.models.values() if not model.is_removed],
    }


def _model(state: State, model: ModelState, now: float) -> dict[str, Any]:
    card, spec, footprint = model.card, model.spec, model.footprint
    error = _error_of(model)
    estimate = None
    if footprint is not None:
        estimate = {
            "declared": spec.estimate,
            "total_bytes": footprint.total_bytes,
            "template_bytes": footprint.template_bytes,
            "template_peak_bytes": footprint.template_peak_bytes,
            "worker_bytes": footprint.worker_bytes,
            "worker_peak_bytes": footprint.worker_peak_bytes,
            "device_bytes": footprint.device_bytes,
            "fork_server_bytes": state.fork_server_bytes if footprint.fork_server_bytes else 0,
        }
    return {
        "name": model.name,
        "source": spec.source,
        "state": state_of(model, now),
        "family": card.family if card else None,
        "dim": card.dim if card else None,
        "whole_dim": card.whole_dim(card.dim) if card else None,
        "dimensions": list(card.dimensions) if card else None,
        "max_tokens": card.max_tokens if card else None,
        "pooling": [mode.value for mode in card.pooling] if card else None,
        "normalize": card.normalize if card else None,
        "tasks": sorted(card.prompts) if card else None,
        "default_task": card.default_task if card else None,
        "revision": card.revision if card else None,
        "parameters": card.parameters if card else None,
        "licence": card.licence if card else None,
        "notes": list(card.notes) if card else None,
        "precision": model.facts.get("precision", spec.precision),
        "device": model.facts.get("device", device_of(state, spec)),
        "token_budget": spec.token_budget,
        "threads": threads_of(state, model),
        "workers": len(model.workers),
        "workers_min": spec.workers.min,
        "workers_max": spec.workers.max,
        "keep_alive_seconds": None if spec.stays_for_ever else spec.keep_alive_seconds,
        "pinned": spec.pinned,
        "estimate_bytes": footprint.total_bytes if footprint else None,
        "estimate": estimate,
        "error": error_to_map(error) if error else None,
    }


def _error_of(model: ModelState) -> EmbedDaemonError | None:
    """Why it does not serve, or why it does not serve the files that lie there now."""
    return model.watch.error if model.serving else model.error


def state_of(model: ModelState, now: float) -> str:
    """One word: ready, unloading, waiting (for memory), loading, quarantined, failed, available, unknown (not fetched).

    What failed stays failed until it is tried again and loads: a model that cannot be loaded is never "available".
    """
    if model.is_unloading or model.is_removed:
        return "unloading"
    if model.serving:
        return "ready"
    if model.is_wanted and now >= model.retry_at:
        return "waiting" if model.waiting is not None else "loading"
    if model.intensity.is_quarantined(now):
        return "quarantined"
    if model.error is not None:
        return "failed"
    return "available" if model.card is not None else "unknown"


def status(state: State, now: float) -> dict[str, Any]:
    """What is going on: requests, workers, memory."""
    counts = state.counts
    return {
        "instance": state.machine.instance,
        "version": state.machine.version,
        "pid": state.machine.pid,
        "uptime_seconds": now - state.machine.started_at,
        "draining": state.is_draining,
        "config": _config(state, now),
        "queued": sum(len(model.queue) for model in state.models.values()),
        "open": len(state.open),
        "requests": {
            "answered": counts["answered"],
            "failed": sum(count for key, count in counts.items() if key.startswith("failed.")),
            "expired": counts["expired"],
            "cancelled": counts["cancelled"],
            "refused": sum(count for key, count in counts.items() if key.startswith("refused.")),
        },
        "counts": dict(counts),
        "clients": state.clients(),
        "users": state.usage.document(now),
        "cache": {
            "limit_bytes": state.cache.limit_bytes,
            "used_bytes": state.cache.used_bytes,
            "entries": len(state.cache),
            "hits": state.cache.hits,
            "misses": state.cache.misses,
        },
        "models": [_model_status(model, now) for model in state.models.values()],
        "workers": [
            _worker(state, worker, now) for model in state.models.values() for worker in model.workers.values()
        ],
        "processes": processes(state, now),
        "memory": memory(state, now),
    }


def _config(state: State, now: float) -> dict[str, Any]:
    known = state.configuration
    return {
        "files": list(known.files),
        "age_seconds": now - (state.machine.started_at if known.read_at is None else known.read_at),
        "reloads": known.reloads,
        "error": None if known.error is None else error_to_map(known.error),
        "error_age_seconds": None if known.error is None or known.tried_at is None else now - known.tried_at,
        "restart_needed": dict(known.restart_needed),
    }


def _model_status(model: ModelState, now: float) -> dict[str, Any]:
    oldest, error = model.queue.oldest(), _error_of(model)
    return {
        "name": model.name,
        "state": state_of(model, now),
        "error": None if error is None else error_to_map(error),
        "queued": len(model.queue),
        "oldest_wait_seconds": 0.0 if oldest is None else now - oldest,
        "dispatch_bytes": model.pace.dispatch_bytes,
        "waiting_for": model.waiting.text() if model.waiting is not None else None,
        "loads": model.loads,
        "failures": model.failures,
        "deaths": dict(model.deaths),
        "retry_seconds": max(0.0, model.retry_at - now),
        "quarantine_seconds": max(0.0, model.intensity.quarantined_until - now),
        "suspected_texts": model.suspects.suspected,
        "poisoned_texts": len(model.suspects.convicted(now)),
        "idle_seconds": max(0.0, now - model.last_used),
    }


def _worker(state: State, worker: Worker, now: float) -> dict[str, Any]:
    child = state.child_of(worker)
    return {
        "worker": worker.slot,
        "incarnation": worker.incarnation,
        "model": worker.model,
        "state": worker.state.value,
        "pid": child.pid if child else None,
        "busy": bool(worker.dispatches),
        "in_flight": worker.in_flight,
        "progress": worker.progress,
        "threads": worker.threads,
        "private_bytes": worker.private_bytes,
        "lease_bytes": lease_of(state, child).bytes if child else 0,
        "idle_seconds": 0.0 if worker.dispatches else max(0.0, now - worker.idle_since),
    }
