from __future__ import annotations

from dataclasses import replace

import pytest

from embeddaemon.governor.budget import GIB, MIB
from embeddaemon.governor.footprint import Footprint
from embeddaemon.governor.learned import MAX_ENTRIES, Key, Learned, Measured, deviation, footprint_with

KEY = Key("d" * 64, "bfloat16", "cpu", "fork", threads=2, token_budget=1000, stream_tokens=500, element_bytes=2)
BUDGET = KEY.token_budget
ENOUGH = 100 * BUDGET
COMPUTED = Footprint(
    fork_server_bytes=352 * MIB,
    template_peak_bytes=300 * MIB,
    template_bytes=200 * MIB,
    worker_peak_bytes=400 * MIB,
    worker_bytes=400 * MIB,
)
SPAWNED = Footprint(
    fork_server_bytes=0,
    template_peak_bytes=0,
    template_bytes=0,
    worker_peak_bytes=900 * MIB,
    worker_bytes=600 * MIB,
)


def with_worker(footprint: Footprint, peak: int, *, tokens: int = 0, rest: int = 0) -> Footprint:
    measured = Measured(worker_peak_bytes=peak, worker_bytes=rest, tokens=tokens)
    return footprint_with(footprint, measured, is_declared=False)


def test_without_measurements_a_footprint_stays() -> None:
    for measured in (None, Measured()):
        assert footprint_with(COMPUTED, measured, is_declared=False) == COMPUTED


@pytest.mark.parametrize("factor", [1, 4])
def test_template_is_leased_as_measured_with_a_margin(factor: int) -> None:
    measured = Measured(template_peak_bytes=200 * MIB * factor, template_bytes=100 * MIB * factor)
    found = footprint_with(COMPUTED, measured, is_declared=False)
    assert (found.template_peak_bytes, found.template_bytes) == (210 * MIB * factor, 105 * MIB * factor)
    assert (
        replace(found, template_peak_bytes=COMPUTED.template_peak_bytes, template_bytes=COMPUTED.template_bytes)
        == COMPUTED
    )


def test_template_peak_is_never_below_its_rest() -> None:
    measured = Measured(template_bytes=100 * MIB)
    found = footprint_with(COMPUTED, measured, is_declared=False)
    assert found.template_peak_bytes == found.template_bytes == 105 * MIB


def test_worker_that_was_larger_than_computed_is_leased_more_at_once() -> None:
    found = with_worker(COMPUTED, 500 * MIB)
    assert found == replace(COMPUTED, worker_peak_bytes=550 * MIB, worker_bytes=550 * MIB)


def test_worker_that_leaks_is_leased_twice_the_computed_bytes_at_most() -> None:
    assert with_worker(COMPUTED, 5 * GIB).worker_peak_bytes == 800 * MIB


@pytest.mark.parametrize("tokens", [0, ENOUGH, 100 * ENOUGH])
def test_worker_is_never_leased_less_than_computed_however_much_it_computed(tokens: int) -> None:
    found = with_worker(COMPUTED, 100 * MIB, tokens=tokens)
    assert (found.worker_peak_bytes, found.worker_bytes) == (400 * MIB, 400 * MIB)


def test_worker_that_peaks_while_it_loads_keeps_what_it_may_need_to_compute() -> None:
    found = with_worker(SPAWNED, 800 * MIB, rest=300 * MIB, tokens=ENOUGH)
    assert (found.worker_peak_bytes, found.worker_bytes) == (900 * MIB, 600 * MIB)


def test_worker_that_rests_above_what_it_should_compute_with_is_leased_more_after_loading() -> None:
    found = with_worker(SPAWNED, 1000 * MIB, rest=700 * MIB)
    assert (found.worker_peak_bytes, found.worker_bytes) == (1100 * MIB, 770 * MIB)


def test_device_memory_of_a_worker_is_leased_as_measured_where_there_is_any() -> None:
    on_device = replace(SPAWNED, device_bytes=1000 * MIB)

    def lease(footprint: Footprint, peak: int, tokens: int = 0) -> int:
        measured = Measured(worker_peak_bytes=900 * MIB, device_peak_bytes=peak, tokens=tokens)
        return footprint_with(footprint, measured, is_declared=False).device_bytes

    assert lease(on_device, 0) == 1000 * MIB
    assert lease(on_device, 1500 * MIB) == 1650 * MIB
    assert lease(on_device, 9000 * MIB) == 2000 * MIB
    assert lease(on_device, 600 * MIB) == 1000 * MIB
    assert lease(on_device, 600 * MIB, ENOUGH) == 1000 * MIB
    assert lease(SPAWNED, 600 * MIB, ENOUGH) == 0


def test_declared_footprint_is_only_raised() -> None:
    small = Measured(100 * MIB, 50 * MIB, worker_peak_bytes=100 * MIB, worker_bytes=50 * MIB, tokens=ENOUGH)
    assert footprint_with(COMPUTED, small, is_declared=True) == COMPUTED
    large = replace(small, template_bytes=400 * MIB, template_peak_bytes=500 * MIB, worker_peak_bytes=500 * MIB)
    raised = footprint_with(COMPUTED, large, is_declared=True)
    assert raised == Footprint(352 * MIB, 525 * MIB, 420 * MIB, 550 * MIB, 550 * MIB)


