from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from embeddaemon.governor.eviction import Candidate, choose_victims, is_evictable

NOW = 1000.0
OLD_ENOUGH = 10.0


def idle(name: str, since: float) -> Candidate:
    return Candidate(name, (f"worker:{name}",), idle_since=since, loaded_at=0.0)


def names_of_victims(candidates: list[Candidate], freed_bytes: dict[str, int], needed_bytes: int) -> list[str] | None:
    def held_bytes(holders: Iterable[str]) -> int:
        return sum(freed_bytes[holder.removeprefix("worker:")] for holder in set(holders))

    victims = choose_victims(candidates, held_bytes, needed_bytes, NOW, OLD_ENOUGH)
    return None if victims is None else [victim.name for victim in victims]


@pytest.mark.parametrize(
    ("sizes_from_least_recently_used", "needed_bytes", "expected"),
    [
        ({"a": 5, "b": 5, "c": 5}, 5, ["a"]),
        ({"a": 5, "b": 5, "c": 5}, 6, ["a", "b"]),
        ({"a": 5, "b": 5, "c": 5}, 15, ["a", "b", "c"]),
        ({"a": 5, "b": 5, "c": 5}, 16, None),
        ({"a": 1, "b": 1, "c": 10}, 10, ["c"]),
        ({"a": 1, "b": 1, "c": 10}, 11, ["a", "c"]),
        ({"a": 4, "b": 6, "c": 10}, 14, ["a", "c"]),
        ({"a": 0, "b": 5}, 5, ["b"]),
        ({}, 1, None),
    ],
)
def test_the_least_recently_used_go_and_no_more_than_must(
    sizes_from_least_recently_used: dict[str, int], needed_bytes: int, expected: list[str] | None
) -> None:
    candidates = [idle(name, float(since)) for since, name in enumerate(sizes_from_least_recently_used)]
    assert names_of_victims(candidates[::-1], sizes_from_least_recently_used, needed_bytes) == expected


@pytest.mark.parametrize(
    "protected",
    [
        replace(idle("a", 0.0), idle_since=None),
        replace(idle("a", 0.0), is_pinned=True),
        replace(idle("a", 0.0), is_leaving=True),
        replace(idle("a", 0.0), loaded_at=NOW - OLD_ENOUGH + 0.1),
    ],
    ids=["busy", "pinned", "leaving", "young"],
)
def test_who_is_protected_stays_though_used_longest_ago(protected: Candidate) -> None:
    sizes = {"a": 10, "b": 10}
    assert not is_evictable(protected, NOW, OLD_ENOUGH)
    assert names_of_victims([protected, idle("b", 500.0)], sizes, 10) == ["b"]
    assert names_of_victims([protected, idle("b", 500.0)], sizes, 20) is None


def test_one_that_has_just_reached_the_minimum_age_may_go() -> None:
    candidate = replace(idle("a", 995.0), loaded_at=NOW - OLD_ENOUGH)
    assert names_of_victims([candidate], {"a": 1}, 1) == ["a"]
