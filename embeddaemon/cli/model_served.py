"""A model as the running daemon has it, for ``models show``: its document of models, one line for each thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from embeddaemon.cli.console import count
from embeddaemon.client.results import ModelInfo
from embeddaemon.client.sync import Client
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.budget import format_bytes

_PATIENCE_SECONDS = 2.0
"""A daemon that does not say at once what it serves is passed over."""


def served_model(name: str, endpoint: str | None) -> tuple[str, ModelInfo] | None:
    """The daemon's endpoint and what it says of the model; None where nobody answers, or it has no such model."""
    try:
        with Client(endpoint, timeout=_PATIENCE_SECONDS) as client:
            models: Sequence[ModelInfo] = client.models()
            found = next((model for model in models if model.name == name), None)
            return None if found is None else (client.endpoint, found)
    except (EmbedDaemonError, OSError):
        return None


def document_of(endpoint: str, model: ModelInfo) -> dict[str, Any]:
    """For programs: the daemon's own fields."""
    return {**asdict(model), "is_configured": True, "endpoint": endpoint, "can_be_served": model.error is None}


def lines_of(endpoint: str, model: ModelInfo) -> Iterator[tuple[str, str]]:
    """Labels and what is said; what the daemon does not know yet is left out."""
    yield "model", model.name
    yield "daemon", f"{endpoint}, {model.state}"
    yield "source", model.source or "not known"
    if model.family:
        yield "family", model.family
    if model.dimension:
        others = " ".join(str(size) for size in model.dimensions if size != model.dimension)
        yield "dimensions", f"{model.dimension}{', or ' if others else ''}{others}"
    if model.max_tokens:
        yield "longest text", f"{model.max_tokens} tokens"
    if model.pooling:
        yield "pooling", " and ".join(model.pooling)
    if model.normalize is not None:
        yield "unit length", unit_length(normalizes=model.normalize)
    yield "tasks", " ".join(model.tasks) or "none"
    if model.default_task:
        yield "default task", model.default_task
    yield "licence", model.licence or "not known"
    yield "parameters", count(model.parameters)
    if model.workers:
        yield "computed", f"in {model.precision} on {model.device} by {model.workers} worker(s)"
    if model.estimate_bytes:
        yield "memory", f"each worker {format_bytes(model.estimate_bytes)}"
    for note in model.notes:
        yield "note", note
    yield "served", f"no: {model.error}" if model.error else "yes"


def unit_length(*, normalizes: bool) -> str:
    """Who makes vectors as long as 1."""
    return "by itself" if normalizes else "when a request asks for it, as it does unless told otherwise"
