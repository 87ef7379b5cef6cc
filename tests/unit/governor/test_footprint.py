from __future__ import annotations

from dataclasses import replace

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.footprint import (
    auto,
    declared,
    footprint_from,
    minimum_bytes,
    parse_estimate,
    validate_estimate,
)
from embeddaemon.governor.formula import (
    CUDA_CONTEXT_BYTES,
    FORK_SERVER_BYTES,
    LEAST_STREAM_TOKENS,
    MOST_STREAM_TOKENS,
    SPAWNED_RUNTIME_BYTES,
    SUPERVISOR_BYTES,
    WORKER_FLOOR_BYTES,
    StartMethod,
    WeightsSummary,
    Workload,
    device_bytes,
    most_tokens_at_once,
    worker_bytes,
)

MINILM = WeightsSummary(
    file_bytes=90_868_376,
    parameters=22_713_216,
    hidden_size=384,
    intermediate_size=1536,
    gated=False,
    vocabulary=30_522,
    max_tokens=256,
)
LARGE = WeightsSummary(
    file_bytes=2_271_000_000, parameters=567_750_000, hidden_size=1024, intermediate_size=4096, gated=False
)
BASE = WeightsSummary(
    file_bytes=435_594_920, parameters=108_890_880, hidden_size=768, intermediate_size=3072, gated=False
)
ROBERTA = replace(BASE, family="roberta", file_bytes=496_242_360, parameters=124_052_736, vocabulary=50_265)
CAMEMBERT = replace(BASE, family="camembert", file_bytes=440_147_632, parameters=110_029_824, vocabulary=32_005)
MANY_WORDS = WeightsSummary(
    file_bytes=469_993_648,
    parameters=117_490_944,
    hidden_size=384,
    intermediate_size=1536,
    gated=False,
    vocabulary=250_002,
    family="xlm-roberta",
)
DISTILBERT = replace(BASE, family="distilbert", file_bytes=265_451_520, parameters=66_362_880)
MPNET = replace(BASE, family="mpnet", vocabulary=30_527, max_tokens=384)
DEBERTA = replace(BASE, family="deberta", file_bytes=735_326_208, parameters=183_831_552, vocabulary=128_100)
GTE = replace(
    BASE, family="gte", file_bytes=610_736_640, parameters=305_368_320, gated=True, vocabulary=250_048, max_tokens=8192
)
GTE_BASE = replace(GTE, file_bytes=547_000_000, parameters=136_776_192, vocabulary=30_528)
STELLA = replace(
    LARGE, family="gte", file_bytes=1_736_000_000, parameters=434_136_064, gated=True, heads_bytes=92_000_000,
    answer_dim=8192,
)  # fmt: skip
NOMIC = replace(BASE, family="nomic", file_bytes=547_000_000, parameters=136_731_648, gated=True, max_tokens=2048)
EXPERTS = replace(BASE, family="nomic-moe", file_bytes=1_901_000_000, parameters=475_000_000, vocabulary=250_048)
JINA = replace(NOMIC, family="jina-v2", file_bytes=275_000_000, parameters=137_368_320, max_tokens=8192)
MODERNBERT = replace(
    JINA, family="modernbert", file_bytes=596_000_000, parameters=149_014_272, intermediate_size=1152, vocabulary=50_368
)
EUROBERT = replace(JINA, family="eurobert", file_bytes=847_000_000, parameters=211_766_016, vocabulary=128_256)
GEMMA = replace(
    MODERNBERT, family="gemma3", file_bytes=1_211_452_416, parameters=302_863_104, vocabulary=262_144, max_tokens=2048,
    heads_bytes=18_874_368,
)  # fmt: skip
QWEN3 = replace(
    LARGE, family="qwen3", file_bytes=1_191_553_024, parameters=595_776_512, intermediate_size=3072, gated=True,
    vocabulary=151_669, max_tokens=8192, attention_width=2048,
)  # fmt: skip
QWEN2 = replace(
    QWEN3, family="qwen2", hidden_size=1536, intermediate_size=8960, attention_width=1536, parameters=326_525_440
)
JINA_V3 = replace(LARGE, family="jina-v3", parameters=572_000_000, vocabulary=250_002, max_tokens=8192)
TINY = replace(MINILM, parameters=12_800_000)
FORKED = Workload(element_bytes=2, token_budget=8192, start_method="fork")
SPAWNED = replace(FORKED, start_method="spawn")
EXACT = replace(FORKED, element_bytes=4)
EIGHT_BITS = replace(FORKED, quantized=True)
ON_A_CARD = replace(SPAWNED, device="cuda")
UNIFIED = replace(SPAWNED, device="mps")
BOTH = pytest.mark.parametrize("workload", [FORKED, SPAWNED], ids=["fork", "spawn"])


