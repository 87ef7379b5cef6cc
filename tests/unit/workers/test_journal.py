"""What a worker writes down before it begins, as the supervisor reads it afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from embeddaemon.protocol.journal import (
    DIGEST_BYTES,
    HEADER,
    MAGIC,
    WHOLE_REQUEST,
    Record,
    digest_of_ids,
    digest_of_text,
    file_bytes,
    read_turns,
    slot_offset,
)
from embeddaemon.supervisor.processes.journals import Journals
from embeddaemon.workers.journal import Journal, record
from embeddaemon.workers.screening import Screen
from embeddaemon.workers.watching import Watch

DIGESTS = [bytes([number]) * DIGEST_BYTES for number in range(5)]


@pytest.fixture
def journals() -> Iterator[Journals]:
    one = Journals()
    yield one
    one.forget(1)


@pytest.fixture
def journal(journals: Journals) -> Journal:
    (descriptor,) = journals.make(1)
    return Journal(os.dup(descriptor), slots=3, capacity=4)


def read(journals: Journals) -> list[tuple[Record, ...]]:
    turns = journals.read(1)
    assert turns is not None
    return [turn.records for turn in turns]


def written(journals: Journals) -> list[bytes]:
    """The digests of the one turn that there is."""
    (records,) = read(journals)
    return [each.digest for each in records]


def test_what_was_begun_and_not_ended_is_there(journals: Journals, journal: Journal) -> None:
    journal.begin(0, [record(7, WHOLE_REQUEST)])
    journal.begin(1, [record(7, DIGESTS[0]), record(8, DIGESTS[1])])
    journal.begin(2, [record(9, DIGESTS[2])])
    journal.end(2)
    assert read(journals) == [(Record(7, WHOLE_REQUEST),), (Record(7, DIGESTS[0]), Record(8, DIGESTS[1]))]


def test_next_turn_takes_the_place_of_the_one_before(journals: Journals, journal: Journal) -> None:
    journal.begin(1, [record(1, digest) for digest in DIGESTS[:4]])
    journal.begin(1, [record(2, DIGESTS[0])])
    assert read(journals) == [(Record(2, DIGESTS[0]),)]


def test_turn_that_is_larger_than_its_slot_keeps_to_it(journals: Journals, journal: Journal) -> None:
    journal.begin(2, [record(2, DIGESTS[0])])
    journal.begin(1, [record(1, digest) for digest in DIGESTS])
    assert [len(records) for records in read(journals)] == [4, 1]


def test_journal_that_nobody_wrote_says_nothing(journals: Journals) -> None:
    journals.make(1)
    assert journals.read(1) is None
    assert journals.read(2) is None


def test_worker_without_a_journal_writes_nowhere() -> None:
    journal = Journal(None, slots=1, capacity=1)
    journal.begin(0, [record(1, DIGESTS[0])])
    journal.end(0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        HEADER.pack(b"what", 1, 1),
        HEADER.pack(MAGIC, 2**32 - 1, 2**32 - 1),
        HEADER.pack(MAGIC, 3, 2**32 - 1) + b"\xff" * 40,
        HEADER.pack(MAGIC, 1, 1) + b"\xff" * 3,
    ],
)
def test_scribbles_are_read_without_harm(content: bytes) -> None:
    turns = read_turns(lambda offset, size: content[offset : offset + size])
    assert turns is None or len(turns) <= 3


def test_digests_tell_texts_prompts_and_ids_apart() -> None:
    texts = {digest_of_text("a", ""), digest_of_text("b", ""), digest_of_text("a", "b"), digest_of_text("", "a")}
    ids = {digest_of_ids(b"a"), digest_of_ids(b"")}
    assert len(texts | ids) == 6
    assert digest_of_text("a", "p") == digest_of_text("a", "p")


def test_slots_do_not_overlap() -> None:
    assert slot_offset(1, 10) - slot_offset(0, 10) == file_bytes(1, 10) - HEADER.size


def test_suspected_text_is_begun_by_itself_and_the_others_together(journals: Journals, journal: Journal) -> None:
    watch = Watch(journal, Screen(), serial=5, alone=(DIGESTS[2],))
    seen = [(list(part), written(journals)) for part in watch.parts(DIGESTS)]
    assert seen == [([0, 1], DIGESTS[:2]), ([2], DIGESTS[2:3]), ([3, 4], DIGESTS[3:])]
    assert watch.places_alone(DIGESTS) == {2}


def test_where_nobody_knows_which_all_are_begun_one_by_one(journal: Journal) -> None:
    watch = Watch(journal, Screen(), serial=5, alone=())
    assert [list(part) for part in watch.parts(DIGESTS)] == [[0], [1], [2], [3], [4]]
    assert watch.places_alone(DIGESTS) == {0, 1, 2, 3, 4}
