"""What a caller gave, checked and made into pieces. Raises InvalidInput and InputTooLarge before anything is sent."""

from __future__ import annotations

import math
import operator
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from embeddaemon.client import _faults as faults
from embeddaemon.client._window import PIECE_TEXTS, Call, Cutter, Piece, Span, cut
from embeddaemon.errors import EmbedDaemonError, InputTooLarge, InvalidInput
from embeddaemon.protocol import bodies, codec
from embeddaemon.protocol.limits import MAX_DIMENSIONS, MAX_HEADER_BYTES, Limits
from embeddaemon.protocol.messages import Embed, Lane, ModelRequest, Request, Tokenize
from embeddaemon.protocol.precisions import PRECISIONS

PIECE_IDS = 4096
"""Token ids in a piece: what PIECE_CHARACTERS come to."""

_MAX_OPTION_BYTES = MAX_HEADER_BYTES // 4
"""One text option. Three of them and the rest fit in a header."""

Pieces = Callable[[Limits], Iterator[Piece]]
"""The pieces of a call, made one by one as the window takes them, within the daemon's limits."""
AsyncPieces = Callable[[Limits], AsyncGenerator[Piece, None]]


def as_texts(texts: object) -> list[str]:
    """A list of strings out of whatever holds strings in an order: list, tuple, generator, array, series, keys."""
    if isinstance(texts, str) or not _is_ordered(texts):
        raise InvalidInput(f"texts must be a string or a list of strings, not {_kind(texts)}")
    listed: Iterable[object] = texts.tolist() if isinstance(texts, np.ndarray) else texts
    return [_check_text(text, index) for index, text in enumerate(listed)]


def as_stream(texts: object) -> Iterable[object]:
    """Anything that gives strings in an order, unread."""
    if isinstance(texts, str) or not _is_ordered(texts):
        raise InvalidInput(f"texts must be an iterable of strings, not {_kind(texts)}")
    return texts


def _is_ordered(texts: object) -> TypeGuard[Iterable[object]]:
    """Whether it gives things in an order. A dictionary would lose its values; its keys are as it was filled."""
    if isinstance(texts, bytes | bytearray | memoryview | Mapping):
        return False
    if isinstance(texts, np.ndarray):
        return texts.ndim > 0
    return isinstance(texts, Iterable) and (isinstance(texts, KeysView) or not isinstance(texts, AbstractSet))


def _kind(given: object) -> str:
    name = type(given).__name__
    if isinstance(given, np.ndarray) and given.ndim == 0:
        return "an array of no dimension: its .item() is what it holds"
    if isinstance(given, AsyncIterable):
        return f"{name}: AsyncClient.embed_stream takes texts that are waited for"
    return name


def checked_texts(texts: Iterable[object]) -> Iterator[str]:
    """The same for a stream, one text at a time."""
    for index, text in enumerate(texts):
        yield _check_text(text, index)


def _check_text(text: object, index: int) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"text {index} is {type(text).__name__}, not a string", details={"index": index})
    return text


def as_ids(ids: object) -> list[list[int]]:
    """Token ids, one list per text."""
    if isinstance(ids, str) or not _is_ordered(ids):
        raise InvalidInput(f"ids must be a list of lists of integers, not {_kind(ids)}")
    return [_ids_of_text(text, index) for index, text in enumerate(ids)]


def _ids_of_text(text: object, index: int) -> list[int]:
    problem = InvalidInput(f"ids of text {index} must be integers from 0 to 2**31-1", details={"index": index})
    if isinstance(text, np.ndarray):
        text = text.tolist()
    if isinstance(text, str | bytes) or not isinstance(text, Iterable):
        raise problem
    try:
        listed = [operator.index(one) for one in text]
    except TypeError as error:
        raise problem from error
    if not all(0 <= one < 2**31 for one in listed):
        raise problem
    return listed


