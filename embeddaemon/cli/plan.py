"""``plan``: would these models fit, and what would be evicted. Starts nothing, asks no daemon, imports no torch."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import click

from embeddaemon.cli.console import Exit, put, put_json, put_table, say, show_error
from embeddaemon.cli.model_checks import Checked, check_models
from embeddaemon.cli.serve import refuse_client_install
from embeddaemon.config.flags import Flags
from embeddaemon.config.loading import load
from embeddaemon.config.settings import Settings
from embeddaemon.errors import ConfigError, EmbedDaemonError
from embeddaemon.governor.budget import Budget, format_bytes
from embeddaemon.governor.core import Want
from embeddaemon.governor.plan import Amount, Fit, Outcome, PlannedModel, Start, plan
from embeddaemon.governor.probes import Probe, probe_for_this_machine
from embeddaemon.governor.samples import RAM
from embeddaemon.models.card import ModelCard
from embeddaemon.models.nearest import hint
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.memory import footprint_file
from embeddaemon.supervisor.memory.budgets import governor_for
from embeddaemon.supervisor.memory.learning import card_learned, has_template, needs_fork_server
from embeddaemon.supervisor.memory.leases import lease_cache
from embeddaemon.supervisor.memory.needs import fork_server_bytes, settle_footprint
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.processes.staffing import wants_of_worker
from embeddaemon.supervisor.requests.cache import Cache
from embeddaemon.supervisor.state import Machine, State
from embeddaemon.supervisor.surroundings.machine import this_machine


@dataclass(frozen=True, slots=True)
class Planned:
    """What was found out. ``unknown`` are models of the hub that are not on this machine."""

    budgets: tuple[Budget, ...]
    fork_server_bytes: int
    cache_bytes: int
    outcomes: tuple[Outcome, ...]
    unknown: tuple[str, ...]
    left_out: Mapping[str, EmbedDaemonError]
    """By model, why it cannot be served here."""

    @property
    def exit_code(self) -> Exit:
        """All side by side, some in turns (or nobody knows), one never or not served at all."""
        fits = {outcome.fit for outcome in self.outcomes}
        if Fit.NEVER in fits or self.left_out:
            return Exit.USAGE
        return Exit.OK if fits <= {Fit.YES} and not self.unknown else Exit.FAILED


@click.command(name="plan", short_help="Say whether models would fit, and what would be evicted.")
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Read this file alone.")
@click.option("--model", "models", multiple=True, metavar="NAME=SOURCE", help="One more model; may be repeated.")
@click.option("--memory-budget", metavar="SIZE", help='What all processes together may take: "80%" or "8GiB".')
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def plan_command(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    config_file: Path | None,
    models: tuple[str, ...],
    memory_budget: str | None,
    as_json: bool,
) -> None:
    """Say whether the configured models fit into memory together, and what would be evicted for which. Starts nothing.

    They are wanted one after the other: in the order given, else those that are preloaded first. Each is taken to be
    idle once it is loaded, and to need what it was measured to need before, else what is declared or computed.

    A model that cannot be served here is left out, with the reason; the others are planned without it.

    Exit code 0 when all fit side by side, 1 when some would be evicted or wait, 2 when one never fits or is left out.
    """
    if importlib.util.find_spec("psutil") is None:
        refuse_client_install()
    flags = Flags(models=models, memory_budget=memory_budget)
    loaded, machine = load(config_file=config_file, environment=os.environ, flags=flags), this_machine()
    specs = _chosen(loaded.settings, names)
    checked = check_models(specs, loaded, machine.device)
    planned = make_plan(loaded.settings, checked, probe_for_this_machine(), machine)
    if as_json:
        put_json(_document(planned))
    else:
        _put(planned)
    ctx.exit(planned.exit_code)


def _chosen(settings: Settings, names: Sequence[str]) -> list[ModelSpec]:
    """The models by name, or all, preloaded ones first. Raises ConfigError for a name that is not configured."""
    specs = {spec.name: spec for spec in settings.models}
    for name in names:
        if name not in specs:
            raise ConfigError(f"{name!r} is not a configured model; {hint(name, list(specs))}")
    if names:
        return [specs[name] for name in dict.fromkeys(names)]
    return sorted(specs.values(), key=lambda spec: not spec.preload)


def make_plan(settings: Settings, checked: Checked, probe: Probe, machine: Machine) -> Planned:
    """Ask a governor of this machine for one model after the other; what cannot be served is left out.

    Raises ConfigError for budgets that cannot be.
    """
    state, planned, left_out = planning_state(settings, probe, machine), [], dict(checked.errors)
    for name, card in checked.cards.items():
        if card is None:
            continue
        try:
            planned.append(planned_model(state, state.models[name], card))
        except ConfigError as error:
            left_out[name] = error
    return Planned(
        budgets=tuple(each.budget for each in state.governor.snapshots(0.0)),
        fork_server_bytes=state.fork_server_bytes,
        cache_bytes=settings.cache_bytes,
        outcomes=plan(state.governor, planned, state.fork_server_bytes),
        unknown=tuple(name for name, card in checked.cards.items() if card is None),
        left_out=left_out,
    )


def planning_state(settings: Settings, probe: Probe, machine: Machine) -> State:
    """A supervisor's state in which nothing runs, with what was measured before."""
    learned, why = footprint_file.read(None if settings.state_folder is None else Path(settings.state_folder))
    if why is not None:
        path = Path(settings.state_folder or "") / footprint_file.NAME
        say(f"note: what was measured before is not used: {path}: {why}")
    state = State(
        settings=settings,
        machine=machine,
        governor=governor_for(settings, probe),
        random=random.random,
        models={spec.name: ModelState(spec=spec) for spec in settings.models},
        cache=Cache(settings.cache_bytes),
        learned=learned,
        fork_server_bytes=fork_server_bytes(learned),
    )
    lease_cache(state, 0.0)
    return state