def _two(workload: Workload) -> Workload:
    return replace(workload, threads=2)


# Private bytes in MiB as benchmarks/bench_footprint.py found them (docs/memory.md, "Footprints"): a template's peak,
# what it holds at rest, and its worker's peak. Of several runs the most.
MEASURED = [
    (MINILM, FORKED, 100, 88, 125),
    (MINILM, _two(FORKED), 102, 88, 161),
    (MINILM, _two(EXACT), 158, 128, 100),
    (BASE, _two(FORKED), 422, 262, 182),
    (BASE, _two(EXACT), 814, 463, 169),
    (ROBERTA, _two(FORKED), 479, 295, 218),
    (CAMEMBERT, FORKED, 433, 275, 171),
    (MANY_WORDS, _two(FORKED), 413, 381, 212),
    (MANY_WORDS, _two(EXACT), 684, 603, 199),
    (MINILM, _two(EIGHT_BITS), 243, 100, 198),  # with the calibration
    (BASE, _two(EIGHT_BITS), 1131, 199, 217),
    (MPNET, _two(FORKED), 495, 261, 165),
    (DEBERTA, _two(FORKED), 550, 454, 357),
    (NOMIC, FORKED, 322, 314, 317),
    (NOMIC, _two(FORKED), 322, 314, 488),
]
# Of some the worker was measured with fewer layers, of which it holds none.
MEASURED_TEMPLATES = [
    (DISTILBERT, FORKED, 270, 183),
    (EXPERTS, FORKED, 1257, 1074),
    (STELLA, FORKED, 1109, 979),
    (MODERNBERT, FORKED, 393, 329),
    (EUROBERT, FORKED, 553, 486),
    (GEMMA, FORKED, 793, 731),
    (QWEN3, FORKED, 1292, 1228),
    (QWEN3, EXACT, 2893, 2357),
    (GTE, FORKED, 826, 755),
    (GTE, EXACT, 1392, 1331),
    (JINA, FORKED, 538, 317),
    (JINA_V3, FORKED, 1545, 1226),
]
MEASURED_WORKERS = [
    (DISTILBERT, _two(FORKED), 200),
    (EXPERTS, _two(FORKED), 288),
    (GTE_BASE, _two(FORKED), 1041),
    (GTE_BASE, FORKED, 869),
    (NOMIC, _two(EXACT), 710),
    (JINA, _two(FORKED), 1152),
    (MODERNBERT, _two(FORKED), 913),
    (GEMMA, _two(FORKED), 454),
    (QWEN3, _two(FORKED), 1737),
    (QWEN2, _two(FORKED), 2363),
]
MEASURED_SPAWNED = [(MINILM, _two(SPAWNED), 471), (BASE, _two(SPAWNED), 690)]


def _is_tight(estimated: int, measured_mib: int) -> bool:
    """Never below, and at most a fifth above; a measurement is rounded to whole MiB."""
    return (measured_mib - 1) * MIB <= estimated <= measured_mib * MIB * 1.2


@pytest.mark.parametrize(("weights", "workload", "peak_mib", "rest_mib", "worker_mib"), MEASURED)
def test_what_auto_computes_is_what_was_measured_within_a_fifth(
    weights: WeightsSummary, workload: Workload, peak_mib: int, rest_mib: int, worker_mib: int
) -> None:
    footprint = auto(weights, workload)
    assert _is_tight(footprint.template_peak_bytes, peak_mib)
    assert _is_tight(footprint.template_bytes, rest_mib)
    assert _is_tight(footprint.total_bytes, rest_mib + worker_mib)
    assert footprint.worker_bytes >= (worker_mib - 1) * MIB


