"""The decider: an event and the time in, commands out. No clock, no socket, no process in here. Pure.

This file says which event leads where; what follows is in requests/ (what clients said), processes/ (what should live,
what became ready or died), memory/, sickness/ and changes/, in housekeeping.py (what time brings) and stopping.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, assert_never

from embeddaemon.config.settings import Settings
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.governor.core import Governor
from embeddaemon.governor.learned import Learned
from embeddaemon.governor.samples import Observation
from embeddaemon.protocol import control
from embeddaemon.supervisor.changes.reconfiguration import read_again, settings_read, settings_wrong
from embeddaemon.supervisor.changes.reload import check_queue, files_seen, reload_failed, successor_read
from embeddaemon.supervisor.changes.replacement import learn
from embeddaemon.supervisor.commands import Command, TakeSample
from embeddaemon.supervisor.events import (
    CardEvent,
    CardFailed,
    CardRead,
    ChildReaped,
    ClientGone,
    ControlLost,
    DrainRequested,
    Event,
    FilesSeen,
    ForkerSaid,
    JournalRead,
    KernelKilled,
    ProcessEvent,
    ReloadRequested,
    RequestMalformed,
    RequestReceived,
    SampleTaken,
    SettingsRead,
    SettingsWrong,
    StallNoticed,
    StartFailed,
    TimePassed,
    WorkerSaid,
)
from embeddaemon.supervisor.housekeeping import HOUSEKEEPING_SECONDS, is_anything_alive, look_after
from embeddaemon.supervisor.memory.leases import lease_cache
from embeddaemon.supervisor.memory.needs import fork_server_bytes, warn_of_never
from embeddaemon.supervisor.memory.relief import relieve
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.arrivals import forked, forker_said, worker_said
from embeddaemon.supervisor.processes.endings import child_ended, control_lost, load_failed
from embeddaemon.supervisor.processes.staffing import staff, staff_all
from embeddaemon.supervisor.requests.cache import CACHE, Cache
from embeddaemon.supervisor.requests.entry import client_event
from embeddaemon.supervisor.requests.life import expire
from embeddaemon.supervisor.sickness import checkups
from embeddaemon.supervisor.state import Machine, State
from embeddaemon.supervisor.stopping import advance_stop, drain_requested
from embeddaemon.supervisor.surroundings.announcements import status_line
from embeddaemon.supervisor.timers import HOUSEKEEPING


class Supervisor:
    """The daemon's mind. ``random`` gives floats in [0, 1), for jitter; ``learned`` is what a life before measured."""

    def __init__(
        self,
        settings: Settings,
        machine: Machine,
        governor: Governor,
        random: Callable[[], float],
        learned: Learned | None = None,
    ) -> None:
        learned = Learned(machine.version) if learned is None else learned
        self._state = State(
            settings=settings,
            machine=machine,
            governor=governor,
            random=random,
            models={},
            cache=Cache(settings.cache_bytes),
            learned=learned,
            fork_server_bytes=fork_server_bytes(learned),
        )
        for spec in settings.models:
            self._state.models[spec.name] = ModelState(spec=spec, number=self._state.next_model())
        self._is_watching = False

    def learn_card(self, card_read: CardRead) -> None:
        """Before the start: what a folder says. Raises ConfigError when the declared estimate cannot hold the model."""
        learn(self._state, self._state.models[card_read.model], card_read.card)

    def learn_error(self, card_failed: CardFailed) -> None:
        """Before the start: what is wrong with a folder. It is read again by the first request."""
        self._state.models[card_failed.model].error = card_failed.error

    def learn_files(self, files: tuple[str, ...]) -> None:
        """Before the start: which files the settings came from, for ``status``."""
        self._state.configuration.files = files

    def learn_hard_limits(self, kind: str) -> None:
        """Before the start: what stops a worker that allocates without bound, for ``status``."""
        self._state.hard_limits = kind

    def learn_clients(self, document: Callable[[], Mapping[str, Any]]) -> None:
        """Before the start: who is connected, for ``status``."""
        self._state.clients = document

    def start(self, now: float) -> list[Command]:
        """Bring up what is to be there before anybody asks. Raises ConfigError when the cache is too large."""
        lease_cache(self._state, now)
        warn_of_never(self._state)
        for model in self._state.models.values():
            model.is_wanted = model.spec.preload
            model.last_used = now
        staff_all(self._state, now)
        return self._leave(now)

    def next_due(self) -> float | None:
        """When ``TimePassed`` is due next, monotonic; None: not before another event."""
        return self._state.timers.next_due()

    def status_line(self, now: float) -> str:
        """What we are doing, in one line for the service manager."""
        return status_line(self._state, now)

    def handle(self, event: Event, now: float) -> list[Command]:
        """One event to the commands that follow from it."""
        match event:
            case RequestReceived() | RequestMalformed() | ClientGone():
                client_event(self._state, event, now)
            case WorkerSaid() | ForkerSaid() | ControlLost() | KernelKilled() | JournalRead():
                self._process_event(event, now)
            case ChildReaped() | StartFailed():
                self._process_event(event, now)
            case TimePassed():
                self._time_passed(now)
            case CardRead() | CardFailed() | FilesSeen():
                self._card_event(event, now)
            case SampleTaken():
                self._state.governor.measured(CACHE, self._state.cache.used_bytes)
                self._sampled(event.observation, now)
            case ReloadRequested():
                read_again(self._state, None)
            case SettingsRead():
                settings_read(self._state, event, now)
            case SettingsWrong():
                settings_wrong(self._state, event, now)
            case StallNoticed():
                self._state.commands.append(TakeSample())
            case DrainRequested():
                drain_requested(self._state, event.reason, now)
            case _:
                assert_never(event)
        return self._leave(now)

    def _leave(self, now: float) -> list[Command]:
        """Hand over the commands; keep looking while there is anything to look after."""
        state = self._state
        if state.askers or state.checkups:
            checkups.advance(state, now)
        advance_stop(state, now)
        if not self._is_watching and not state.is_over and (is_anything_alive(state) or state.is_draining):
            state.timers.add(now + HOUSEKEEPING_SECONDS, HOUSEKEEPING)
            state.looked_at = now
            self._is_watching = True
        if len(state.timers) > 4 * len(state.open) + 1024:
            state.timers.forget_all_but(state.open)
        commands, state.commands = state.commands, []
        return commands

    def _sampled(self, observation: Observation, now: float) -> None:
        # The cache is part of our own memory, and leased by itself.
        own_bytes = max(0, observation.own_bytes - self._state.cache.used_bytes)
        self._state.governor.observe(replace(observation, own_bytes=own_bytes), now)
        relieve(self._state, now)
        staff_all(self._state, now)

    def _process_event(self, event: ProcessEvent, now: float) -> None:
        state = self._state
        match event:
            case WorkerSaid():
                if not checkups.answered(state, event, now):
                    worker_said(state, event, now)
            case ForkerSaid():
                self._forker_said(event, now)
            case ChildReaped():
                child_ended(state, event.child, event.exit_code, now, orphan=event.orphan)
            case ControlLost():
                if (child := state.children.get(event.child)) is not None:
                    control_lost(state, child, now)
            case KernelKilled() | JournalRead():
                if (child := state.children.get(event.child)) is not None:
                    child.learn_of_end(event)
            case StartFailed():
                if (child := state.children.get(event.child)) is not None:
                    child.load_error = event.error
                    child_ended(state, event.child, control.EXIT_LOAD_FAILED, now)
            case _:
                assert_never(event)

    def _forker_said(self, event: ForkerSaid, now: float) -> None:
        state, message = self._state, event.message
        child = state.children.get(event.child)
        match message:
            case control.Exited():
                child_ended(state, message.child, message.exit_code, now)
            case control.Forked():
                forked(state, message, now)
            case _ if child is not None:
                forker_said(state, child, message, now)
            case _:
                state.counts["stale_messages"] += 1

    def _card_event(self, event: CardEvent, now: float) -> None:
        state, model = self._state, self._state.models.get(event.model)
        if model is None:
            return  # removed meanwhile
        match event:
            case FilesSeen():
                files_seen(state, event, now)
            case CardRead(is_successor=True):
                successor_read(state, model, event.card, now)
            case CardFailed(is_successor=True):
                reload_failed(state, model, event.error)
            case CardRead():
                self._card_read(event, model, now)
            case CardFailed():
                model.is_reading = False
                load_failed(state, model, event.error, now)
            case _:
                assert_never(event)

    def _card_read(self, event: CardRead, model: ModelState, now: float) -> None:
        model.is_reading, model.is_card_fresh = False, True
        try:
            learn(self._state, model, event.card)
        except EmbedDaemonError as error:
            load_failed(self._state, model, error, now)
            return
        check_queue(self._state, model)  # what could not be checked before the model was known
        staff(self._state, model, now)

    def _time_passed(self, now: float) -> None:
        for key in self._state.timers.pop_due(now):
            if key == HOUSEKEEPING:
                self._is_watching = False
                look_after(self._state, now)
            else:
                expire(self._state, key, now)
