"""A new configuration is put in force: settings at once, models added, removed, or made anew without a gap. Pure.

What changes is found by config/changes.py; files are read by configuration.py. A configuration that is wrong changes
nothing, and is told in the log, in ``status`` and to whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from embeddaemon.config.changes import WITHOUT_NEW_WORKERS, Changes, change_of
from embeddaemon.errors import ConfigError, UnknownModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.messages import Document
from embeddaemon.supervisor.changes.replacement import give_up_successor, keep_to, learn, replace_workers
from embeddaemon.supervisor.commands import LetIn, ReadSettings, Reply, SetLog
from embeddaemon.supervisor.events import CardFailed, CardRead, SettingsRead, SettingsWrong
from embeddaemon.supervisor.memory.learning import check_estimate
from embeddaemon.supervisor.memory.needs import warn_of_never
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.departures import drain, unload
from embeddaemon.supervisor.processes.staffing import staff
from embeddaemon.supervisor.requests.life import refuse, refuse_all
from embeddaemon.supervisor.state import State

_KEPT_BY_US = WITHOUT_NEW_WORKERS - {"estimate"}
"""What holds of those that serve already, while others are made."""


def read_again(state: State, asker: tuple[bytes, int] | None) -> None:
    """Have the files read again; ``asker`` is a client and the id of its request."""
    if state.is_draining:
        state.log("info", "configuration_not_read", why="the daemon is stopping")
        return
    state.commands.append(ReadSettings(state.settings, asker))


def settings_wrong(state: State, event: SettingsWrong, now: float) -> None:
    """The old ones stay in force."""
    state.configuration.error, state.configuration.tried_at = event.error, now
    state.log("error", "configuration_wrong", code=event.error.code, error=str(event.error))
    if event.asker is not None:
        refuse(state, *event.asker, event.error)


def settings_read(state: State, event: SettingsRead, now: float) -> None:
    """Put them in force, all or nothing."""
    changes = event.changes
    try:
        _check(state, changes, event.cards)
    except ConfigError as error:
        settings_wrong(state, SettingsWrong(error, event.asker), now)
        return
    if (changes.settings.log_format, changes.settings.log_level) != (
        state.settings.log_format,
        state.settings.log_level,
    ):
        state.commands.append(SetLog(changes.settings.log_format.value, changes.settings.log_level))
    state.settings = changes.settings
    state.commands.append(LetIn(event.access, changes.settings.per_user.connections))
    replaced = [*_add_all(state, changes.added, event.cards, now)]
    for name in changes.removed:
        remove(state, state.models[name], now)
    replaced += [change.spec.name for change in changes.changed if _change(state, change.spec, event.cards, now)]
    _try_again(state, now)
    known = state.configuration
    known.read_at = known.tried_at = now
    known.files, known.error, known.reloads = event.files, None, known.reloads + 1
    known.restart_needed = {kept.key: kept.reason for kept in changes.kept}
    _tell(state, changes, replaced, event.asker)
    warn_of_never(state)


def _check(state: State, changes: Changes, cards: Mapping[str, CardRead | CardFailed]) -> None:
    """Raises ConfigError for what no daemon would start with."""
    for read in cards.values():
        if isinstance(read, CardFailed) and isinstance(read.error, ConfigError):
            raise read.error
    for spec in (*changes.added, *(change.spec for change in changes.changed)):
        card = _card_of(state, spec, cards)
        if card is not None:
            check_estimate(state, spec, card)


def _card_of(state: State, spec: ModelSpec, cards: Mapping[str, CardRead | CardFailed]) -> ModelCard | None:
    """As it was read now, else as it is known."""
    match cards.get(spec.name):
        case CardRead(card=card):
            return card
        case CardFailed():
            return None
        case _:
            model = state.models.get(spec.name)
            return None if model is None or model.spec.source != spec.source else model.card


def _add_all(
    state: State, added: Sequence[ModelSpec], cards: Mapping[str, CardRead | CardFailed], now: float
) -> list[str]:
    """The names of those that were still there, on their way out, as something else."""
    replaced = []
    for spec in added:
        model = state.models.get(spec.name)
        if model is not None:
            if _change(state, spec, cards, now):
                replaced.append(spec.name)
            continue
        model = ModelState(spec=spec, number=state.next_model(), last_used=now)
        state.models[spec.name] = model
        _note(state, model, cards.get(spec.name))
        model.is_wanted = spec.preload
        staff(state, model, now)
    return replaced


def _note(state: State, model: ModelState, read: CardRead | CardFailed | None) -> None:
    match read:
        case CardRead():
            learn(state, model, read.card)
        case CardFailed():
            model.error = read.error
            state.log("error", "model_unusable", model=model.name, code=read.error.code, error=str(read.error))
        case _:
            pass


def _change(state: State, spec: ModelSpec, cards: Mapping[str, CardRead | CardFailed], now: float) -> bool:
    """Have a model become what it is configured to be; whether it gets new workers for that."""
    model = state.models[spec.name]
    watch, wants_preload = model.watch, spec.preload and (model.is_removed or not model.spec.preload)
    model.is_removed = False
    needs_workers = change_of(model.spec, spec).needs_workers
    if not needs_workers:
        # What loads was found to fit the estimate of before.
        is_otherwise = watch.spec is not None or spec.estimate != model.spec.estimate
        watch.spec = None
        if is_otherwise:
            give_up_successor(state, model, now)
        keep_to(state, model, spec)
        if is_otherwise and model.replace_waiters:
            replace_workers(state, model, now)
    else:
        is_begun = watch.spec is not None and watch.error is None and _is_made_alike(watch.spec, spec)
        watch.spec = spec
        model.spec = replace(model.spec, **{name: getattr(spec, name) for name in _KEPT_BY_US})
        if not is_begun:
            replace_workers(state, model, now)
        if model.spec is spec:
            _note(state, model, cards.get(spec.name))
    _send_surplus_away(state, model, now)
    if wants_preload and not model.serving:
        model.is_wanted, model.last_used = True, now
    staff(state, model, now)
    return needs_workers


def _is_made_alike(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether workers for one are workers for the other, and were found to fit."""
    return one.estimate == other.estimate and not change_of(one, other).needs_workers


