from __future__ import annotations

import pytest

from embeddaemon.supervisor.requests.pace import DISPATCH_SECONDS, Measurement, Meter, Pace


def test_model_is_first_believed_to_be_as_slow_as_it_is_large() -> None:
    small, large = Pace(), Pace()
    small.expect(23_000_000)
    large.expect(7_000_000_000)
    assert large.seconds(1000) == pytest.approx(small.seconds(1000) * 7000 / 23)


def test_what_was_measured_outlasts_another_look_at_the_model() -> None:
    pace = Pace()
    pace.learn(Measurement(100_000, 1.0))
    before = pace.seconds_per_byte
    pace.expect(7_000_000_000)
    assert pace.seconds_per_byte == before


@pytest.mark.parametrize("bytes_per_second", [300, 20_000, 2_000_000])
def test_dispatch_becomes_as_large_as_its_time_allows(bytes_per_second: int) -> None:
    pace = Pace()
    for _ in range(60):
        size = pace.dispatch_bytes
        pace.learn(Measurement(size, size / bytes_per_second))
    assert pace.dispatch_bytes == pytest.approx(DISPATCH_SECONDS * bytes_per_second, rel=0.05)


def test_one_wild_measurement_changes_little_and_is_soon_forgotten() -> None:
    pace = Pace(1e-5)
    pace.learn(Measurement(1000, 3600.0))
    assert pace.seconds_per_byte < 1.5e-5
    for _ in range(8):
        pace.learn(Measurement(100_000, 1.0))
    assert pace.seconds_per_byte == pytest.approx(1e-5, rel=0.1)


def test_only_the_time_in_which_something_was_held_counts() -> None:
    meter = Meter()
    assert meter.through(1000, 10.0, 10.25) == Measurement(1000, 0.25)
    assert meter.through(1000, 99.0, 99.25) == Measurement(1000, 0.25)


def test_short_times_are_added_up_before_they_say_anything() -> None:
    meter = Meter()
    assert meter.through(1000, 10.0, 10.03125) is None
    assert meter.through(1000, 11.0, 11.03125) == Measurement(2000, 0.0625)


def test_dispatches_that_were_held_together_are_not_counted_twice() -> None:
    meter = Meter()
    assert meter.through(1000, 10.0, 10.25) == Measurement(1000, 0.25)
    assert meter.through(1000, 10.0, 10.5) == Measurement(1000, 0.25)


def test_what_was_not_computed_says_nothing_about_speed() -> None:
    assert Meter().through(0, 1.0, 9.0) is None
