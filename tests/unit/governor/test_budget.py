from __future__ import annotations

import re
from decimal import Decimal

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import (
    DEFAULT_MEMORY_BUDGET,
    DEFAULT_RESERVE_BYTES,
    GIB,
    KIB,
    MIB,
    Share,
    budget_from,
    default_reserve_bytes,
    format_bytes,
    parse_budget,
    parse_bytes,
)
from embeddaemon.governor.samples import Limit

MACHINE = Limit(8 * GIB, "machine MemTotal")
NONSENSE: tuple[object, ...] = (
    "lots", "", " ", 0, -1, "0", "-1", "0GiB", "-1GiB", "0.1", "1e9", "8 EiB", "8GiB!", "8GiB 8GiB", "nan", "inf",
    True, False, None, 0.8, 8.0, [], {}, b"8GiB", "9" * 5000, "1." + "0" * 5000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (1, 1),
        (8 * GIB, 8 * GIB),
        ("1", 1),
        ("8GiB", 8 * GIB),
        ("8 GiB", 8 * GIB),
        (" 8gib ", 8 * GIB),
        ("500MB", 500_000_000),
        ("500MiB", 500 * MIB),
        ("1.5GB", 1_500_000_000),
        ("0.5KiB", 512),
        ("7kB", 7000),
        ("2TiB", 2048 * GIB),
        ("12B", 12),
    ],
)
def test_bytes_are_read_as_people_write_them(setting: object, expected: int) -> None:
    assert parse_bytes(setting) == expected


@pytest.mark.parametrize("setting", NONSENSE)
def test_bytes_that_are_no_bytes_are_an_error_that_names_what_is_allowed(setting: object) -> None:
    with pytest.raises(ConfigError, match="allowed: a positive whole number of bytes"):
        parse_bytes(setting)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("80%", Share(Decimal(80))),
        ("100 %", Share(Decimal(100))),
        ("12.5%", Share(Decimal("12.5"))),
        ("8GiB", 8 * GIB),
        (8 * GIB, 8 * GIB),
    ],
)
def test_a_budget_is_a_share_or_bytes(setting: object, expected: Share | int) -> None:
    assert parse_budget(setting) == expected


@pytest.mark.parametrize("setting", [*NONSENSE, "0%", "0.0%", "101%", "100.01%", "-5%", "%", "80%%", "1000%"])
def test_a_budget_that_is_none_is_an_error_that_names_what_is_allowed(setting: object) -> None:
    with pytest.raises(ConfigError, match=re.escape('allowed: a share such as "80%" (above 0%, at most 100%)')):
        parse_budget(setting)


def test_a_share_is_taken_of_the_real_limit() -> None:
    budget = budget_from("75%", MACHINE)
    assert (budget.device, budget.bytes, budget.limit) == ("ram", 6 * GIB, MACHINE)


def test_the_source_of_a_budget_says_which_share_of_which_limit_it_is() -> None:
    assert budget_from("75%", MACHINE).source == "75 % of 8.0 GiB, machine MemTotal"
    assert budget_from("1GiB", MACHINE).source == "12.5 % of 8.0 GiB, machine MemTotal"


def test_the_default_budget_can_be_parsed() -> None:
    assert parse_budget(DEFAULT_MEMORY_BUDGET) == Share(Decimal(80))


def test_a_budget_may_be_the_whole_limit_and_not_a_byte_more() -> None:
    assert budget_from("8GiB", MACHINE).bytes == MACHINE.bytes
    with pytest.raises(ConfigError, match=r"above the real limit of 8\.0 GiB \(machine MemTotal\)"):
        budget_from(MACHINE.bytes + 1, MACHINE)


@pytest.mark.parametrize(("setting", "limit"), [(80, MACHINE), ("8", MACHINE), ("1%", Limit(50 * MIB, "tiny"))])
def test_a_budget_in_which_nothing_fits_is_a_slip_and_refused(setting: object, limit: Limit) -> None:
    with pytest.raises(ConfigError, match=r"nothing fits into less than 1 MiB"):
        budget_from(setting, limit)


@pytest.mark.parametrize(
    ("budget_bytes", "expected"),
    [(100 * GIB, DEFAULT_RESERVE_BYTES), (10 * DEFAULT_RESERVE_BYTES, DEFAULT_RESERVE_BYTES), (1000 * MIB, 100 * MIB)],
)
def test_the_default_reserve_is_fixed_but_never_more_than_a_tenth(budget_bytes: int, expected: int) -> None:
    assert default_reserve_bytes(budget_bytes) == expected


def test_the_reserve_is_never_leasable() -> None:
    budget = budget_from("4GiB", MACHINE, 1 * GIB)
    assert budget.reserve_bytes == 1 * GIB
    assert budget.leasable_bytes == 3 * GIB


def test_there_may_be_no_reserve_at_all() -> None:
    assert budget_from("4GiB", MACHINE, 0).leasable_bytes == 4 * GIB


@pytest.mark.parametrize("reserve_bytes", [-1, 4 * GIB, 5 * GIB])
def test_a_reserve_that_does_not_fit_the_budget_is_refused(reserve_bytes: int) -> None:
    with pytest.raises(ConfigError, match=r"does not fit the memory budget of 4\.0 GiB"):
        budget_from("4GiB", MACHINE, reserve_bytes)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (14 * MIB, "14 MiB"),
        (1843 * MIB, "1.8 GiB"),
        (-2 * GIB, "-2.0 GiB"),
    ],
)
def test_bytes_are_written_for_people(count: int, expected: str) -> None:
    assert format_bytes(count) == expected
