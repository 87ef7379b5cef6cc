"""Answers that are kept: what counts as the same question, how much is kept, and what is never kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embeddaemon.errors import ConfigError
from embeddaemon.governor.budget import MIB
from embeddaemon.models.card import ModelCard
from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import Embed, ErrorAnswer, Lane, Timings, Vectors
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.documents import status
from embeddaemon.supervisor.events import CardRead, RequestReceived, WorkerSaid
from embeddaemon.supervisor.processes.child import ChildKind
from embeddaemon.supervisor.requests.cache import CACHE, ENTRY_BYTES, MAX_CACHED_ANSWER_BYTES, Cache, Kept, digest, key
from tests.support.supervisor_story import CLIENT, Story, spec
from tests.support.supervisor_world import card

FRAME = b"v" * 1536
BODY = digest(b"a query")


class Asking:
    """A story whose worker answers with real frames."""

    def __init__(self, **fields: Any) -> None:
        self.story = Story(**{"cache_bytes": MIB} | fields)
        self.story.load()
        self.story.run()
        self._ids = 1000

    def ask(self, *, body: bytes | None = BODY, client: bytes = CLIENT, **options: Any) -> int:
        self._ids += 1
        request = replace(Embed(id=self._ids, model="mini"), **options)
        self.story.tell(RequestReceived(client, request, (client, request.id), b"", 50, is_admin=False, digest=body))
        return request.id

    def answer(self, *, code: str = "") -> None:
        """The worker answers all that it holds."""
        worker = self.story.one(ChildKind.WORKER)
        while worker.held:
            held = worker.held.pop(0)
            assert isinstance(held.header, tuple)
            header = Vectors(
                id=held.header[1], model="mini", count=1, dim=384, dtype="float32", tokens=4, timings=Timings(1, 2, 3)
            )
            frames = [codec.encode_answer(header), FRAME]
            if code:
                frames = [codec.encode_answer(ErrorAnswer(id=held.header[1], code=code, message="no"))]
            result = link.Result(worker.worker, worker.incarnation, held.serial, code, 1, 4, 2, 3)
            self.story.tell(WorkerSaid(result, frames))
        worker.dispatches.clear()

    def ask_and_answer(self, **options: Any) -> None:
        self.ask(**options)
        self.answer()

    def is_recalled(self, **options: Any) -> bool:
        """Whether the answer comes at once, from what was kept."""
        id_, client = self.ask(**options), options.get("client", CLIENT)
        answers = self.story.answers.get((client, id_), [])
        if not answers:
            self.answer()
            return False
        (answer,) = answers
        assert isinstance(answer, do.Recall)
        assert (answer.answer.id, answer.frames, answer.answer.timings.cached) == (id_, (FRAME,), True)
        return True


def test_same_question_is_answered_without_a_worker() -> None:
    asking = Asking()
    asking.ask_and_answer()
    dispatches = asking.story.count(do.SendDispatch)
    assert asking.is_recalled()
    assert asking.is_recalled(client=b"another", lane=Lane.BULK, deadline_ms=50)
    assert asking.story.count(do.SendDispatch) == dispatches
    document = status(asking.story.state, asking.story.now)
    assert document["requests"]["answered"] == 3
    assert document["cache"] == {
        "limit_bytes": MIB,
        "used_bytes": len(FRAME) + ENTRY_BYTES,
        "entries": 1,
        "hits": 2,
        "misses": 1,
    }


@pytest.mark.parametrize(
    "difference",
    [
        {"body": digest(b"another query")},
        {"task": "query"},
        {"prompt": "query: "},
        {"dimensions": 128},
        {"normalize": False},
        {"truncate": False},
        {"lenient": True},
    ],
)
def test_what_makes_another_vector_makes_another_question(difference: dict[str, Any]) -> None:
    asking = Asking()
    asking.ask_and_answer()
    assert not asking.is_recalled(**difference)
    assert asking.is_recalled(**difference)
    assert asking.is_recalled()


def test_error_is_not_kept() -> None:
    asking = Asking()
    asking.ask()
    asking.answer(code="bad_output")
    assert not asking.is_recalled()


def test_large_request_is_neither_kept_nor_looked_for() -> None:
    asking = Asking()
    asking.ask_and_answer(body=None)
    assert not asking.is_recalled(body=None)
    assert (asking.story.state.cache.hits, asking.story.state.cache.misses) == (0, 0)


def test_answer_is_found_while_the_model_is_away_and_does_not_bring_it_back() -> None:
    asking = Asking()
    asking.ask_and_answer()
    asking.story.unload()
    asking.story.run()
    assert asking.is_recalled()
    assert not asking.story.model().workers


def test_answer_outlives_a_reload_of_the_same_weights_and_not_one_of_others() -> None:
    asking = Asking()
    asking.ask_and_answer()
    asking.story.unload()
    asking.story.run()
    asking.story.load()
    asking.story.run()
    assert asking.is_recalled()
    other: ModelCard = replace(card("mini"), revision="2")
    asking.story.tell(CardRead("mini", other))
    assert not asking.is_recalled()


def test_wrong_request_is_refused_although_its_answer_would_be_there() -> None:
    asking = Asking()
    asking.ask_and_answer()
    asking.story.stop()
    id_ = asking.ask()
    assert asking.story.outcome(id_) == "draining"


def test_oldest_answers_make_room_and_the_bound_holds() -> None:
    size = len(FRAME) + ENTRY_BYTES
    cache = Cache(3 * size)
    header = Vectors(id=1, model="m", count=1, dim=384, dtype="float32", tokens=3)
    for number in range(3):
        cache.keep(b"%d" % number, Kept(header, (FRAME,)))
    assert cache.find(b"0") is not None
    cache.keep(b"3", Kept(header, (FRAME,)))
    assert cache.find(b"1") is None
    assert all(cache.find(b"%d" % number) for number in (0, 2, 3))
    assert cache.used_bytes == 3 * size
    cache.keep(b"3", Kept(header, (FRAME,)))
    assert (cache.used_bytes, len(cache)) == (3 * size, 3)
    cache.keep(b"4", Kept(header, (b"v" * MAX_CACHED_ANSWER_BYTES, b"r")))
    assert len(cache) == 3


def test_key_tells_weights_and_texts_apart() -> None:
    request = Embed(id=1)
    keys = {key(weights, request, body) for weights in (b"w" * 16, b"x" * 16) for body in (digest(b"a"), digest(b"b"))}
    assert len(keys) == 4


def test_cache_has_a_lease_of_its_own_from_the_start() -> None:
    story = Story(cache_bytes=64 * MIB)
    assert story.leased() == {CACHE: 64 * MIB}


def test_cache_that_does_not_fit_the_budget_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"daemon\.cache_size .* needs 600"):
        Story(cache_bytes=600 * MIB, budget_bytes=500 * MIB)


def test_model_that_fits_only_without_the_cache_is_refused() -> None:
    story = Story(spec(estimate=300 * MIB), cache_bytes=400 * MIB, budget_bytes=900 * MIB)
    id_ = story.ask()
    assert story.outcome(id_) == "no_headroom"


def test_what_the_cache_holds_is_known_to_the_governor() -> None:
    asking = Asking()
    asking.ask_and_answer()
    asking.story.pass_time(2.5)
    (lease,) = [each for each in asking.story.governor.snapshot(asking.story.now).leases if each.holder == CACHE]
    assert lease.resident_bytes == len(FRAME) + ENTRY_BYTES
