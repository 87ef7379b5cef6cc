"""The frames of an answer."""

import numpy as np

from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import Tokens, Vectors
from embeddaemon.workers.answers import Sender, tokens_frames, vectors_frames
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.output import Output
from embeddaemon.workers.requests import Tokenized

SENDER = Sender(3, 9, "0f3a")
ITEM = link.Item(serial=12, model="shown", expires_in_ms=1000, queue_us=44)


def pooled() -> Rows:
    return np.array([[3, 0, 4, 0, 0, 0, 0, 12], [1, 1, 1, 1, 1, 1, 1, 1]], dtype=np.float32)


def tokenized(positions: list[int] | None) -> Tokenized:
    ids = [np.array([0, 5, 1], dtype=np.int32), np.array([0, 1], dtype=np.int32)]
    return Tokenized(ids, [0, 0], positions, (1,), len(positions or ids), 5)


def test_vectors_are_one_frame_in_the_order_of_the_texts() -> None:
    output = Output("float32", 8, pooled())
    header, client_header, frame = vectors_frames(
        SENDER, ITEM, 77, tokenized([1, 0, 1]), output, tokenize_us=7, compute_us=8
    )
    result = link.decode_from_worker(header)
    assert result == link.Result(3, 9, 12, "", texts=3, tokens=5, tokenize_us=7, compute_us=8)
    answer = codec.decode_answer(client_header)
    assert isinstance(answer, Vectors)
    assert (answer.id, answer.model, answer.count, answer.dim, answer.truncated) == (77, "shown", 3, 8, (1,))
    assert answer.weights == "0f3a"
    assert (answer.timings.queue_us, answer.timings.tokenize_us, answer.timings.compute_us) == (44, 7, 8)
    received = np.frombuffer(frame, dtype="<f4").reshape(3, 8)
    np.testing.assert_array_equal(received, pooled()[[1, 0, 1]])


def test_ranges_are_a_frame_of_their_own() -> None:
    ranges = np.array([[-1] * 8, [1] * 8], dtype=np.float32)
    output = Output("int8", 8, np.arange(16, dtype=np.int8).reshape(2, 8), ranges)
    _, client_header, frame, behind = vectors_frames(
        SENDER, ITEM, 77, tokenized([1, 0, 1]), output, tokenize_us=7, compute_us=8
    )
    answer = codec.decode_answer(client_header)
    assert isinstance(answer, Vectors)
    assert (answer.dtype, answer.dim) == ("int8", 8)
    assert np.frombuffer(frame, np.int8).tolist() == [*range(8, 16), *range(8), *range(8, 16)]
    np.testing.assert_array_equal(np.frombuffer(behind, "<f4").reshape(2, 8), ranges)


def test_bits_travel_eight_in_a_byte() -> None:
    output = Output("ubinary", 12, np.array([[1, 2], [3, 4]], dtype=np.uint8))
    _, client_header, frame = vectors_frames(SENDER, ITEM, 7, tokenized(None), output, tokenize_us=0, compute_us=0)
    answer = codec.decode_answer(client_header)
    assert isinstance(answer, Vectors)
    assert (answer.dtype, answer.dim, bytes(frame)) == ("ubinary", 12, b"\1\2\3\4")


def test_tokens_are_ids_and_lengths_in_the_order_of_the_texts() -> None:
    header, client_header, ids, lengths = tokens_frames(SENDER, ITEM, 77, tokenized([1, 0, 1]), 7)
    result = link.decode_from_worker(header)
    assert isinstance(result, link.Result)
    assert (result.texts, result.tokens) == (3, 5)
    answer = codec.decode_answer(client_header)
    assert isinstance(answer, Tokens)
    assert (answer.count, answer.tokens) == (3, 7)
    assert np.frombuffer(ids, dtype="<i4").tolist() == [0, 1, 0, 5, 1, 0, 1]
    assert np.frombuffer(lengths, dtype="<i4").tolist() == [2, 3, 2]