def embed_request(
    *,
    model: str | None,
    task: str | None,
    prompt: str | None,
    dimensions: int | None,
    normalize: bool,
    truncate: bool,
    precision: str,
    lane: str | None,
    lenient: bool = False,
    on_poisoned: str = "raise",
) -> Embed:
    """The options of ``embed`` as a request without id."""
    return Embed(
        id=0,
        model=_option("model", model),
        lane=_lane(lane),
        task=_option("task", task),
        prompt=_option("prompt", prompt),
        dimensions=_dimensions(dimensions),
        normalize=_switch("normalize", normalize),
        truncate=_switch("truncate", truncate),
        precision=_precision(precision),
        lenient=lenient,
        partial=_is_partial(on_poisoned),
    )


def _is_partial(on_poisoned: object) -> bool:
    if on_poisoned not in ("raise", "nan"):
        raise InvalidInput(f"on_poisoned must be 'raise' or 'nan', not {on_poisoned!r}")
    return on_poisoned == "nan"


def tokenize_request(
    *, model: str | None, task: str | None, prompt: str | None, truncate: bool, lane: str | None
) -> Tokenize:
    """The options of ``tokenize`` as a request without id."""
    return Tokenize(
        id=0,
        model=_option("model", model),
        lane=_lane(lane),
        task=_option("task", task),
        prompt=_option("prompt", prompt),
        truncate=_switch("truncate", truncate),
    )


def model_name(name: object) -> str:
    """The model that ``load`` and ``unload`` are about."""
    checked = _option("model", name)
    if checked is None:
        raise InvalidInput("model must be a name")
    return checked


def _option(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a string, not {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name} has a lone surrogate at character {error.start}: it is not valid Unicode"
        ) from error
    if size > _MAX_OPTION_BYTES:
        raise InputTooLarge(f"{name} has {size} bytes, the limit is {_MAX_OPTION_BYTES}")
    return value


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise InvalidInput(f"{name} must be True or False, not {value!r}")
    return bool(value)


def _precision(name: object) -> str:
    if not isinstance(name, str) or name not in PRECISIONS:
        offered = list(PRECISIONS)
        raise InvalidInput(
            f"precision {name!r} is not offered; offered are {', '.join(offered)}", details={"offered": offered}
        )
    return name


def _dimensions(dimensions: object) -> int | None:
    if dimensions is None:
        return None
    if isinstance(dimensions, bool) or not isinstance(dimensions, int | np.integer) or dimensions < 1:
        raise InvalidInput(f"dimensions must be a positive integer, not {dimensions!r}")
    if dimensions > MAX_DIMENSIONS:
        raise InvalidInput(f"dimensions must be from 1 to {MAX_DIMENSIONS}, and one that the model offers")
    return int(dimensions)


def truncate_dim(dimensions: object) -> int | None:
    """Where ``encode`` cuts. As long as one likes: a vector that is shorter stays whole."""
    if dimensions is None:
        return None
    if isinstance(dimensions, bool) or not isinstance(dimensions, int | np.integer) or dimensions < 1:
        raise InvalidInput(f"truncate_dim must be a positive integer, not {dimensions!r}")
    return min(int(dimensions), MAX_DIMENSIONS)


def _lane(lane: str | Lane | None) -> Lane:
    if lane is None:
        return Lane.BULK
    try:
        return Lane(lane)
    except ValueError as error:
        raise InvalidInput(f"lane must be interactive or bulk, not {lane!r}") from error


def wait_seconds(timeout: object) -> float:
    """A time-out in seconds. Infinity is allowed, and is the daemon's longest."""
    if timeout is None:
        raise InvalidInput('timeout must be a number of seconds, not None: give float("inf") to set no bound')
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | np.integer | np.floating):
        raise InvalidInput(f"timeout must be a number of seconds, not {timeout!r}")
    if math.isnan(timeout):
        raise InvalidInput("timeout must be a number of seconds, not one that is none (nan)")
    return float(timeout)


