"""What the processes of a model take: computed from its folder and from how it is computed; the constants are measured.

Private bytes; what is leased of them and when is footprint.py's. The numbers are for Linux with glibc; what a device
needs is a formula only, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embeddaemon.governor.budget import MIB

StartMethod = Literal["fork", "spawn"]
Device = Literal["cpu", "cuda", "mps"]

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
# How a family packs its layers decides how much of them is there twice, and what is left of that is not used again. A
# template's peak for BERT's and its like, for weights of 43: 98 to 102; 86: 158; 208: 422; 237: 442 to 479; 415: 780 to
# 814. MPNet's, of 208: 494 to 544; DeBERTa's, of 351: 550; NomicBERT's with experts, of 906: 1,257; Jina v3's, of
# 1,091: 1,545. All others pack one product or one layer at a time: 587: 793; 261: 322; 920: 1,109; 1,136: 1,292; but in
# float32 2,273: 2,893.
_PACKING_PERCENT = {"mpnet": 175, "jina-v3": 50, "deberta": 25, "nomic-moe": 25} | dict.fromkeys(
    ("gte", "nomic", "modernbert", "eurobert", "qwen2", "qwen3", "mistral", "llama", "gemma3", "nv-embed"),
    0,
)
_USUAL_PACKING_PERCENT, _FLOAT32_PACKING_PERCENT = 140, 35
_LOADER_BYTES = 32 * MIB
# Nothing rests at its peak: warming up leaves something free.
_LEAST_PEAK_PERCENT = 10
# And peaks at 243, 1,131 and 1,043: the model in float32 (and holes), samples of what its layers computed.
_EXACT_PERCENT, _SAMPLES_PERCENT = 140, 100
# What a calibration computes at once.
CALIBRATION_TOKENS = 1024
# A forked worker when it is born: 4; with its threads and first vectors 9 to 14.
WORKER_FLOOR_BYTES = 16 * MIB
# Beside its floor: compiled kernels (AMX's are large), and 26 for bodies of 8 MiB, which are tokenized in slices.
# A worker of MiniLM peaks at 125 with one thread, 132 to 161 with two in bfloat16, at 100 with two in float32,
# and in int8 at 198, since it takes holes of a template that calibrated for its own and has them copied.
_KERNEL_BYTES = {1: 120 * MIB, 2: 80 * MIB, 4: 62 * MIB}
_STREAM_BYTES = 10 * MIB
# Experts see any number of tokens, which makes more of them: 288, and 587 before those numbers were rounded.
_EXPERTS_KERNEL_BYTES = 40 * MIB
# Tokenizers that remember words and their pieces (all but BERT's): 218 and 171 where BERT's formula gives 206 and 160.
_WORD_CACHE_BYTES = 16 * MIB
# The largest request's vectors are there whole before they are sent; those of MiniLM are in the above.
_USUAL_DIM, _MOST_TEXTS = 384, 2048
# A fresh interpreter that has loaded MiniLM: 304 to 310 beside its weights, 270 of it from importing.
SPAWNED_RUNTIME_BYTES = 300 * MIB
IMPORTED_BYTES = 272 * MIB
# One thread's micro-batch, as workers/waiting.py sizes it: no more than these tokens, no fewer than those however slow
# the model, a longer text by itself, and between them what takes 50 ms, here in products of tokens and parameters of
# layers: 1,200 tokens of MiniLM in bfloat16. Workers are told the number, so on a faster processor it takes less time.
MOST_STREAM_TOKENS, LEAST_STREAM_TOKENS = 2048, 256
_PARAMETERS_IN_TIME = {1: 14_000_000_000, 2: 12_700_000_000, 4: 3_200_000_000}
# What the allocator holds for each element that a token activates, per precision: of the first thread, of each further
# one. Measured with all micro-batches at their bound: 449 for a BERT of 208 in bfloat16 that peaks at 182 as it is
# served. More than the live tensors: each thread's arena consists of heaps of 64 MB, and tensors leave holes in them
# that only an idle worker gives back.
_FIRST_HELD, _FURTHER_HELD = {1: 5.8, 2: 6.5, 4: 11.8}, {1: 3.5, 2: 3.9, 4: 0.7}
# Models of up to 256 tokens hold half of that.
_LONG_TEXT, _SHORT_TEXT = 512, 256
# A text of thousands of tokens is alone in its micro-batch, and more of what it takes comes from the system at once and
# goes back: threads then hold heaps, and per token so many times the width of a layer and of its feed-forward part, the
# first thread more. With one thread GTE held 869 after three minutes, and 585 after fifteen texts. Measured with two
# threads, each with a text of the longest length, in bfloat16: 8,192 tokens of GTE 1,041, Jina 1,151, ModernBERT 913,
# Qwen3 of 0.6 B 1,736, gte-Qwen2 of 1.5 B 2,363; 2,048 of NomicBERT 488 (one thread: 317, float32: 710), Gemma 454.
_VERY_LONG_TEXT = 1024
_HEAP_BYTES = 72 * MIB
_FIRST_LONG, _FURTHER_LONG = 1.5, 0.5
_HELD_WIDTHS, _HELD_INTERMEDIATES = 27, 3
# DeBERTa's class makes tensors of all scores of a batch (families/deberta.py): a worker of it held 357, where another
# encoder of its shape and vocabulary would hold 238.
_DEBERTA_SCORES, _DEBERTA_TENSORS, _DEBERTA_HEAD = 4 * 1024 * 1024, 8, 64

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
    heads_bytes: int = 0
    """Of dense heads behind the body, which are held as float32 whatever the body is computed in."""
    answer_dim: int = _USUAL_DIM
    """Dimensions of the longest vectors that it gives."""
    sealed_bytes: int = 0
    """Of a copy of the file that is there while its tensors are made."""
    attention_width: int = 0
    """Of all heads' queries together; 0: as wide as a token."""


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


