"""How much memory a model is taken to need before it was ever measured, and what a declared number must hold.

Every model declares an estimate: a number, or "auto", computed by formula.py. Reading the weights file is the caller's
work; leasing is in ledger.py; what was measured since is in learned.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from embeddaemon.errors import ConfigError
from embeddaemon.governor import formula
from embeddaemon.governor.budget import format_bytes, parse_bytes
from embeddaemon.governor.formula import FORK_SERVER_BYTES, WeightsSummary, Workload

Auto = Literal["auto"]
AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes to lease per process of one model; 0 means that there is no such process.

    The peaks are held from before the process starts until it is READY, the others after. ``fork_server_bytes`` is
    leased once for the whole daemon, the template's once per model key, the worker's once per worker.
    """

    fork_server_bytes: int
    template_peak_bytes: int
    template_bytes: int
    worker_peak_bytes: int
    worker_bytes: int
    device_bytes: int = 0
    """Of a worker on a device with memory of its own; 0 on the CPU and where memory is unified."""

    @property
    def total_bytes(self) -> int:
        """What a declared estimate stands for: one worker and, where there is one, its template, at rest."""
        return self.template_bytes + self.worker_bytes


def footprint_from(estimate: object, weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint of a model that declares ``estimate``: "auto", bytes, or text such as "1.5GiB".

    Raises ConfigError for nonsense and for less than the weights need.
    """
    checked = validate_estimate(estimate, weights, workload)
    return auto(weights, workload) if checked == AUTO else declared(checked, weights, workload)


def parse_estimate(estimate: object) -> int | Auto:
    """An estimate as written, without its weights at hand. Raises ConfigError, naming what is allowed, for nonsense."""
    if estimate == AUTO:
        return AUTO
    try:
        return parse_bytes(estimate)
    except ConfigError as error:
        raise ConfigError(f'not an estimate: {error.message}, or "{AUTO}"') from None


def validate_estimate(estimate: object, weights: WeightsSummary, workload: Workload) -> int | Auto:
    """As ``parse_estimate``, and raises ConfigError for a number below ``minimum_bytes``."""
    checked = parse_estimate(estimate)
    minimum = minimum_bytes(weights, workload)
    if checked != AUTO and checked < minimum:
        held = format_bytes(formula.held_bytes(weights, workload))
        raise ConfigError(
            f"an estimate of {format_bytes(checked)} cannot hold the model: its weights take {held} in memory, "
            f"one worker at least {format_bytes(minimum)}; "
            f'allowed: {minimum} bytes or more, or "{AUTO}"'
        )
    return checked


def minimum_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """The least that one worker with its template can be: the weights as held and a process, not one token computed."""
    if workload.device == "cuda":
        return formula.SPAWNED_RUNTIME_BYTES  # the weights are on the card
    return formula.held_bytes(weights, workload) + formula.process_bytes(workload)


def auto(weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint computed from the weights file, precision, token budget, threads and what was measured."""
    if workload.device != "cpu":
        return _on_device(weights, workload)
    if workload.start_method == "spawn":
        return _spawned(formula.spawned_bytes(weights, workload), weights, workload)
    template = formula.template_bytes(weights, workload)
    return _forked(template, formula.worker_bytes(weights, workload), weights, workload)


def declared(total_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint that a declared number stands for: one worker and its template at rest, or one spawned worker.

    The template's part is known best, so it is taken as computed and the worker gets what is left, at least its floor.
    The peaks stay what physics makes them. ``validate_estimate`` has checked the number.
    """
    assert total_bytes >= minimum_bytes(weights, workload), "an estimate that validate_estimate() refuses"
    if workload.start_method == "spawn":
        found = _spawned(total_bytes, weights, workload)
        return found if workload.device == "cpu" else replace(found, device_bytes=_own_device_bytes(weights, workload))
    template = min(formula.template_bytes(weights, workload), total_bytes - formula.WORKER_FLOOR_BYTES)
    return _forked(template, total_bytes - template, weights, workload)


def _own_device_bytes(weights: WeightsSummary, workload: Workload) -> int:
    return formula.device_bytes(weights, workload) if workload.device == "cuda" else 0


def _on_device(weights: WeightsSummary, workload: Workload) -> Footprint:
    """A worker that loads for itself, through host memory, and computes elsewhere."""
    unified = formula.device_bytes(weights, workload) if workload.device == "mps" else 0
    found = _spawned(formula.SPAWNED_RUNTIME_BYTES + unified, weights, workload)
    return replace(found, device_bytes=_own_device_bytes(weights, workload))


def _forked(template_bytes: int, rest_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    return Footprint(
        fork_server_bytes=FORK_SERVER_BYTES,
        template_peak_bytes=max(template_bytes, formula.template_peak_bytes(weights, workload)),
        template_bytes=template_bytes,
        worker_peak_bytes=rest_bytes,
        worker_bytes=rest_bytes,
    )


def _spawned(total_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    # It loads before it computes, so what loading takes and the activations are never there together.
    loading = formula.IMPORTED_BYTES + formula.template_peak_bytes(weights, workload)
    return Footprint(
        fork_server_bytes=0,
        template_peak_bytes=0,
        template_bytes=0,
        worker_peak_bytes=max(total_bytes, loading),
        worker_bytes=total_bytes,
    )