def _send_surplus_away(state: State, model: ModelState, now: float) -> None:
    """Workers beyond the most that there may be now, those first that have least to do."""
    lasting = model.lasting
    surplus = len(lasting) - model.spec.workers.max
    for worker in sorted(lasting, key=lambda each: each.held_bytes)[: max(0, surplus)]:
        drain(state, worker, now)


def _try_again(state: State, now: float) -> None:
    """What could not be loaded after a change before this one may be mended now."""
    for model in state.models.values():
        watch = model.watch
        if watch.spec is not None and watch.error is not None and not watch.is_at_work:
            replace_workers(state, model, now)


def remove(state: State, model: ModelState, now: float) -> None:
    """It is not configured any more: nothing new is taken for it."""
    model.is_removed = True
    give_up_successor(state, model, now)
    refuse_all(state, model.replace_waiters, UnknownModel(f"model {model.name!r} was removed from the configuration"))
    retire(state, model, now)


def retire(state: State, model: ModelState, now: float) -> None:
    """A removed model goes when all is finished that was accepted for it, and is forgotten when it has gone."""
    if not model.is_removed or model.has_work:
        return
    if not model.is_unloading and not (model.is_absent and model.fetcher is None):
        unload(state, model, now)
    is_there = model.is_unloading or any(child.model == model.name for child in state.children.values())
    if is_there or any(model.waiters):
        return
    model.is_wanted = False
    del state.models[model.name]
    state.log("info", "model_removed", model=model.name)


def _tell(state: State, changes: Changes, replaced: Sequence[str], asker: tuple[bytes, int] | None) -> None:
    adjusted = [change.spec.name for change in changes.changed if change.spec.name not in replaced]
    keys = [*changes.at_once, *(key for change in changes.changed for key in change.keys)]
    state.log(
        "info",
        "configuration_read",
        files=",".join(state.configuration.files),
        added=",".join(spec.name for spec in changes.added),
        removed=",".join(changes.removed),
        replaced=",".join(replaced),
        changed=",".join(keys),
    )
    for kept in changes.kept:
        state.log("warning", "restart_needed", key=kept.key, why=kept.reason)
    if asker is None:
        return
    document = {
        "files": list(state.configuration.files),
        "added": [spec.name for spec in changes.added],
        "removed": list(changes.removed),
        "replaced": list(replaced),
        "adjusted": adjusted,
        "changed": keys,
        "restart_needed": dict(state.configuration.restart_needed),
    }
    state.commands.append(Reply(asker[0], Document(id=asker[1]), document))
