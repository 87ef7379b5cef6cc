"""The decider: an event and the time in, commands out. No clock, no socket, no process in here. Pure.

This file says which event leads where; what follows is in requests.py (requests), staffing.py (what should live),
endings.py (what became ready or died) and housekeeping.py (what time brings).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from embeddaemon.config.settings import Settings
from embeddaemon.errors import Draining, EmbedDaemonError
from embeddaemon.governor.core import Governor
from embeddaemon.protocol import control, link
from embeddaemon.protocol.codec import error_from_map
from embeddaemon.protocol.messages import Document, Embed, Hello, Load, Models, Status, Tokenize, Unload
from embeddaemon.supervisor import admission, documents
from embeddaemon.supervisor.commands import Command, Exit, Reply
from embeddaemon.supervisor.endings import (
    child_ended,
    control_lost,
    fork_server_ready,
    load_failed,
    template_ready,
    worker_ready,
)
from embeddaemon.supervisor.events import (
    CardFailed,
    CardRead,
    ChildReaped,
    ControlLost,
    DrainRequested,
    Event,
    ForkerSaid,
    RequestMalformed,
    RequestReceived,
    SampleTaken,
    StartFailed,
    TimePassed,
    WorkerSaid,
)
from embeddaemon.supervisor.housekeeping import HOUSEKEEPING_SECONDS, is_anything_alive, look_after
from embeddaemon.supervisor.lifecycle import DeathClass, Worker, WorkerState
from embeddaemon.supervisor.requests import accept, end_with_error, end_with_result, expire, pump, refuse
from embeddaemon.supervisor.staffing import card_learned, drain, end_child, find_worker, staff, staff_all, unload
from embeddaemon.supervisor.state import Child, ChildKind, Machine, ModelState, State, Waiter
from embeddaemon.supervisor.timers import HOUSEKEEPING

STOP_SECONDS = 3.0
"""Between telling the processes to go and giving up on those that do not: idle workers go in milliseconds."""


class Supervisor:
    """The daemon's mind. ``random`` gives floats in [0, 1), for jitter."""

    def __init__(self, settings: Settings, machine: Machine, governor: Governor, random: Callable[[], float]) -> None:
        models = {spec.name: ModelState(spec=spec) for spec in settings.models}
        self._state = State(settings=settings, machine=machine, governor=governor, random=random, models=models)
        self._is_watching = False

    def learn_card(self, card_read: CardRead) -> None:
        """Before the start: what a folder says. Raises ConfigError when the declared estimate cannot hold the model."""
        card_learned(self._state, self._state.models[card_read.model], card_read.card)

    def start(self, now: float) -> list[Command]:
        """Bring up what is to be there before anybody asks."""
        for model in self._state.models.values():
            model.is_wanted = model.spec.preload
        staff_all(self._state, now)
        return self._leave(now)

    def next_due(self) -> float | None:
        """When ``TimePassed`` is due next, monotonic; None: not before another event."""
        return self._state.timers.next_due()

    def handle(self, event: Event, now: float) -> list[Command]:
        """One event to the commands that follow from it."""
        state = self._state
        match event:
            case WorkerSaid():
                self._worker_said(event, now)
            case RequestReceived():
                self._request_received(event, now)
            case TimePassed():
                self._time_passed(now)
            case ForkerSaid():
                self._forker_said(event, now)
            case ChildReaped():
                child_ended(state, event.child, event.exit_code, now, orphan=event.orphan)
            case ControlLost():
                if (child := state.children.get(event.child)) is not None:
                    control_lost(state, child, now)
                    staff_all(state, now)
            case StartFailed():
                if (child := state.children.get(event.child)) is not None:
                    child.load_error = event.error
                    child_ended(state, event.child, control.EXIT_LOAD_FAILED, now)
            case CardRead():
                self._card_read(event, now)
            case CardFailed():
                state.models[event.model].is_reading = False
                load_failed(state, state.models[event.model], event.error, now)
            case SampleTaken():
                self._sample_taken(event, now)
            case RequestMalformed():
                state.counts["malformed"] += 1
                refuse(state, event.client, event.id, event.error)
            case DrainRequested():
                self._drain_requested(event, now)
            case _:
                assert_never(event)
        return self._leave(now)

    def _leave(self, now: float) -> list[Command]:
        """Hand over the commands; keep looking while there is anything to look after."""
        state = self._state
        if state.is_draining:
            self._advance_stop(now)
        if not self._is_watching and (is_anything_alive(state) or state.is_draining):
            state.timers.add(now + HOUSEKEEPING_SECONDS, HOUSEKEEPING)
            self._is_watching = True
        if len(state.timers) > 4 * len(state.open) + 1024:
            state.timers.forget_all_but(state.open)
        commands, state.commands = state.commands, []
        return commands

    def _request_received(self, event: RequestReceived, now: float) -> None:
        state, request = self._state, event.request
        try:
            match request:
                case Embed() | Tokenize():
                    model = accept(state, event, now)
                    if not model.serving:
                        staff(state, model, now)
                    pump(state, model, now)
                case Hello():
                    state.commands.append(Reply(event.client, Document(id=request.id), documents.hello(state)))
                case Models():
                    state.commands.append(Reply(event.client, Document(id=request.id), documents.models(state, now)))
                case Status():
                    state.commands.append(Reply(event.client, Document(id=request.id), documents.status(state, now)))
                case Load() | Unload():
                    self._load_or_unload(event, request, now)
                case _:
                    assert_never(request)
        except EmbedDaemonError as error:
            refuse(state, event.client, request.id, error)

    def _load_or_unload(self, event: RequestReceived, request: Load | Unload, now: float) -> None:
        state = self._state
        admission.check_admin(event, request)
        admission.check_open(state)
        model = admission.model_of(state, request.model)
        waiter = Waiter(
            client=event.client,
            id=request.id,
            since=now,
            deadline=admission.deadline_of(state, request.deadline_ms, now),
        )
        if isinstance(request, Load):
            self._load(model, waiter, now)
        else:
            self._unload(model, waiter, now)

    def _load(self, model: ModelState, waiter: Waiter, now: float) -> None:
        model.last_used = now
        if model.serving and not model.is_unloading:
            document = {"model": model.name, "state": "ready", "seconds": 0.0}
            self._state.commands.append(Reply(waiter.client, Document(id=waiter.id), document))
            return
        # Asked for by hand: whatever went wrong before, it is tried now.
        model.retry_at = self._state.fork_server_retry_at = now
        model.load_waiters.append(waiter)
        staff(self._state, model, now)

    def _unload(self, model: ModelState, waiter: Waiter, now: float) -> None:
        if model.is_absent:
            model.is_wanted = bool(model.queue)
            document = {"model": model.name, "state": "available"}
            self._state.commands.append(Reply(waiter.client, Document(id=waiter.id), document))
            return
        model.unload_waiters.append(waiter)
        unload(self._state, model, now, wanted=False)

    def _worker_said(self, event: WorkerSaid, now: float) -> None:
        state, message = self._state, event.message
        worker = find_worker(state, message.worker, message.incarnation)
        if worker is None:
            state.counts["stale_messages"] += 1
            return
        worker.heard_at = now
        model = state.models[worker.model]
        match message:
            case link.Result():
                end_with_result(state, worker, message, event.frames, now)
                pump(state, model, now)
            case link.Heartbeat():
                self._heartbeat(worker, message)
            case link.Ready():
                worker_ready(state, worker, message, now)
                staff(state, model, now)
            case link.LoadFailed():
                state.children[worker.child].load_error = error_from_map(message.error)
            case link.Drained():
                state.log("debug", "drained", worker=worker.label)
            case _:
                assert_never(message)

    def _heartbeat(self, worker: Worker, message: link.Heartbeat) -> None:
        worker.progress = max(worker.progress, message.progress)
        if message.private_bytes:
            worker.private_bytes = message.private_bytes
            self._state.governor.measured(self._state.children[worker.child].holder, message.private_bytes)

    def _forker_said(self, event: ForkerSaid, now: float) -> None:
        state, message = self._state, event.message
        child = state.children.get(event.child)
        match message:
            case control.Exited():
                child_ended(state, message.child, message.exit_code, now)
            case control.Forked():
                self._forked(message, now)
            case _ if child is None:
                return
            case control.ForkServerReady():
                fork_server_ready(state, child, message, now)
            case control.TemplateReady():
                template_ready(state, child, message, now)
            case control.LoadFailed():
                child.load_error = error_from_map(message.error)
            case control.Fetched():
                self._fetched(child, message, now)
            case _:
                state.log("error", "unexpected_control_message", child=event.child, message=type(message).__name__)

    def _forked(self, message: control.Forked, now: float) -> None:
        child = self._state.children.get(message.child)
        if child is None:
            return
        child.pid = message.pid
        if child.ending is not None:
            end_child(self._state, child.number, child.ending)
        elif child.slot is not None and child.model is not None:
            worker = self._state.models[child.model].workers.get(child.slot)
            if worker is not None and worker.child == child.number and worker.state is WorkerState.STARTING:
                worker.becomes(WorkerState.LOADING, now)

    def _fetched(self, child: Child, message: control.Fetched, now: float) -> None:
        assert child.kind is ChildKind.FETCHER
        model = self._state.models[child.model or ""]
        model.folder = message.folder
        self._state.log(
            "info", "fetched", model=model.name, folder=message.folder, seconds=round(now - child.started_at, 1)
        )

    def _card_read(self, event: CardRead, now: float) -> None:
        model = self._state.models[event.model]
        model.is_reading = False
        try:
            card_learned(self._state, model, event.card)
        except EmbedDaemonError as error:
            load_failed(self._state, model, error, now)
            return
        for entry in list(model.queue):
            # What could not be checked before the model was known.
            try:
                admission.check_options(model.card, entry.request)
            except EmbedDaemonError as error:
                end_with_error(self._state, entry, error)
        staff(self._state, model, now)

    def _time_passed(self, now: float) -> None:
        for key in self._state.timers.pop_due(now):
            if key == HOUSEKEEPING:
                self._is_watching = False
                look_after(self._state, now)
            else:
                expire(self._state, key, now)

    def _sample_taken(self, event: SampleTaken, now: float) -> None:
        self._state.governor.observe(event.sample)
        if any(model.waiting is not None for model in self._state.models.values()):
            staff_all(self._state, now)

    def _drain_requested(self, event: DrainRequested, now: float) -> None:
        state = self._state
        if state.is_draining:
            state.drain_deadline = now
            state.stop_deadline = now if state.stop_deadline is not None else None
            return
        state.drain_deadline = now + state.settings.drain_seconds
        state.log("info", "draining", reason=event.reason, open=len(state.open))

    def _advance_stop(self, now: float) -> None:
        """From draining to gone: requests end, workers drain, the rest is killed, everything is reaped, exit."""
        state = self._state
        assert state.drain_deadline is not None
        if state.is_over:
            return
        if state.stop_deadline is None and (not state.open or now >= state.drain_deadline):
            for entry in list(state.open.values()):
                end_with_error(state, entry, Draining("the daemon stopped before the request could finish"))
            self._tell_all_to_go(now)
        if state.stop_deadline is not None:
            if not any(model.workers for model in state.models.values()) or now >= state.stop_deadline:
                for child in [each for each in state.children.values() if each.ending is None]:
                    end_child(state, child.number, DeathClass.STOPPED)
            if not state.children or now >= state.stop_deadline + STOP_SECONDS:
                state.is_over = True
                state.log("info", "stopped", unreaped=len(state.children))
                state.commands.append(Exit(0))

    def _tell_all_to_go(self, now: float) -> None:
        state = self._state
        state.stop_deadline = now + STOP_SECONDS
        for model in state.models.values():
            model.is_wanted = False
            for waiter in [*model.load_waiters, *model.unload_waiters]:
                refuse(state, waiter.client, waiter.id, Draining("the daemon is stopping"))
            model.load_waiters.clear()
            model.unload_waiters.clear()
            for worker in list(model.workers.values()):
                drain(state, worker, now)
