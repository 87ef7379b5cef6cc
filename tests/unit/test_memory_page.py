"""docs/memory.md against the code: the log's events with their fields, and the reasons of waiting."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from embeddaemon.governor.core import WaitReason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")

_ROW = re.compile(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \| ", re.MULTILINE)
"""Of one event, with its fields and nothing else in the second column."""


def documented() -> dict[str, set[str]]:
    return {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in _ROW.findall(PAGE)}


@cache
def logged() -> Mapping[str, set[str]]:
    """The fields of every event, wherever it is logged."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for package in ("embeddaemon", "governor", "workers"):
        for file in (ROOT / package).rglob("*.py"):
            for event, fields in _events(ast.parse(file.read_text(encoding="utf-8"))):
                found[event] |= fields
    return found


def _events(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """``state.log(level, event, …)`` and ``fields(event, …)``."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        place = {"log": 1, "fields": 0}.get(call.func.attr if isinstance(call.func, ast.Attribute) else _name(call))
        if place is None or len(call.args) <= place:
            continue
        event = call.args[place]
        if isinstance(event, ast.Constant) and isinstance(event.value, str):
            yield event.value, {keyword.arg for keyword in call.keywords if keyword.arg is not None}


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


@pytest.mark.parametrize("event", sorted(documented()))
def test_event_has_the_fields_that_the_page_says(event: str) -> None:
    assert documented()[event] == logged()[event]


def test_decisions_of_the_governor_are_on_the_page() -> None:
    assert {"granted", "waiting_for_memory", "evicting", "never_fits", "recycling"} <= documented().keys()


@pytest.mark.parametrize("reason", WaitReason)
def test_every_reason_of_waiting_is_on_the_page_in_its_own_words(reason: WaitReason) -> None:
    assert f"| `{reason.name.lower()}` | {reason.value} |" in PAGE