def worker_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What is private to a worker that was forked from a template: no weights, but everything it computes with."""
    kernels = _KERNEL_BYTES[_kind(workload)] + (_EXPERTS_KERNEL_BYTES if weights.family == "nomic-moe" else 0)
    process = WORKER_FLOOR_BYTES + kernels + workload.threads * _STREAM_BYTES
    tokenizer = _extra_words(weights) * _COPIED_WORD_BYTES + (_WORD_CACHE_BYTES if weights.family != "bert" else 0)
    answer = _MOST_TEXTS * 4 * max(0, weights.answer_dim - _USUAL_DIM)
    return process + tokenizer + answer + _held_for(weights, workload)


def most_tokens_at_once(weights: WeightsSummary, workload: Workload) -> int:
    """In all forward passes of one worker together. On the CPU each thread has one, on a device several wait."""
    if workload.device != "cpu":
        return DEVICE_STREAMS[workload.device] * max(weights.max_tokens, workload.token_budget)
    return workload.threads * stream_tokens(weights, workload)


def device_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What a worker takes of a device's memory, which on mps is the host's: context, weights, activations.

    A formula only: no device was at hand to measure it.
    """
    context = CUDA_CONTEXT_BYTES if workload.device == "cuda" else 0
    activations = most_tokens_at_once(weights, workload) * _elements_per_token(weights) * workload.element_bytes
    return context + (held_bytes(weights, workload) + activations) * (100 + DEVICE_SLACK_PERCENT) // 100


def spawned_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """Fork server, template and worker in one: MiniLM 471, a BERT of 208 in bfloat16 689."""
    return IMPORTED_BYTES + template_bytes(weights, workload) + worker_bytes(weights, workload)


def template_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """At rest: weights as held, tokenizer, classes, and holes."""
    held = held_bytes(weights, workload)
    holes = held * _HOLES_PERCENT // 100
    if workload.quantized:
        holes += _CALIBRATION_BYTES + weights.parameters * 4 * _CALIBRATION_PERCENT // 100
    return held + holes + TEMPLATE_RUNTIME_BYTES + _extra_words(weights) * _WORD_BYTES


def template_peak_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """While it loads."""
    rest = template_bytes(weights, workload)
    loading = _extra_words(weights) * _READ_WORD_BYTES + _LOADER_BYTES + weights.sealed_bytes
    held = held_bytes(weights, workload) + _extra_words(weights) * _WORD_BYTES
    percent = _PACKING_PERCENT.get(weights.family, _USUAL_PACKING_PERCENT)
    if percent == 0 and workload.element_bytes == 4:
        percent = _FLOAT32_PACKING_PERCENT
    packing = _layers(weights) * workload.element_bytes * percent // 100
    if workload.quantized:
        peak = held + loading + _calibrating_bytes(weights)
    else:
        peak = (held if percent >= 100 else rest) + loading + packing
    return max(rest * (100 + _LEAST_PEAK_PERCENT) // 100, peak)


def _calibrating_bytes(weights: WeightsSummary) -> int:
    """The model in float32, a second one in 8 bits to compare with it, samples of what it computed, activations."""
    exact = weights.parameters * 4 * _EXACT_PERCENT // 100
    samples = _layers(weights) * 4 * _SAMPLES_PERCENT // 100
    computing = CALIBRATION_TOKENS * _elements_per_token(weights) * 4
    return _CALIBRATION_BYTES + exact + samples + computing


def held_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """The weights in the form that is computed with."""
    if workload.quantized:  # words stay in 16 bits
        return _words(weights) * 2 + _layers(weights) + weights.heads_bytes
    return weights.parameters * workload.element_bytes + weights.heads_bytes


def _held_for(weights: WeightsSummary, workload: Workload) -> int:
    """What computing makes a worker hold beyond its kernels."""
    kind = _kind(workload)
    scores = workload.threads * _scores_bytes(weights, workload)
    if weights.max_tokens > _VERY_LONG_TEXT:
        width = (weights.hidden_size + (weights.attention_width or weights.hidden_size)) // 2
        elements = _HELD_WIDTHS * width + _HELD_INTERMEDIATES * weights.intermediate_size
        long_text = stream_tokens(weights, workload) * elements * max(2, kind)
        threads = _FIRST_LONG + (workload.threads - 1) * _FURTHER_LONG
        return workload.threads * _HEAP_BYTES + int(threads * long_text) + scores
    per_element = _FIRST_HELD[kind] + (workload.threads - 1) * _FURTHER_HELD[kind]
    longest = min(max(weights.max_tokens, _SHORT_TEXT), _LONG_TEXT)
    elements = stream_tokens(weights, workload) * _elements_per_token(weights) * longest // _LONG_TEXT
    return int(elements * per_element) + scores


def _scores_bytes(weights: WeightsSummary, workload: Workload) -> int:
    """What one batch of DeBERTa's takes for scores, a text with more than are meant being alone."""
    if weights.family != "deberta":
        return 0
    longest = weights.hidden_size // _DEBERTA_HEAD * weights.max_tokens**2
    return max(_DEBERTA_SCORES, longest) * _DEBERTA_TENSORS * workload.element_bytes


def stream_tokens(weights: WeightsSummary, workload: Workload) -> int:
    """The most in one thread's micro-batch on a CPU. Workers are told, so that they keep to what they are leased."""
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


def process_bytes(workload: Workload) -> int:
    """A process before it holds weights or computes."""
    return SPAWNED_RUNTIME_BYTES if workload.start_method == "spawn" else WORKER_FLOOR_BYTES
