"""The frames of a worker's answers: the link's ``Result`` header, then the client's own, ready to be sent on. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embeddaemon.errors import BadOutput, EmbedDaemonError
from embeddaemon.models.card import ModelCard
from embeddaemon.protocol import codec, link
from embeddaemon.protocol.messages import Embed, Timings, Tokens, Vectors
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.requests import Tokenized

Frames = list[bytes | memoryview]

_SMALLEST_NORM = np.float32(1e-12)
"""A cut vector may be all zero although the whole one is not."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who answers: what every message from a worker carries."""

    worker: int
    incarnation: int

    def __str__(self) -> str:
        return f"{self.worker}.{self.incarnation}"


def error_frames(sender: Sender, serial: int, client_id: int, error: EmbedDaemonError, *, texts: int = 0) -> Frames:
    """A request that ended without its result."""
    result = link.Result(sender.worker, sender.incarnation, serial, error.code, texts, 0, 0, 0)
    return [link.encode_from_worker(result), codec.encode_answer(codec.error_answer(client_id, error))]


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
    request: Embed,
    tokenized: Tokenized,
    rows: Rows,
    *,
    tokenize_us: int,
    compute_us: int,
) -> Frames:
    """``rows`` as the client asked for them, each text of the request in its place."""
    if tokenized.positions is not None:
        rows = rows[tokenized.positions]
    header = Vectors(
        id=request.id,
        model=item.model,
        count=tokenized.count,
        dim=rows.shape[1],
        dtype="float32",
        tokens=tokenized.tokens,
        truncated=tokenized.truncated,
        timings=Timings(queue_us=item.queue_us, tokenize_us=tokenize_us, compute_us=compute_us),
    )
    result = link.Result(
        sender.worker, sender.incarnation, item.serial, "", tokenized.count, tokenized.tokens, tokenize_us, compute_us
    )
    return [link.encode_from_worker(result), codec.encode_answer(header), _wire(rows, "<f4")]


def shape_rows(rows: Rows, request: Embed, card: ModelCard) -> Rows:
    """Pooled vectors to what was asked for: the model's own normalisation, then fewer dimensions, then unit length.

    ``rows`` is the caller's to give away: it may be changed in place. Raises BadOutput.
    """
    norms = _norms(rows)
    good = np.isfinite(norms) & (norms > 0)
    if not good.all():
        raise BadOutput(
            f"{card.name} computed vectors that are not finite or all zero, {int((~good).sum())} of {len(rows)}; "
            "the texts, or the model's precision, are too much for it"
        )
    dim = request.dimensions or card.dim
    cut = dim < rows.shape[1]
    if card.normalize or (request.normalize and not cut):
        rows /= norms[:, None]
    if cut:
        rows = np.ascontiguousarray(rows[:, :dim])
        if request.normalize:
            rows /= np.maximum(_norms(rows), _SMALLEST_NORM)[:, None]
    return rows


def _norms(rows: Rows) -> Rows:
    norms: Rows = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms


def _wire(array: npt.NDArray[np.generic], dtype: str) -> memoryview:
    """The array's bytes in row order, little endian; a view, unless this machine counts the other way round."""
    if sys.byteorder != "little":
        array = array.astype(dtype)
    return np.ascontiguousarray(array).data.cast("B")
