"""A worker's answers, over its real link: what is right, what is wrong, what is late, and what disturbs what."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddaemon.protocol import bodies, codec, control, link
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Hello, Lane, Tokens, Vectors
from tests.support.processes import Request, StandIn, Tree, embed, tokenize
from tests.support.stub_engine import StubModel, stub_card, stub_order, vector
from tests.support.waiting import wait_until

DIM = 8


@pytest.fixture
def stand_in(socket_folder: Path) -> Iterator[StandIn]:
    with StandIn(socket_folder) as one:
        yield one


@pytest.fixture
def tree(stand_in: StandIn, tmp_path: Path) -> Tree:
    return stand_in.whole_tree(stub_order(stub_card(tmp_path), limits=Limits(max_texts=600)))


def expected(text: str, prompt: str = "") -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The unit vector of a text, computed apart from any worker."""
    row = vector(StubModel(stub_order()).tokenize([text], prompt=prompt, max_tokens=64)[0].ids, DIM)
    return row / np.linalg.norm(row)


def test_texts_become_vectors_in_their_order(stand_in: StandIn, tree: Tree) -> None:
    texts = [" ".join(["word"] * (index % 40)) + f" {index}" for index in range(500)]
    (result,) = stand_in.ask(embed(texts))
    assert isinstance(result.answer, Vectors)
    assert (result.answer.id, result.answer.model, result.answer.dtype) == (77, "stub", "float32")
    assert result.link.texts == 500
    assert result.answer.tokens == result.link.tokens
    assert result.answer.timings.queue_us == 5
    np.testing.assert_allclose(result.vectors, [expected(text) for text in texts], rtol=1e-5)


def test_single_text_is_a_batch_of_one(stand_in: StandIn, tree: Tree) -> None:
    (result,) = stand_in.ask(embed(["a text"]))
    np.testing.assert_allclose(result.vectors, [expected("a text")], rtol=1e-6)


def test_identical_texts_get_identical_vectors_and_are_computed_once(stand_in: StandIn, tree: Tree) -> None:
    (result,) = stand_in.ask(embed(["same", "other", "same"]))
    assert result.link.tokens == 6
    np.testing.assert_array_equal(result.vectors[0], result.vectors[2])
    np.testing.assert_allclose(result.vectors, [expected(text) for text in ("same", "other", "same")], rtol=1e-6)


def test_requests_of_one_dispatch_are_packed_together_and_answered_apart(stand_in: StandIn, tree: Tree) -> None:
    results = stand_in.ask(*[embed([f"text {index}", "common"], id=index + 1) for index in range(50)])
    for index, result in enumerate(results):
        assert result.answer.id == index + 1
        np.testing.assert_allclose(result.vectors, [expected(f"text {index}"), expected("common")], rtol=1e-6)


def test_task_puts_its_prompt_before_the_text(stand_in: StandIn, tree: Tree) -> None:
    (result,) = stand_in.ask(embed(["text"], task="query"))
    np.testing.assert_allclose(result.vectors, [expected("text", "find this: ")], rtol=1e-6)


def test_prompt_is_left_out_of_the_pooling_where_the_model_wants_that(stand_in: StandIn) -> None:
    stand_in.whole_tree(stub_order(stub_card(include_prompt=False)))
    with_prompt, without = stand_in.ask(embed(["text"], task="query"), embed(["text"]))
    encoded = StubModel(stub_order()).tokenize(["text"], prompt="find this: ", max_tokens=64)[0]
    row = vector(encoded.ids[encoded.prompt_tokens :], DIM)
    np.testing.assert_allclose(with_prompt.vectors[0], row / np.linalg.norm(row), rtol=1e-6)
    np.testing.assert_allclose(without.vectors[0], expected("text"), rtol=1e-6)


def test_tokenize_is_answered_without_the_model(stand_in: StandIn, tree: Tree) -> None:
    (result,) = stand_in.ask(tokenize(["one two", "one"]))
    assert isinstance(result.answer, Tokens)
    ids, lengths = (np.frombuffer(frame, dtype="<i4") for frame in result.frames)
    model = StubModel(stub_order())
    first, second = (one.ids for one in model.tokenize(["one two", "one"], prompt="", max_tokens=64))
    assert ids.tolist() == [*first, *second]
    assert lengths.tolist() == [4, 3]


def test_token_ids_give_the_vector_of_their_text(stand_in: StandIn, tree: Tree) -> None:
    ids = StubModel(stub_order()).tokenize(["a text"], prompt="", max_tokens=64)[0].ids
    by_ids = Request(embed(["x"]).header, bodies.encode_ids([ids.tolist()], Limits()))
    (result,) = stand_in.ask(by_ids)
    np.testing.assert_allclose(result.vectors, [expected("a text")], rtol=1e-6)