def test_leak_is_told_from_a_need_by_the_computed_bytes_where_the_declared_ones_are_far_too_low() -> None:
    declared = replace(COMPUTED, worker_peak_bytes=32 * MIB, worker_bytes=32 * MIB)
    measured = Measured(worker_peak_bytes=500 * MIB)
    alone = footprint_with(declared, measured, is_declared=True)
    beside = footprint_with(declared, measured, is_declared=True, computed=COMPUTED)
    assert (alone.worker_bytes, beside.worker_bytes) == (64 * MIB, 550 * MIB)


def test_estimate_that_is_too_low_is_named_from_the_first_evidence() -> None:
    measured = Measured(template_bytes=100 * MIB, worker_peak_bytes=400 * MIB)
    assert deviation(400 * MIB, measured, token_budget=BUDGET) is None
    text = deviation(400 * MIB - 1, measured, token_budget=BUDGET)
    assert text == 'the estimate of 400 MiB is too low: measured were 500 MiB; better is "550MiB"'


def test_estimate_that_is_too_high_is_named_after_enough_work_only() -> None:
    measured = Measured(template_bytes=100 * MIB, worker_peak_bytes=400 * MIB, tokens=ENOUGH - 1)
    enough = replace(measured, tokens=ENOUGH)
    assert deviation(GIB, measured, token_budget=BUDGET) is None
    assert deviation(600 * MIB, enough, token_budget=BUDGET) is None
    text = deviation(GIB, enough, token_budget=BUDGET)
    assert text == 'the estimate of 1.0 GiB is too high: measured were 500 MiB; better is "550MiB"'


def test_better_number_is_not_found_wanting_itself() -> None:
    for measured in (
        Measured(template_bytes=100 * MIB, worker_peak_bytes=400 * MIB, tokens=ENOUGH),
        Measured(worker_peak_bytes=900 * MIB, worker_bytes=300 * MIB, tokens=ENOUGH),
    ):
        for declared in (80 * MIB, 8 * GIB):
            text = deviation(declared, measured, token_budget=BUDGET)
            assert text is not None
            better = int(text.rpartition('"')[0].rpartition('"')[2].removesuffix("MiB")) * MIB
            assert deviation(better, measured, token_budget=BUDGET) is None


def test_peak_of_a_load_is_nothing_that_an_estimate_stands_for() -> None:
    measured = Measured(worker_peak_bytes=900 * MIB, worker_bytes=400 * MIB, tokens=ENOUGH)
    assert deviation(400 * MIB, measured, token_budget=BUDGET) is None
    assert deviation(300 * MIB, measured, token_budget=BUDGET) is not None


def test_numbers_of_a_key_are_kept() -> None:
    learned = Learned("x")
    assert learned.get(KEY) is None
    learned.note_template(KEY, 100 * MIB, 150 * MIB)
    learned.note_worker(KEY, 200 * MIB, 300 * MIB, 400 * MIB, 5)
    learned.note_worker(KEY, 100 * MIB, 100 * MIB, 0, 4)
    assert learned.get(KEY) == Measured(150 * MIB, 100 * MIB, 300 * MIB, 200 * MIB, 400 * MIB, 5)
    assert learned.get(replace(KEY, threads=3)) is None
    assert list(learned) == [KEY]


def test_template_that_became_smaller_is_followed_in_steps() -> None:
    learned = Learned("x")
    for private in (200, 100, 100):
        learned.note_template(KEY, private * MIB, 2 * private * MIB)
    measured = learned.get(KEY)
    assert measured is not None
    assert (measured.template_bytes, measured.template_peak_bytes) == (156 * MIB + MIB // 4, 312 * MIB + MIB // 2)
    learned.note_template(KEY, 300 * MIB, 300 * MIB)
    measured = learned.get(KEY)
    assert measured is not None
    assert measured.template_bytes == 300 * MIB


def test_bytes_that_no_process_has_are_not_noted() -> None:
    learned = Learned("x")
    for count in (-1, 0, MIB - 1, 2**60):
        assert not learned.note_template(KEY, count, count)
        assert not learned.note_worker(KEY, count, count, count, 0)
    assert list(learned) == []


def test_small_changes_are_not_worth_writing_until_they_add_up() -> None:
    learned = Learned("x")
    notes = [learned.note_worker(KEY, 0, peak * MIB, 0, 1) for peak in (100, 103, 105, 106, 107, 111, 112)]
    assert notes == [True, False, False, True, False, False, True]


def test_twice_the_tokens_are_worth_writing() -> None:
    learned = Learned("x")
    notes = [learned.note_worker(KEY, 0, 100 * MIB, 0, tokens) for tokens in (10, 20, 21, 42, 43)]
    assert notes == [True, False, True, False, True]


def test_what_was_written_before_is_not_worth_writing_again() -> None:
    learned = Learned("x")
    learned.put(KEY, Measured(150 * MIB, 100 * MIB))
    assert not learned.note_template(KEY, 101 * MIB, 151 * MIB)


def test_key_that_was_noted_least_recently_goes_when_there_are_too_many() -> None:
    learned = Learned("x")
    keys = [replace(KEY, threads=threads) for threads in range(MAX_ENTRIES)]
    for key in keys:
        learned.note_template(key, 100 * MIB, 100 * MIB)
    learned.note_template(keys[0], 100 * MIB, 100 * MIB)
    learned.note_template(replace(KEY, precision="int8"), 100 * MIB, 100 * MIB)
    assert len(list(learned)) == MAX_ENTRIES
    assert learned.get(keys[0]) is not None
    assert learned.get(keys[1]) is None
