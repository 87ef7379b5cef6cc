"""The frames of a worker's answers: the link's ``Result`` header, then the client's own, ready to be sent on. Pure."""

from __future__ import annotations

import sys
from collections.abc import Collection, Container
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embeddaemon.errors import EmbedDaemonError
from embeddaemon.protocol import codec, error_codec, link
from embeddaemon.protocol.messages import Timings, Tokens, Vectors
from embeddaemon.protocol.numbers import Numbers
from embeddaemon.protocol.precisions import PRECISIONS
from embeddaemon.workers.output import Output
from embeddaemon.workers.requests import REFUSED, Tokenized

Frames = list[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who answers: what every message from a worker carries."""

    worker: int
    incarnation: int
    weights: str = ""
    """Stands for those of its model."""

    def __str__(self) -> str:
        return f"{self.worker}.{self.incarnation}"


def error_frames(sender: Sender, serial: int, client_id: int, error: EmbedDaemonError, *, texts: int = 0) -> Frames:
    """A request that ended without its result."""
    result = link.Result(sender.worker, sender.incarnation, serial, error.code, texts, 0, 0, 0)
    return [link.encode_from_worker(result), codec.encode_answer(error_codec.error_answer(client_id, error))]


def tokens_frames(sender: Sender, item: link.Item, client_id: int, tokenized: Tokenized, tokenize_us: int) -> Frames:
    """Ids end to end and their lengths, each text of the request in its place."""
    places = range(tokenized.count) if tokenized.positions is None else tokenized.positions
    texts = [tokenized.ids[place] for place in places]
    ids = np.concatenate(texts, dtype=np.int32)
    header = Tokens(
        id=client_id,
        model=item.model,
        count=tokenized.count,
        tokens=len(ids),
        truncated=tokenized.truncated,
        timings=Timings(queue_us=item.queue_us, tokenize_us=tokenize_us),
    )
    result = link.Result(
        sender.worker, sender.incarnation, item.serial, "", tokenized.count, tokenized.tokens, tokenize_us, 0
    )
    lengths = np.array([len(text) for text in texts], dtype=np.int32)
    return [link.encode_from_worker(result), codec.encode_answer(header), _wire(ids, "<i4"), _wire(lengths, "<i4")]


def vectors_frames(
    sender: Sender,
    item: link.Item,
    client_id: int,
    tokenized: Tokenized,
    output: Output,
    *,
    tokenize_us: int,
    compute_us: int,
    refused: Collection[int] = (),
) -> Frames:
    """The numbers as the client asked for them, each text of the request in its place, and their ranges if any.

    ``refused``: places of texts that were not computed after all.
    """
    poisoned = tokenized.indices_of({REFUSED, *refused}) if refused or tokenized.positions is not None else ()
    if poisoned:
        numbers = _with_gaps(output.numbers, tokenized, frozenset(poisoned))
    else:
        numbers = output.numbers if tokenized.positions is None else output.numbers[tokenized.positions]
    header = Vectors(
        id=client_id,
        model=item.model,
        count=tokenized.count,
        dim=output.dim,
        dtype=output.precision,
        tokens=tokenized.tokens,
        truncated=tokenized.truncated,
        timings=Timings(queue_us=item.queue_us, tokenize_us=tokenize_us, compute_us=compute_us),
        poisoned=poisoned,
        weights=sender.weights,
    )
    result = link.Result(
        sender.worker, sender.incarnation, item.serial, "", tokenized.count, tokenized.tokens, tokenize_us, compute_us
    )
    frames = [_wire(numbers, PRECISIONS[output.precision].dtype)]
    if output.ranges is not None:
        frames.append(_wire(output.ranges, "<f4"))
    return [link.encode_from_worker(result), codec.encode_answer(header), *frames]


def _with_gaps(numbers: Numbers, tokenized: Tokenized, poisoned: Container[int]) -> Numbers:
    """A row for each text of the request; of poisoned ones not a number, and 0 where there is no such thing."""
    gap = np.nan if numbers.dtype.kind == "f" else 0
    rows = np.full((tokenized.count, numbers.shape[1]), gap, numbers.dtype)
    where = range(tokenized.count) if tokenized.positions is None else tokenized.positions
    for index, place in enumerate(where):
        if index not in poisoned:
            rows[index] = numbers[place]
    return rows


def _wire(array: npt.NDArray[np.generic], dtype: str) -> memoryview:
    """The array's bytes in row order, little endian; a view, unless this machine counts the other way round."""
    if sys.byteorder != "little":
        array = array.astype(dtype)
    return np.ascontiguousarray(array).data.cast("B")