@pytest.mark.parametrize(("weights", "workload", "peak_mib", "rest_mib"), MEASURED_TEMPLATES)
def test_a_template_alone_too(weights: WeightsSummary, workload: Workload, peak_mib: int, rest_mib: int) -> None:
    footprint = auto(weights, workload)
    assert _is_tight(footprint.template_peak_bytes, peak_mib)
    assert _is_tight(footprint.template_bytes, rest_mib)


@pytest.mark.parametrize(("weights", "workload", "worker_mib"), MEASURED_WORKERS)
def test_a_worker_alone_too(weights: WeightsSummary, workload: Workload, worker_mib: int) -> None:
    assert _is_tight(auto(weights, workload).worker_bytes, worker_mib)


@pytest.mark.parametrize(("weights", "workload", "worker_mib"), MEASURED_SPAWNED)
def test_a_spawned_worker_too(weights: WeightsSummary, workload: Workload, worker_mib: int) -> None:
    assert _is_tight(auto(weights, workload).worker_bytes, worker_mib)


def test_so_are_the_processes_that_hold_no_model() -> None:
    assert _is_tight(FORK_SERVER_BYTES, 272)
    assert _is_tight(SUPERVISOR_BYTES, 28)


def test_a_template_peaks_while_each_layer_is_there_twice() -> None:
    footprint = auto(LARGE, FORKED)
    layers = LARGE.parameters - LARGE.vocabulary * LARGE.hidden_size
    assert footprint.template_peak_bytes >= (LARGE.parameters + layers) * 2
    assert footprint.template_bytes >= LARGE.parameters * 2