def call_for(timeout: float | None, client_timeout: float, *, bounds_piece: bool, now: float) -> Call:
    """A call that a time-out bounds as a whole, where one was given with it; else the client's bounds each piece."""
    if timeout is None or bounds_piece:
        return Call(wait_seconds=client_timeout if timeout is None else wait_seconds(timeout))
    seconds = wait_seconds(timeout)
    return Call(wait_seconds=seconds, deadline=now + seconds)


def single(request: Request) -> Pieces:
    """The one piece of a request without texts."""
    return lambda _limits: iter([Piece(0, 0, 0, request, codec.EMPTY_BODY)])


def text_pieces(request: ModelRequest, texts: Iterable[str]) -> Pieces:
    """Texts, any number of them, as pieces."""

    def pieces(limits: Limits) -> Iterator[Piece]:
        offset = 0
        for number, part in enumerate(cut(texts, max_texts=min(PIECE_TEXTS, limits.max_texts))):
            yield text_piece(request, part, number, offset, limits)
            offset += len(part)

    return pieces


def async_text_pieces(request: ModelRequest, texts: AsyncIterable[object]) -> AsyncPieces:
    """The same for texts that are waited for."""

    async def pieces(limits: Limits) -> AsyncGenerator[Piece, None]:
        cutter = Cutter(max_texts=min(PIECE_TEXTS, limits.max_texts))
        index = number = offset = 0
        async for text in texts:
            if part := cutter.add(_check_text(text, index)):
                yield text_piece(request, part, number, offset, limits)
                number, offset = number + 1, offset + len(part)
            index += 1
        if rest := cutter.rest():
            yield text_piece(request, rest, number, offset, limits)

    return pieces


def text_piece(request: ModelRequest, texts: Sequence[str], number: int, offset: int, limits: Limits) -> Piece:
    """One piece; what is wrong with a text is said with the text's place in the call."""
    try:
        body = bodies.encode_texts(texts, limits)
    except EmbedDaemonError as error:
        raise faults.at_offset(error, offset) from error.__cause__
    return Piece(number, offset, len(texts), request, body)


def id_pieces(request: Embed, ids: Sequence[Sequence[int]]) -> Pieces:
    """Texts given as token ids as pieces."""

    def pieces(limits: Limits) -> Iterator[Piece]:
        for index, text in enumerate(ids):
            if len(text) > limits.max_ids:
                raise InputTooLarge(
                    f"text {index} has {len(text)} ids, the limit is {limits.max_ids}",
                    details={"index": index, "limit": limits.max_ids},
                )
        for number, (start, stop) in enumerate(_spans([len(text) for text in ids], min(PIECE_TEXTS, limits.max_texts))):
            yield Piece(number, start, stop - start, request, bodies.encode_ids(ids[start:stop], limits))

    return pieces


def text_pieces_of(request: ModelRequest, texts: Sequence[str], spans: Sequence[Span]) -> Pieces:
    """Some texts of a call, as pieces of the places and sizes that they were in before."""

    def pieces(limits: Limits) -> Iterator[Piece]:
        for number, span in enumerate(spans):
            part = texts[span.offset : span.offset + span.count]
            yield text_piece(request, part, number, span.offset, limits)

    return pieces


def id_pieces_of(request: Embed, ids: Sequence[Sequence[int]], spans: Sequence[Span]) -> Pieces:
    """The same for token ids."""

    def pieces(limits: Limits) -> Iterator[Piece]:
        for number, span in enumerate(spans):
            part = ids[span.offset : span.offset + span.count]
            yield Piece(number, span.offset, span.count, request, bodies.encode_ids(part, limits))

    return pieces


def _spans(sizes: Sequence[int], max_texts: int) -> Iterator[tuple[int, int]]:
    start = held = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start >= max_texts or held + size > PIECE_IDS):
            yield start, index
            start, held = index, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes)


def in_lane_for(request: Embed, sizes: Sequence[int], *, largest: int) -> Embed:
    """The request in the interactive lane where all of it is one small piece: somebody waits for it."""
    is_small = len(sizes) <= PIECE_TEXTS and sum(sizes) <= largest
    return replace(request, lane=Lane.INTERACTIVE) if is_small else request
