"""What clients say: each operation to what follows from it. Refusals are answers. Pure."""

from __future__ import annotations

from typing import assert_never

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol.error_codec import error_answer
from embeddaemon.protocol.messages import (
    Cancel,
    Document,
    Embed,
    Health,
    Hello,
    Load,
    Models,
    Reload,
    Status,
    Tokenize,
    Unload,
)
from embeddaemon.supervisor import documents
from embeddaemon.supervisor.changes.reconfiguration import read_again
from embeddaemon.supervisor.changes.replacement import by_hand
from embeddaemon.supervisor.commands import Reply
from embeddaemon.supervisor.events import (
    ClientEvent,
    ClientGone,
    RequestMalformed,
    RequestReceived,
)
from embeddaemon.supervisor.model_state import ModelState, Waiter
from embeddaemon.supervisor.processes.departures import unload
from embeddaemon.supervisor.processes.staffing import staff
from embeddaemon.supervisor.requests import admission
from embeddaemon.supervisor.requests.life import accept, pump, refuse
from embeddaemon.supervisor.requests.withdrawals import cancel, client_gone
from embeddaemon.supervisor.sickness import checkups
from embeddaemon.supervisor.sickness.blame import acquit
from embeddaemon.supervisor.state import State


def client_event(state: State, event: ClientEvent, now: float) -> None:
    """What a client sent, or that it went. Everything that is wrong with a request is its own answer."""
    if isinstance(event, RequestMalformed):
        state.counts["malformed"] += 1
        refuse(state, event.client, event.id, event.error)
        return
    if isinstance(event, ClientGone):
        client_gone(state, event.client)
        checkups.client_gone(state, event.client)
        return
    try:
        _request(state, event, now)
    except EmbedDaemonError as error:
        if isinstance(event.request, Health):  # however it is answered, it does not count as a request
            state.commands.append(Reply(event.client, error_answer(event.request.id, error)))
        else:
            refuse(state, event.client, event.request.id, error)


def _request(state: State, event: RequestReceived, now: float) -> None:
    request = event.request
    match request:
        case Embed() | Tokenize():
            model = accept(state, event, now)
            if model is None:
                return
            if not model.serving:
                staff(state, model, now)
            pump(state, model, now)
        case Hello():
            state.commands.append(Reply(event.client, Document(id=request.id), documents.hello(state)))
        case Models():
            state.commands.append(Reply(event.client, Document(id=request.id), documents.models(state, now)))
        case Status():
            state.commands.append(Reply(event.client, Document(id=request.id), documents.status(state, now)))
        case Health():
            checkups.ask(state, event, request, now)
        case Load() | Unload():
            _load_or_unload(state, event, request, now)
        case Reload():
            admission.check_admin(event, request)
            admission.check_open(state)
            read_again(state, (event.client, request.id))
        case Cancel():
            document = {"cancelled": cancel(state, event.client, request.ids)}
            state.commands.append(Reply(event.client, Document(id=request.id), document))
        case _:
            assert_never(request)


def _load_or_unload(state: State, event: RequestReceived, request: Load | Unload, now: float) -> None:
    admission.check_admin(event, request)
    admission.check_open(state)
    model = admission.model_of(state, request.model)
    waiter = Waiter(
        client=event.client,
        id=request.id,
        since=now,
        deadline=admission.deadline_of(state, request.deadline_ms, now),
    )
    if isinstance(request, Load) and request.force:
        acquit(state, model, now)
    if isinstance(request, Load) and request.force and model.serving and not model.is_unloading:
        by_hand(state, model, waiter, now)
    elif isinstance(request, Load):
        _load(state, model, waiter, now)
    else:
        _unload(state, model, waiter, now)


def _load(state: State, model: ModelState, waiter: Waiter, now: float) -> None:
    if model.intensity.is_quarantined(now) and (refusal := admission.refusal_of(model, now)) is not None:
        raise refusal
    model.last_used = now
    if model.serving:
        document = {"model": model.name, "state": "ready", "seconds": 0.0}
        state.commands.append(Reply(waiter.client, Document(id=waiter.id), document))
        return
    # Asked for by hand: whatever went wrong before, it is tried now.
    state.fork_server_retry_at = now
    if not model.intensity.is_quarantined(now):
        model.retry_at = now
    model.load_waiters.append(waiter)
    staff(state, model, now)


def _unload(state: State, model: ModelState, waiter: Waiter, now: float) -> None:
    if model.is_absent and model.fetcher is None and not model.is_unloading:
        unload(state, model, now)
        document = {"model": model.name, "state": "available"}
        state.commands.append(Reply(waiter.client, Document(id=waiter.id), document))
        staff(state, model, now)  # work that waits brings it back
        return
    model.unload_waiters.append(waiter)
    unload(state, model, now)