BAD_REQUESTS = [
    (embed([""]), "invalid_input"),
    (embed(["a\0b"]), "invalid_input"),
    (embed(["a"], precision="float64"), "invalid_input"),
    (embed(["a"], dimensions=3), "unknown_dimensions"),
    (embed(["a"], task="poem"), "unknown_task"),
    (embed(["word " * 70], truncate=False), "text_too_long"),
    (embed([str(index) for index in range(601)]), "input_too_large"),
    (Request(b"\xc1", b""), "malformed"),
    (Request(codec.encode_request(Hello(id=77)), b""), "malformed"),
    (Request(embed(["a"]).header, b"\xc1"), "malformed"),
    (embed(["tokenizer fails"]), "internal"),
    (embed(["nan"]), "bad_output"),
    (embed(["zero"]), "bad_output"),
    (embed(["raise"]), "internal"),
]


@pytest.mark.parametrize(("bad", "code"), BAD_REQUESTS)
def test_bad_request_is_told_so_and_no_other_notices(stand_in: StandIn, tree: Tree, bad: Request, code: str) -> None:
    first, error, last = stand_in.ask(embed(["before"]), bad, embed(["after"]))
    assert error.link.code == error.error.code == code
    assert error.frames == []
    np.testing.assert_allclose(first.vectors, [expected("before")], rtol=1e-6)
    np.testing.assert_allclose(last.vectors, [expected("after")], rtol=1e-6)
    np.testing.assert_allclose(stand_in.ask(embed(["next"]))[0].vectors, [expected("next")], rtol=1e-6)


def test_failed_forward_says_what_failed(stand_in: StandIn, tree: Tree) -> None:
    (result,) = stand_in.ask(embed(["raise", "another text"]))
    assert result.error.id == 77
    assert result.error.cause == ("RuntimeError: told to",)


def test_expired_request_is_answered_and_not_computed(stand_in: StandIn, tree: Tree, tmp_path: Path) -> None:
    late = Request(*_frames(embed(["stall 0.001 late"])), expires_in_ms=0)
    expired, good = stand_in.ask(late, embed(["in time"]))
    assert expired.error.code == "expired"
    assert good.link.code == ""
    assert not (tmp_path / "stub_obeyed.txt").exists()


def test_request_that_expires_while_it_waits_for_the_model_is_not_computed(
    stand_in: StandIn, tree: Tree, tmp_path: Path
) -> None:
    stand_in.dispatch(embed(["stall 0.3"]))
    wait_until((tmp_path / "stub_obeyed.txt").exists)
    stand_in.dispatch(Request(*_frames(embed(["stall 0 late"])), expires_in_ms=50))
    assert stand_in.receive_result().link.code == ""
    assert stand_in.receive_result().error.code == "expired"
    assert (tmp_path / "stub_obeyed.txt").read_text() == "stall 0.3\n"


def _frames(request: Request) -> tuple[bytes, bytes]:
    return request.header, request.body


def test_interactive_requests_go_before_bulk_in_a_dispatch(stand_in: StandIn, tree: Tree) -> None:
    bulk = embed(["word " * 60 + str(index) for index in range(40)], lane=Lane.BULK)
    serials = stand_in.dispatch(bulk, embed(["quick"]))
    assert [stand_in.receive_result().link.serial for _ in serials] == serials[::-1]


def test_interactive_requests_go_before_bulk_that_is_under_way(stand_in: StandIn, tree: Tree, tmp_path: Path) -> None:
    (bulk,) = stand_in.dispatch(
        embed(["stall 0.2", *("word " * 60 + str(index) for index in range(40))], lane=Lane.BULK)
    )
    wait_until((tmp_path / "stub_obeyed.txt").exists)
    (quick,) = stand_in.dispatch(embed(["quick"]))
    assert [stand_in.receive_result().link.serial for _ in range(2)] == [quick, bulk]


def test_heartbeats_carry_progress_and_tell_busy_from_idle(stand_in: StandIn, tree: Tree, tmp_path: Path) -> None:
    idle = stand_in.receive_heartbeat()
    assert (idle.progress, idle.busy) == (0, False)
    stand_in.dispatch(embed(["stall 0.5"]))
    wait_until((tmp_path / "stub_obeyed.txt").exists)
    stand_in.heartbeats.clear()
    stand_in.receive_result()
    assert any(beat.busy and beat.progress == 0 for beat in stand_in.heartbeats)
    done = stand_in.receive_heartbeat()
    assert (done.progress, done.busy) == (1, False)


def test_message_for_another_incarnation_is_dropped(stand_in: StandIn, tree: Tree) -> None:
    header = link.encode_to_worker(link.Drain(incarnation=2))
    stand_in.router.send_multipart([link.routing_id(1, 1), header])
    assert stand_in.ask(embed(["still here"]))[0].link.code == ""


def test_drained_worker_answers_what_it_holds_says_so_and_exits(stand_in: StandIn, tree: Tree, tmp_path: Path) -> None:
    serials = stand_in.dispatch(embed(["stall 0.3"]), embed([f"bulk {index}" for index in range(200)]))
    wait_until((tmp_path / "stub_obeyed.txt").exists)
    stand_in.drain()
    assert {stand_in.receive_result().link.serial for _ in serials} == set(serials)
    assert stand_in.receive(link.Drained) == link.Drained(1, 1)
    exited = tree.template.receive(control.Exited)
    assert (exited.pid, exited.exit_code) == (tree.worker_forked.pid, 0)
    assert any(beat.busy for beat in stand_in.heartbeats)
