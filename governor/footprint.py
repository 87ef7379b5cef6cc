"""How much memory a model is taken to need before it was ever measured, and what a declared number must hold.

Every model declares an estimate: a number, or "auto", computed here. Reading the weights file is the caller's work;
leasing is in ledger.py. Host memory only; what a GPU needs comes with the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import MIB, format_bytes, parse_bytes

StartMethod = Literal["fork", "spawn"]
Auto = Literal["auto"]
AUTO: Final = "auto"

# Measured with torch 2.13.0 (CPU), transformers 5.23, the real MiniLM in bf16, two threads; sizes in MiB.
#
# A process that imported torch, transformers, tokenizers and safetensors: RSS 329, USS 318, of it anonymous 247.
# (Without transformers: USS 212, anonymous 144.)
FORK_SERVER_BYTES = 352 * MIB
# A template at rest: USS 119, of it 63 weights (43 in bf16 and 20 prepacked copies): 56 for the tokenizer, model
# classes, oneDNN's kernels and pages of libraries that it is the first to touch. At its peak while loading: USS 166.
# A tokenizer of 250,000 tokens takes more than MiniLM's.
TEMPLATE_RUNTIME_BYTES = 80 * MIB
# A forked worker: USS 2 when born, 9-12 with its first vector, 14 in the prototype with its threads and sockets.
WORKER_FLOOR_BYTES = 32 * MIB
# A worker that was not forked: USS 427 with its first vector, of it 43 weights.
SPAWNED_RUNTIME_BYTES = 400 * MIB
# What a worker adds while it computes: oneDNN's kernels, one per rounded row and shape of weights.
# After 20,000 short texts, 2,100 of mixed lengths and 200 long ones a worker peaked at 270 (one thread: 277) and rested
# at 231 (251), in bf16. Not measured by itself: it is what the process (14) and activations (163, below) leave.
KERNEL_BYTES = 112 * MIB
# What the allocator keeps beyond what tensors need, at glibc's defaults: 8,192 tokens peak at 163 where the formula has
# 132, and 110-140 of it stay. (Thresholds of 128 KiB: 70, and two fifths of the speed lost.) float32 is not measured.
ALLOCATOR_SLACK_PERCENT = 25
# Of a micro-batch while int8 is calibrated.
CALIBRATION_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class WeightsSummary:
    """What a weights file says about memory.

    ``file_bytes`` on disk, ``parameters`` elements that a process must hold, ``gated`` for a feed-forward part with a
    gate (GLU).
    """

    file_bytes: int
    parameters: int
    hidden_size: int
    intermediate_size: int
    gated: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model is computed: bytes per element of its weights and activations, most tokens in a micro-batch."""

    element_bytes: int
    token_budget: int
    start_method: StartMethod
    quantized: bool = False
    """Whether a load turns float32 into 8 bits, for which it computes with both."""


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
        raise ConfigError(
            f"an estimate of {format_bytes(checked)} cannot hold the model: its weights take "
            f"{format_bytes(_held_bytes(weights, workload))} in memory, one worker at least {format_bytes(minimum)}; "
            f'allowed: {minimum} bytes or more, or "{AUTO}"'
        )
    return checked


def minimum_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """The least that one worker with its template can be: the weights as held and a process, not one token computed."""
    return _held_bytes(weights, workload) + _process_bytes(workload)


def auto(weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint computed from the weights file, precision, token budget and measured floors."""
    held = _held_bytes(weights, workload)
    working = _process_bytes(workload) + KERNEL_BYTES + _activation_bytes(weights, workload)
    if workload.start_method == "spawn":
        return _spawned(held + working, weights, workload)
    return _forked(held + TEMPLATE_RUNTIME_BYTES, working, weights, workload)


def declared(total_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint that a declared number stands for: one worker and its template at rest, or one spawned worker.

    The template's part is known best, so it is taken as computed and the worker gets what is left, at least its floor.
    The peaks stay what physics makes them. ``validate_estimate`` has checked the number.
    """
    assert total_bytes >= minimum_bytes(weights, workload), "an estimate that validate_estimate() refuses"
    if workload.start_method == "spawn":
        return _spawned(total_bytes, weights, workload)
    template = min(auto(weights, workload).template_bytes, total_bytes - WORKER_FLOOR_BYTES)
    return _forked(template, total_bytes - template, weights, workload)


def _forked(template_bytes: int, worker_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    # While it loads, a template has the file's pages and the converted copy at once; a worker copies nothing.
    return Footprint(
        fork_server_bytes=FORK_SERVER_BYTES,
        template_peak_bytes=template_bytes + _loading_bytes(weights, workload),
        template_bytes=template_bytes,
        worker_peak_bytes=worker_bytes,
        worker_bytes=worker_bytes,
    )


def _spawned(worker_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    # It loads before it computes, so the file's pages and the activations are never there together.
    loading = minimum_bytes(weights, workload) + _loading_bytes(weights, workload)
    return Footprint(
        fork_server_bytes=0,
        template_peak_bytes=0,
        template_bytes=0,
        worker_peak_bytes=max(worker_bytes, loading),
        worker_bytes=worker_bytes,
    )


def _loading_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What a load needs beside what it leaves behind."""
    if not workload.quantized:
        return weights.file_bytes
    # The model in float32, a second one in 8 bits to compare with it, and both computing on the calibration texts.
    # MiniLM's template peaks at 262 MiB, the formula gives 287.
    exact = weights.parameters * 4
    computing = _activation_bytes(weights, replace(workload, element_bytes=4, token_budget=CALIBRATION_TOKENS))
    return max(exact, weights.file_bytes) + _held_bytes(weights, workload) + computing


def _held_bytes(weights: WeightsSummary, workload: Workload) -> int:
    return weights.parameters * workload.element_bytes


def _process_bytes(workload: Workload) -> int:
    return SPAWNED_RUNTIME_BYTES if workload.start_method == "spawn" else WORKER_FLOOR_BYTES


def _activation_bytes(weights: WeightsSummary, workload: Workload) -> int:
    # Measured on MiniLM in fp32: 34.1 kB per token, the formula gives 33.8.
    wide = 4 if weights.gated else 3
    per_token = (10 * weights.hidden_size + wide * weights.intermediate_size) * workload.element_bytes
    return workload.token_budget * per_token * (100 + ALLOCATOR_SLACK_PERCENT) // 100
