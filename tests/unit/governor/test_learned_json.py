from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.learned import LARGEST_BYTES, MAX_ENTRIES, Key, Learned, Measured
from embeddaemon.governor.learned_json import from_text, to_text

KEY = Key("d" * 64, "bfloat16", "cpu", "fork", threads=2, token_budget=1000, stream_tokens=500, element_bytes=2)
MEASURED = Measured(150 * MIB, 100 * MIB, 300 * MIB, 200 * MIB, 0, 5)

names = st.text(max_size=128)
sizes = st.one_of(st.just(0), st.integers(MIB, LARGEST_BYTES))
keys = st.builds(
    Key,
    names,
    names,
    names,
    names,
    st.integers(0, 256),
    st.integers(1, 2**20),
    st.integers(0, 2**20),
    st.integers(0, 8),
)
measurements = st.builds(Measured, sizes, sizes, sizes, sizes, sizes, st.integers(0, 2**63))


def document(**changes: Any) -> dict[str, Any]:
    """A right one, with one entry of which fields are changed."""
    learned = Learned("x 1")
    learned.put(KEY, MEASURED)
    values: dict[str, Any] = json.loads(to_text(learned))
    values["entries"][0].update(changes)
    return values


@given(st.dictionaries(keys, measurements, max_size=5))
def test_what_was_written_is_read(entries: dict[Key, Measured]) -> None:
    learned = Learned("x 1")
    for key, measured in entries.items():
        learned.put(key, measured)
    read, why = from_text(to_text(learned), "x 1")
    assert why is None
    assert [(key, read.get(key)) for key in read] == list(entries.items())
    assert read.program == "x 1"


def test_numbers_of_another_version_are_not_used() -> None:
    read, why = from_text(json.dumps(document()), "x 2")
    assert (list(read), read.program) == ([], "x 2")
    assert why == "it is of x 1, this is x 2"


@pytest.mark.parametrize(
    "changes",
    [
        {"template_bytes": 1},
        {"template_bytes": -MIB},
        {"worker_peak_bytes": LARGEST_BYTES + 1},
        {"worker_bytes": 2.5e9},
        {"worker_bytes": False},
        {"worker_bytes": "200 MiB"},
        {"device_peak_bytes": None},
        {"tokens": -1},
        {"tokens": 2**70},
        {"threads": True},
        {"token_budget": 0},
        {"device": 7},
        {"precision": "x" * 200},
        {"surprise": 1},
    ],
)
def test_file_with_a_number_that_cannot_be_is_not_used_at_all(changes: dict[str, Any]) -> None:
    read, why = from_text(json.dumps(document(**changes)), "x 1")
    assert list(read) == []
    assert why
    assert next(iter(changes)) in why or "fields" in why


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", "[" * 100_000, '{"format": 2}', '{"format": 1, "program": "x 1"}', "1" * 5000),
        '{"format": 1, "program": "x 1", "entries": {}}',
        '{"format": 1, "program": "x 1", "entries": [7]}',
        '{"format": 1, "program": "x 1", "entries": [{}]}',
        json.dumps(document()).replace('"tokens": 5', '"tokens": NaN'),
    ],
)
def test_text_that_we_did_not_write_teaches_nothing(text: str) -> None:
    read, why = from_text(text, "x 1")
    assert list(read) == []
    assert why
    assert len(why) <= 200


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert list(from_text(text, "x 1")[0]) == []


def test_file_with_more_entries_than_are_kept_keeps_the_last_ones() -> None:
    values = document()
    values["entries"] = [{**values["entries"][0], "threads": threads} for threads in range(MAX_ENTRIES + 3)]
    read, why = from_text(json.dumps(values), "x 1")
    assert why is None
    assert [key.threads for key in read] == list(range(3, MAX_ENTRIES + 3))
