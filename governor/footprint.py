"""How much memory a model is taken to need before it was ever measured, and what a declared number must hold.

Every model declares an estimate: a number, or "auto", computed here. Reading the weights file is the caller's work;
leasing is in ledger.py. The numbers are for Linux with glibc; what a device needs is computed, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import MIB, format_bytes, parse_bytes

StartMethod = Literal["fork", "spawn"]
Auto = Literal["auto"]
Device = Literal["cpu", "cuda", "mps"]
AUTO: Final = "auto"

# Measured on 2 Xeon cores with AMX, torch 2.13.0 (CPU), transformers 5.23, by benchmarks/bench_footprint.py and the
# runs that docs/memory.md lists: private bytes in MiB, while a worker is asked the worst that is honest. Each constant
# stands a little above what it was measured as.
#
# A process that imported torch, transformers, tokenizers and safetensors: 270 to 272, and no more while it imports.
FORK_SERVER_BYTES = 292 * MIB
# The supervisor: 18 at the start, 20 to 28 after heavy traffic and bodies of 8 MiB; what waits in queues is beside it.
SUPERVISOR_BYTES = 30 * MIB
# A template at rest beside its weights: 43 to 46 for MiniLM, 45 for 63 of another BERT's. Larger weights leave more
# holes: 50 to 55 and 48 for 208 and 415 of them; with a tokenizer of pieces (CamemBERT's) 64.
TEMPLATE_RUNTIME_BYTES = 54 * MIB
_HOLES_PERCENT = 6
# Of a vocabulary beyond one of 30,000, which is in the above: 157 beside the weights with 250,000 pieces, per piece 440
# bytes. A worker that tokenizes copies 42 of them, and reading them takes 43 more for a moment.
_USUAL_VOCABULARY = 30_522
_WORD_BYTES, _COPIED_WORD_BYTES, _READ_WORD_BYTES = 460, 190, 200
# Calibrating int8 leaves holes, in proportion to the model in float32: a template then rests at 100 for 86 of that, 199
# for 415, 409 for 448 that are mostly words. Where the scales were known: 79 for 86.
_CALIBRATION_BYTES = 14 * MIB
_CALIBRATION_PERCENT = 7
# While layers are packed each is there twice, and what reading left is not used again. A template's peak for weights of
# 43: 98 to 102; 86: 158; 208: 446 to 491; 237: 457 to 473; 253: 549; 415: 780 to 814. What it needs to compute comes
# later. Reading leaves holes where it converts.
_PACKING_PERCENT, _READING_PERCENT = 140, 13
_LOADER_BYTES = 32 * MIB
# Nothing rests at its peak: warming up leaves something free.
_LEAST_PEAK_PERCENT = 10
# And peaks at 243, 1,131 and 1,043: the model in float32 (and holes), samples of what its layers computed.
_EXACT_PERCENT, _SAMPLES_PERCENT = 135, 100
# What a calibration computes at once.
CALIBRATION_TOKENS = 1024
# A forked worker when it is born: 4; with its threads and first vectors 9 to 14.
WORKER_FLOOR_BYTES = 16 * MIB
# Beside its floor: compiled kernels (AMX's are large), and 26 for bodies of 8 MiB, which are tokenized in slices.
# A worker of MiniLM peaks at 125 with one thread, 132 to 143 with two in bfloat16, at 100 with two in float32,
# and in int8 at 198, since it takes holes of a template that calibrated for its own and has them copied.
_KERNEL_BYTES = {1: 120 * MIB, 2: 80 * MIB, 4: 62 * MIB}
_STREAM_BYTES = 10 * MIB
# Tokenizers that remember words and their pieces (all but BERT's): 218 and 171 where BERT's formula gives 206 and 160.
_WORD_CACHE_BYTES = 16 * MIB
# A fresh interpreter that has loaded MiniLM: 304 to 310 beside its weights, 270 of it from importing.
SPAWNED_RUNTIME_BYTES = 300 * MIB
_IMPORTED_BYTES = 272 * MIB
# It does not give back what loading freed: 465 beside 208 of weights, of which 162 are of layers.
_SPAWNED_HOLES_PERCENT = 120
# One thread's micro-batch, as workers/waiting.py sizes it: no more than these tokens, no fewer than those however slow
# the model, a longer text by itself, and between them what takes 50 ms, here in products of tokens and parameters of
# layers: 1,200 tokens of MiniLM in bfloat16. Where it is larger on a faster processor, the measured peak says so.
MOST_STREAM_TOKENS, LEAST_STREAM_TOKENS = 2048, 256
_PARAMETERS_IN_TIME = {1: 14_000_000_000, 2: 12_700_000_000, 4: 3_200_000_000}
# What the allocator holds for each element that a token activates, per precision: of the first thread, of each further
# one. Measured with all micro-batches at their bound: 449 for a BERT of 208 in bfloat16 that peaks at 182 as it is
# served. More than the live tensors: each thread's arena consists of heaps of 64 MB, and tensors leave holes in them
# that only an idle worker gives back.
_FIRST_HELD, _FURTHER_HELD = {1: 5.8, 2: 6.5, 4: 11.8}, {1: 3.5, 2: 3.9, 4: 0.7}
# Models of up to 256 tokens hold half of that.
_LONG_TEXT, _SHORT_TEXT = 512, 256

# On a device, from the formula of published figures and not measured here: CUDA's context and torch's kernels.
CUDA_CONTEXT_BYTES = 640 * MIB
DEVICE_SLACK_PERCENT = 15
# A second micro-batch waits on the device while the first is computed.
DEVICE_STREAMS = {"cuda": 2, "mps": 1}


@dataclass(frozen=True, slots=True)
class WeightsSummary:
    """What a model's folder says about memory.

    ``file_bytes`` on disk, ``parameters`` elements that a process must hold, ``gated`` for a feed-forward part with a
    gate (GLU), ``vocabulary`` words of the tokenizer and rows of their table, ``max_tokens`` of the longest text,
    ``family`` as the card names it.
    """

    file_bytes: int
    parameters: int
    hidden_size: int
    intermediate_size: int
    gated: bool
    vocabulary: int = _USUAL_VOCABULARY
    max_tokens: int = _LONG_TEXT
    family: str = "bert"


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model is computed: bytes per element of its weights and activations, most tokens in a micro-batch."""

    element_bytes: int
    token_budget: int
    start_method: StartMethod
    quantized: bool = False
    """Whether a load turns float32 into 8 bits, for which it computes with both."""
    threads: int = 1
    """Each computes a micro-batch of its own."""
    device: Device = "cpu"


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
    if workload.device == "cuda":
        return SPAWNED_RUNTIME_BYTES  # the weights are on the card
    return _held_bytes(weights, workload) + _process_bytes(workload)


