"""Whether a request may enter: checked before any work, in a fixed order, each refusal its own error. Pure."""

from __future__ import annotations

from embeddaemon.errors import (
    BackingOff,
    Busy,
    Draining,
    EmbedDaemonError,
    Expired,
    Forbidden,
    InputTooLarge,
    NoHeadroom,
    ProtocolError,
    Quarantined,
    UnknownModel,
    error_for,
)
from embeddaemon.governor.core import Never, Wait
from embeddaemon.models.card import ModelCard
from embeddaemon.models.nearest import hint
from embeddaemon.models.offers import check_dimensions, check_precision, check_prompt, check_task
from embeddaemon.protocol.messages import Load, ModelRequest, Reload, Unload
from embeddaemon.supervisor.connections.quotas import quota_of
from embeddaemon.supervisor.events import RequestReceived
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.state import State


def model_of(state: State, name: str | None) -> ModelState:
    """The configured model that a request names, or the default. Raises UnknownModel with the list."""
    wanted = state.settings.default_model if name is None else name
    model = state.models.get(wanted)
    if model is None or model.is_removed:
        known = sorted(name for name, each in state.models.items() if not each.is_removed)
        raise UnknownModel(f"unknown model {wanted!r}; {hint(wanted, known)}", details={"known": known})
    return model


def deadline_of(state: State, deadline_ms: int | None, now: float) -> float:
    """The monotonic deadline of a request. Raises Expired for one in the past."""
    if deadline_ms is None:
        return now + state.settings.request_timeout_seconds
    if deadline_ms <= 0:
        raise Expired(
            f"the deadline had passed by {-deadline_ms} ms when the request arrived", details={"waited_for": "arrival"}
        )
    return now + deadline_ms / 1000


def check_admin(event: RequestReceived, request: Load | Unload | Reload) -> None:
    """Raises Forbidden unless the daemon's own user or root asks."""
    if not event.is_admin:
        what = "the configuration" if isinstance(request, Reload) else "a model"
        raise Forbidden(f"only the daemon's own user or root may {type(request).__name__.lower()} {what}")


def check_open(state: State) -> None:
    """Raises Draining when nothing new is taken."""
    if state.is_draining:
        raise Draining("the daemon is stopping and takes no new requests", retry_after_ms=1000)


def check_request(state: State, model: ModelState, event: RequestReceived) -> None:
    """What is wrong with an embed or tokenize request, as far as it can be known without decoding its body."""
    assert isinstance(event.request, ModelRequest)
    if (event.client, event.request.id) in state.ids:
        raise ProtocolError(f"id {event.request.id} is in use by a request of yours that has not ended")
    limit = state.settings.limits.max_body_bytes
    if event.body_bytes > limit:
        raise InputTooLarge(
            f"the body has {event.body_bytes} bytes, the limit is {limit}",
            details={"bytes": event.body_bytes, "limit": limit},
        )
    check_offers(model.card, event.request)


def check_room(state: State, model: ModelState, event: RequestReceived, now: float) -> None:
    """Whether the model can be asked now. Raises what a client should know instead of waiting."""
    if (refusal := refusal_of(model, now)) is not None:
        raise refusal
    check_queue(state, model, event.body_bytes)


def check_user(state: State, model: ModelState, event: RequestReceived, now: float) -> None:
    """Raises Busy when the user has enough in flight, or has made enough models load. A load is noted."""
    quota = quota_of(state.settings.per_user, is_admin=event.is_admin)
    state.usage.check(event.user, event.body_bytes, quota)
    if not model.is_wanted and model.is_absent:
        state.usage.check_load(event.user, quota, now)
        state.usage.loaded(event.user, now)


def check_offers(card: ModelCard | None, request: ModelRequest) -> None:
    """The request's options against the model. What is left open here, the worker checks."""
    check_precision(request)
    check_prompt(request)
    if card is None:
        return
    check_task(request, card)
    check_dimensions(request, card)


def refusal_of(model: ModelState, now: float) -> EmbedDaemonError | None:
    """The error of a model that is not being started for a while; None when it may be tried."""
    cause = model.error
    if now >= model.retry_at or model.workers or cause is None:
        return None
    retry_after_ms = max(1, int((model.retry_at - now) * 1000))
    if model.intensity.is_quarantined(now):
        return Quarantined(
            f"model {model.name!r} failed too often and is in quarantine for another {retry_after_ms / 1000:.1f} s",
            cause=cause.cause,
            retry_after_ms=retry_after_ms,
        )
    if cause.code in ("load_failed", "worker_crashed"):
        return BackingOff(
            f"model {model.name!r} failed {model.failures} times and is started again in {retry_after_ms} ms",
            cause=(str(cause),),
            retry_after_ms=retry_after_ms,
        )
    return error_for(cause.code, cause.message, details=cause.details, cause=cause.cause, retry_after_ms=retry_after_ms)


def check_queue(state: State, model: ModelState, body_bytes: int) -> None:
    """Raises Busy when the queue is full, by requests of this model or by bytes of all."""
    waiting = len(model.queue)
    if waiting >= state.settings.max_queued_requests:
        raise Busy(
            f"{waiting} requests wait for model {model.name!r}, the most allowed",
            retry_after_ms=250,
            details={"queued": waiting, "limit": state.settings.max_queued_requests},
        )
    waiting_bytes = sum(each.queue.waiting_bytes for each in state.models.values())
    limit = most_queued_bytes(state)
    if waiting_bytes + body_bytes > limit:
        raise Busy(
            f"requests of {waiting_bytes} bytes wait, the limit is {limit}",
            retry_after_ms=250,
            details={"queued_bytes": waiting_bytes, "limit": limit},
        )


def most_queued_bytes(state: State) -> int:
    """As configured, but no more than half of the reserve, which is where waiting bodies live; one always may."""
    reserve_bytes = state.governor.budget.reserve_bytes
    return min(state.settings.max_queued_bytes, max(reserve_bytes // 2, state.settings.limits.max_body_bytes))


def no_headroom(model: ModelState, answer: Never | Wait) -> NoHeadroom:
    """The governor's answer as the error that a client gets, with its numbers."""
    return NoHeadroom(
        f"no memory for model {model.name!r}: {answer.text()}",
        details={
            "needed_bytes": answer.needed_bytes,
            "available_bytes": answer.available_bytes,
            "limit_bytes": answer.limit_bytes,
            "limit_source": answer.source,
            "device": answer.device,
        },
    )


def expiry_of(model: ModelState, *, is_dispatched: bool) -> Expired:
    """What a request was waiting for when its deadline passed."""
    if is_dispatched:
        return Expired("the deadline passed while a worker held the request", details={"waited_for": "worker"})
    if model.serving:
        return Expired("the deadline passed in the queue", details={"waited_for": "queue"})
    if model.waiting is not None:
        error = no_headroom(model, model.waiting)
        return Expired(
            f"the deadline passed while waiting for memory: {error.message}",
            details={**error.details, "waited_for": "memory"},
        )
    return Expired(
        f"the deadline passed while model {model.name!r} was loading",
        details={"waited_for": "load"},
        cause=() if model.error is None else (str(model.error),),
    )