def test_what_is_converted_is_there_once() -> None:
    as_it_is_computed = replace(MANY_WORDS, file_bytes=MANY_WORDS.file_bytes // 2)
    assert auto(as_it_is_computed, FORKED) == auto(MANY_WORDS, FORKED)


def test_families_that_pack_one_layer_at_a_time_do_not_peak_at_two_of_each() -> None:
    for weights in (GTE, QWEN3, MODERNBERT):
        as_bert = replace(weights, family="bert")
        assert auto(weights, FORKED).template_peak_bytes < auto(as_bert, FORKED).template_peak_bytes


def test_a_sealed_copy_is_there_while_the_weights_are_read_and_not_after() -> None:
    sealed = replace(BASE, sealed_bytes=BASE.file_bytes)
    copied, with_copy = auto(BASE, FORKED), auto(sealed, FORKED)
    assert with_copy.template_peak_bytes - copied.template_peak_bytes > BASE.file_bytes // 2
    assert with_copy.template_bytes == copied.template_bytes


def test_a_load_that_quantizes_peaks_at_both_models() -> None:
    footprint = auto(BASE, EIGHT_BITS)
    assert footprint.template_peak_bytes > BASE.parameters * (4 + 1)
    assert footprint.template_bytes < auto(BASE, FORKED).template_bytes


def test_forked_workers_do_not_pay_for_weights() -> None:
    same_shape_but_longer = replace(MINILM, file_bytes=10 * GIB, parameters=5 * GIB)
    assert auto(MINILM, FORKED).worker_bytes >= auto(same_shape_but_longer, FORKED).worker_bytes


def test_a_larger_vocabulary_is_paid_for_by_template_and_worker() -> None:
    few, many = (auto(replace(MANY_WORDS, vocabulary=count), FORKED) for count in (30_522, 250_002))
    assert many.template_bytes - few.template_bytes >= 96 * MIB
    assert many.worker_bytes - few.worker_bytes >= 35 * MIB


def test_a_spawned_worker_carries_everything_alone() -> None:
    footprint = auto(MINILM, SPAWNED)
    assert (footprint.fork_server_bytes, footprint.template_peak_bytes, footprint.template_bytes) == (0, 0, 0)
    forked = auto(MINILM, FORKED)
    assert footprint.worker_bytes > SPAWNED_RUNTIME_BYTES + MINILM.parameters * 2
    assert footprint.worker_bytes > forked.template_bytes + forked.worker_bytes


def test_a_spawned_worker_peaks_while_loading_when_that_takes_more_than_computing() -> None:
    footprint = auto(LARGE, SPAWNED)
    assert footprint.worker_peak_bytes > footprint.worker_bytes
    assert footprint.worker_peak_bytes >= SPAWNED_RUNTIME_BYTES + LARGE.parameters * 2 * 2 - 2 * LARGE.vocabulary * 1024


@BOTH
def test_more_work_at_once_takes_more_memory(workload: Workload) -> None:
    small = replace(workload, token_budget=512)
    for larger in (replace(small, threads=2), replace(small, token_budget=2048)):
        assert auto(MINILM, larger).worker_bytes > auto(MINILM, small).worker_bytes
    assert auto(BASE, replace(small, element_bytes=4)).worker_bytes > auto(BASE, small).worker_bytes


def test_a_token_budget_beyond_what_a_thread_computes_at_once_takes_no_more() -> None:
    enough = replace(FORKED, token_budget=MOST_STREAM_TOKENS)
    assert auto(TINY, replace(FORKED, token_budget=65536)) == auto(TINY, enough)
    assert auto(TINY, replace(FORKED, token_budget=1024)).worker_bytes < auto(TINY, enough).worker_bytes


def test_a_slow_model_computes_fewer_tokens_at_once_but_never_less_than_a_text() -> None:
    workload = replace(FORKED, token_budget=8192)
    assert most_tokens_at_once(TINY, workload) == MOST_STREAM_TOKENS
    assert MINILM.max_tokens < most_tokens_at_once(MINILM, workload) < MOST_STREAM_TOKENS
    assert most_tokens_at_once(LARGE, workload) == LARGE.max_tokens
    assert most_tokens_at_once(replace(LARGE, max_tokens=64), workload) == LEAST_STREAM_TOKENS


def test_a_text_longer_than_that_is_computed_whole_by_each_thread() -> None:
    long_texts = replace(BASE, max_tokens=8192)
    assert most_tokens_at_once(long_texts, _two(FORKED)) == 2 * 8192
    assert most_tokens_at_once(BASE, _two(FORKED)) == 2 * 512
    assert auto(long_texts, FORKED).worker_bytes > auto(BASE, FORKED).worker_bytes


def test_a_gate_activates_more() -> None:
    assert worker_bytes(replace(BASE, gated=True), FORKED) > worker_bytes(BASE, FORKED)


def test_on_a_card_a_worker_takes_its_memory_and_only_a_process_of_the_host() -> None:
    footprint = auto(BASE, ON_A_CARD)
    activations = 2 * 8192 * (10 * 768 + 3 * 3072) * 2
    assert footprint.device_bytes == CUDA_CONTEXT_BYTES + (BASE.parameters * 2 + activations) * 115 // 100
    assert footprint.worker_bytes == SPAWNED_RUNTIME_BYTES
    assert footprint.worker_peak_bytes >= SPAWNED_RUNTIME_BYTES + BASE.parameters * 2  # they come through the host
    declared_there = declared(2 * GIB, BASE, ON_A_CARD)
    assert (declared_there.worker_bytes, declared_there.device_bytes) == (2 * GIB, footprint.device_bytes)


def test_unified_memory_is_the_hosts() -> None:
    footprint = auto(BASE, UNIFIED)
    assert footprint.device_bytes == 0
    assert footprint.worker_bytes == SPAWNED_RUNTIME_BYTES + device_bytes(BASE, UNIFIED)
    assert device_bytes(BASE, UNIFIED) == (BASE.parameters * 2 + 8192 * (10 * 768 + 3 * 3072) * 2) * 115 // 100


@BOTH
@pytest.mark.parametrize("weights", [MINILM, LARGE])
def test_at_rest_nothing_is_above_its_peak(workload: Workload, weights: WeightsSummary) -> None:
    footprint = auto(weights, workload)
    assert footprint.template_bytes <= footprint.template_peak_bytes
    assert footprint.worker_bytes <= footprint.worker_peak_bytes


@BOTH
def test_a_declared_number_is_what_template_and_worker_hold_together(workload: Workload) -> None:
    for total in (minimum_bytes(MINILM, workload), 1 * GIB, 7 * GIB):
        footprint = declared(total, MINILM, workload)
        assert footprint.total_bytes == total
        assert footprint.worker_bytes >= WORKER_FLOOR_BYTES
        assert footprint.template_bytes <= footprint.template_peak_bytes
        assert footprint.worker_bytes <= footprint.worker_peak_bytes


def test_a_declared_number_above_the_template_goes_to_the_worker() -> None:
    computed = auto(MINILM, FORKED)
    footprint = declared(computed.total_bytes + 300 * MIB, MINILM, FORKED)
    assert footprint.template_bytes == computed.template_bytes
    assert footprint.worker_bytes == computed.worker_bytes + 300 * MIB


def test_declaring_what_auto_computes_changes_nothing() -> None:
    for workload in (FORKED, SPAWNED):
        computed = auto(LARGE, workload)
        assert declared(computed.total_bytes, LARGE, workload) == computed


@BOTH
def test_a_declared_number_does_not_shrink_what_loading_takes(workload: Workload) -> None:
    footprint = declared(minimum_bytes(LARGE, workload), LARGE, workload)
    peak = footprint.template_peak_bytes or footprint.worker_peak_bytes
    layers = LARGE.parameters - LARGE.vocabulary * LARGE.hidden_size
    assert peak >= (LARGE.parameters + layers) * 2


@pytest.mark.parametrize(
    "estimate",
    [0, -1, True, False, "lots", "", "0", "-3GiB", "80%", "AUTO", None, 1.5, [], {}, "9" * 5000],
)
def test_an_estimate_that_is_none_is_an_error_that_names_what_is_allowed(estimate: object) -> None:
    with pytest.raises(ConfigError, match=r'allowed: a positive whole number of bytes.*or "auto"'):
        parse_estimate(estimate)
    with pytest.raises(ConfigError, match='or "auto"'):
        footprint_from(estimate, MINILM, FORKED)


@pytest.mark.parametrize(
    ("start_method", "expected"),
    [("fork", 22_713_216 * 2 + WORKER_FLOOR_BYTES), ("spawn", 22_713_216 * 2 + SPAWNED_RUNTIME_BYTES)],
)
def test_an_estimate_below_what_the_weights_imply_is_an_error_that_names_the_minimum(
    start_method: StartMethod, expected: int
) -> None:
    workload = replace(FORKED, start_method=start_method)
    assert validate_estimate(expected, MINILM, workload) == expected
    with pytest.raises(ConfigError, match=f"weights take 43 MiB in memory.*allowed: {expected} bytes or more"):
        validate_estimate(expected - 1, MINILM, workload)


def test_an_estimate_may_be_written_as_text_or_left_to_us() -> None:
    assert footprint_from("auto", MINILM, FORKED) == auto(MINILM, FORKED)
    assert footprint_from("1.5GiB", MINILM, FORKED).total_bytes == 1536 * MIB
    assert parse_estimate("auto") == "auto"
    assert parse_estimate("500MB") == 500_000_000


def test_heads_are_held_as_float32_beside_a_body_of_any_precision() -> None:
    heads_bytes = 90 * MIB
    for element_bytes in (2, 4):
        workload = Workload(element_bytes=element_bytes, token_budget=8192, start_method="fork")
        plain, with_heads = (auto(replace(BASE, heads_bytes=size), workload) for size in (0, heads_bytes))
        more = with_heads.template_bytes - plain.template_bytes
        assert heads_bytes <= more < heads_bytes * 1.1
        assert with_heads.worker_bytes == plain.worker_bytes


def test_worker_has_room_for_its_longest_vectors() -> None:
    workload = Workload(element_bytes=2, token_budget=8192, start_method="fork")
    usual, long = (worker_bytes(replace(BASE, answer_dim=dim), workload) for dim in (384, 8192))
    assert long - usual == 2048 * (8192 - 384) * 4
    assert worker_bytes(replace(BASE, answer_dim=64), workload) == usual