def auto(weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint computed from the weights file, precision, token budget, threads and what was measured."""
    if workload.device != "cpu":
        return _on_device(weights, workload)
    if workload.start_method == "spawn":
        return _spawned(_spawned_bytes(weights, workload), weights, workload)
    return _forked(_template_bytes(weights, workload), worker_bytes(weights, workload), weights, workload)


def declared(total_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    """The footprint that a declared number stands for: one worker and its template at rest, or one spawned worker.

    The template's part is known best, so it is taken as computed and the worker gets what is left, at least its floor.
    The peaks stay what physics makes them. ``validate_estimate`` has checked the number.
    """
    assert total_bytes >= minimum_bytes(weights, workload), "an estimate that validate_estimate() refuses"
    if workload.start_method == "spawn":
        found = _spawned(total_bytes, weights, workload)
        return found if workload.device == "cpu" else replace(found, device_bytes=_own_device_bytes(weights, workload))
    template = min(_template_bytes(weights, workload), total_bytes - WORKER_FLOOR_BYTES)
    return _forked(template, total_bytes - template, weights, workload)


def worker_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What is private to a worker that was forked from a template: no weights, but everything it computes with."""
    process = WORKER_FLOOR_BYTES + _KERNEL_BYTES[_kind(workload)] + workload.threads * _STREAM_BYTES
    tokenizer = _extra_words(weights) * _COPIED_WORD_BYTES + (_WORD_CACHE_BYTES if weights.family != "bert" else 0)
    return process + tokenizer + _held_for(weights, workload)


def most_tokens_at_once(weights: WeightsSummary, workload: Workload) -> int:
    """In all forward passes of one worker together. On the CPU each thread has one, on a device several wait."""
    if workload.device != "cpu":
        return DEVICE_STREAMS[workload.device] * max(weights.max_tokens, workload.token_budget)
    return workload.threads * _stream_tokens(weights, workload)


def device_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What a worker takes of a device's memory, which on mps is the host's: context, weights, activations.

    A formula only: no device was at hand to measure it.
    """
    context = CUDA_CONTEXT_BYTES if workload.device == "cuda" else 0
    activations = most_tokens_at_once(weights, workload) * _elements_per_token(weights) * workload.element_bytes
    return context + (_held_bytes(weights, workload) + activations) * (100 + DEVICE_SLACK_PERCENT) // 100


def _own_device_bytes(weights: WeightsSummary, workload: Workload) -> int:
    return device_bytes(weights, workload) if workload.device == "cuda" else 0


def _on_device(weights: WeightsSummary, workload: Workload) -> Footprint:
    """A worker that loads for itself, through host memory, and computes elsewhere."""
    unified = device_bytes(weights, workload) if workload.device == "mps" else 0
    found = _spawned(SPAWNED_RUNTIME_BYTES + unified, weights, workload)
    return replace(found, device_bytes=_own_device_bytes(weights, workload))


def _forked(template_bytes: int, rest_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    return Footprint(
        fork_server_bytes=FORK_SERVER_BYTES,
        template_peak_bytes=max(template_bytes, _template_peak_bytes(weights, workload)),
        template_bytes=template_bytes,
        worker_peak_bytes=rest_bytes,
        worker_bytes=rest_bytes,
    )


def _spawned(total_bytes: int, weights: WeightsSummary, workload: Workload) -> Footprint:
    # It loads before it computes, so what loading takes and the activations are never there together.
    loading = _IMPORTED_BYTES + _template_peak_bytes(weights, workload)
    return Footprint(
        fork_server_bytes=0,
        template_peak_bytes=0,
        template_bytes=0,
        worker_peak_bytes=max(total_bytes, loading),
        worker_bytes=total_bytes,
    )


def _spawned_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """Fork server, template and worker in one, and what loading freed and nobody trimmed."""
    holes = _layers(weights) * workload.element_bytes * _SPAWNED_HOLES_PERCENT // 100
    return _IMPORTED_BYTES + _template_bytes(weights, workload) + holes + worker_bytes(weights, workload)


def _template_bytes(weights: WeightsSummary, workload: Workload) -> int:
    held = _held_bytes(weights, workload)
    holes = held * _HOLES_PERCENT // 100
    if workload.quantized:
        holes += _CALIBRATION_BYTES + weights.parameters * 4 * _CALIBRATION_PERCENT // 100
    return held + holes + TEMPLATE_RUNTIME_BYTES + _extra_words(weights) * _WORD_BYTES


def _template_peak_bytes(weights: WeightsSummary, workload: Workload) -> int:
    at_rest = _template_bytes(weights, workload) * (100 + _LEAST_PEAK_PERCENT) // 100
    held = _held_bytes(weights, workload)
    if workload.element_bytes != _bytes_in_file(weights):
        held += held * _READING_PERCENT // 100
    tokenizer = _extra_words(weights) * _WORD_BYTES
    return max(at_rest, tokenizer + held + _loading_bytes(weights, workload))


def _loading_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What a load needs beside what it leaves behind."""
    reading = _extra_words(weights) * _READ_WORD_BYTES
    if workload.quantized:
        # The model in float32, a second one in 8 bits to compare with it, samples of what it computed, activations.
        exact = weights.parameters * 4 * _EXACT_PERCENT // 100
        computing = CALIBRATION_TOKENS * _elements_per_token(weights) * 4
        return (
            _LOADER_BYTES
            + _CALIBRATION_BYTES
            + reading
            + exact
            + _layers(weights) * 4 * _SAMPLES_PERCENT // 100
            + computing
        )
    packing = _layers(weights) * workload.element_bytes * _PACKING_PERCENT // 100
    return max(_converting_bytes(weights, workload), _LOADER_BYTES + packing + reading)


def _converting_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """The largest tensor as it lies in the file, while all others may be there already, converted."""
    in_file = _bytes_in_file(weights)
    return 0 if in_file == workload.element_bytes else _words(weights) * in_file


def _bytes_in_file(weights: WeightsSummary) -> int:
    return round(weights.file_bytes / weights.parameters)


def _held_bytes(weights: WeightsSummary, workload: Workload) -> int:
    if workload.quantized:  # words stay in 16 bits
        return _words(weights) * 2 + _layers(weights)
    return weights.parameters * workload.element_bytes


def _held_for(weights: WeightsSummary, workload: Workload) -> int:
    """What computing makes a worker hold beyond its kernels."""
    kind = _kind(workload)
    per_element = _FIRST_HELD[kind] + (workload.threads - 1) * _FURTHER_HELD[kind]
    longest = min(max(weights.max_tokens, _SHORT_TEXT), _LONG_TEXT)
    elements = _stream_tokens(weights, workload) * _elements_per_token(weights) * longest // _LONG_TEXT
    return int(elements * per_element)


def _stream_tokens(weights: WeightsSummary, workload: Workload) -> int:
    in_time = _PARAMETERS_IN_TIME[_kind(workload)] // max(1, _layers(weights))
    most = min(workload.token_budget, MOST_STREAM_TOKENS)
    return max(weights.max_tokens, min(most, max(LEAST_STREAM_TOKENS, in_time)))


def _kind(workload: Workload) -> int:
    """Bytes per element of what most products read."""
    return 1 if workload.quantized else workload.element_bytes


def _elements_per_token(weights: WeightsSummary) -> int:
    # Measured on MiniLM in float32, live tensors only: 34.1 kB per token, the formula gives 33.8.
    wide = 4 if weights.gated else 3
    return 10 * weights.hidden_size + wide * weights.intermediate_size


def _words(weights: WeightsSummary) -> int:
    """Elements of the table of words."""
    return min(weights.parameters, weights.vocabulary * weights.hidden_size)


def _layers(weights: WeightsSummary) -> int:
    """Elements of all that is no word."""
    return weights.parameters - _words(weights)


def _extra_words(weights: WeightsSummary) -> int:
    return max(0, weights.vocabulary - _USUAL_VOCABULARY)


def _process_bytes(workload: Workload) -> int:
    return SPAWNED_RUNTIME_BYTES if workload.start_method == "spawn" else WORKER_FLOOR_BYTES