def planned_model(state: State, model: ModelState, card: ModelCard) -> PlannedModel:
    """What the supervisor would start and lease for a model that is wanted, with its minimum of workers."""
    card_learned(state, model, card)
    settle_footprint(state, model)
    footprint = model.footprint
    assert footprint is not None, "a card was learned and no footprint: bug"
    starts = []
    for number in range(model.spec.workers.min):
        wants = [replace(want, holder=f"{want.holder}/{number}") for want in wants_of_worker(state, model)]
        rests = [footprint.worker_bytes if want.device == RAM else want.bytes for want in wants]
        if number == 0 and has_template(state, model):
            wants.insert(0, Want(f"template:{model.name}", footprint.template_peak_bytes))
            rests.insert(0, footprint.template_bytes)
        starts.append(Start(tuple(wants), tuple(rests)))
    return PlannedModel(model.name, tuple(starts), model.spec.pinned, needs_fork_server(state, model))


def _put(planned: Planned) -> None:
    for budget in planned.budgets:
        put(f"{budget.device:<12} {format_bytes(budget.bytes)} ({budget.source})")
        put(f"{'':<12} of it {format_bytes(budget.reserve_bytes)} are never leased{_for_supervisor(budget)}")
    put(f"{'fork server':<12} {format_bytes(planned.fork_server_bytes)}, once for all models that are forked")
    if planned.cache_bytes:
        put(f"{'cache':<12} {format_bytes(planned.cache_bytes)}")
    put("")
    rows = [_row(outcome) for outcome in planned.outcomes]
    rows += [(name, "-", "-", "unknown: not fetched from the hub yet", "-") for name in planned.unknown]
    rows += [(name, "-", "-", "left out", "-") for name in planned.left_out]
    put_table(("MODEL", "NEEDS", "AT REST", "FITS", "LEASED AFTER"), rows)
    for outcome in planned.outcomes:
        if outcome.why is not None:
            say(f"{outcome.name}: {outcome.why}")
    for error in planned.left_out.values():
        show_error(error)


def _for_supervisor(budget: Budget) -> str:
    return ": for the supervisor, and for what grows between two samples" if budget.device == RAM else ""


def _row(outcome: Outcome) -> tuple[str, str, str, str, str]:
    return (
        outcome.name,
        _amounts(outcome.needs),
        _amounts(outcome.at_rest),
        _fits(outcome),
        _amounts(outcome.leased),
    )


def _fits(outcome: Outcome) -> str:
    others = ", ".join(outcome.others)
    match outcome.fit:
        case Fit.EVICTS:
            return f"evicts {others}"
        case Fit.WAITS:
            return f"waits for pinned {others}"
        case Fit.FEWER_WORKERS:
            workers = f"with {outcome.workers} of {outcome.workers_wanted} workers"
            return f"{workers}, evicts {others}" if others else workers
        case Fit.YES:
            return "yes"
        case Fit.NEVER:
            return "never"
        case _:
            assert_never(outcome.fit)


def _amounts(amounts: Iterable[Amount]) -> str:
    """Host memory, and what there is on other devices: "1.2 GiB + 3.0 GiB cuda:0"."""
    return " + ".join(
        format_bytes(each.bytes) if each.device == RAM else f"{format_bytes(each.bytes)} {each.device}"
        for each in amounts
        if each.bytes or each.device == RAM
    )


def _document(planned: Planned) -> dict[str, object]:
    return {
        "fits": planned.exit_code is Exit.OK,
        "budgets": [
            {
                "device": budget.device,
                "bytes": budget.bytes,
                "reserve_bytes": budget.reserve_bytes,
                "limit_bytes": budget.limit.bytes,
                "source": budget.source,
            }
            for budget in planned.budgets
        ],
        "fork_server_bytes": planned.fork_server_bytes,
        "cache_bytes": planned.cache_bytes,
        "models": [_outcome_document(outcome) for outcome in planned.outcomes],
        "unknown": list(planned.unknown),
        "left_out": {name: error.message for name, error in planned.left_out.items()},
    }


def _outcome_document(outcome: Outcome) -> dict[str, object]:
    is_waiting = outcome.fit is Fit.WAITS
    return {
        "name": outcome.name,
        "fits": outcome.fit.value,
        "needs_bytes": {each.device: each.bytes for each in outcome.needs},
        "at_rest_bytes": {each.device: each.bytes for each in outcome.at_rest},
        "workers": outcome.workers,
        "workers_wanted": outcome.workers_wanted,
        "evicts": [] if is_waiting else list(outcome.others),
        "waits_for_pinned": list(outcome.others) if is_waiting else [],
        "leased_after_bytes": {each.device: each.bytes for each in outcome.leased},
        "why": outcome.why,
    }
