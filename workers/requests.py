"""From a client's frames to token ids: what is allowed, which prompt goes before, what was cut or is a repeat. Pure.

Raises our Invalid errors and ProtocolError; whoever calls answers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from embeddaemon.errors import InvalidInput, ProtocolError, TextTooLong
from embeddaemon.models.card import ModelCard
from embeddaemon.models.offers import check_dimensions, check_precision, check_prompt, check_task
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Body, Embed, ModelRequest, Texts, TokenIds, Tokenize
from embeddaemon.workers.engines import Encoded, Ids, LoadedModel

T = TypeVar("T", str, tuple[int, ...])


@dataclass(frozen=True, slots=True, eq=False)
class Tokenized:
    """The texts of one request as token ids; identical texts are here once."""

    ids: list[Ids]
    prompt_tokens: list[int]
    positions: list[int] | None
    """For each text of the request its place in ``ids``; None when no two are the same."""
    truncated: tuple[int, ...]
    """Indices, in the request, of the texts that were cut."""
    count: int
    """Texts in the request."""
    tokens: int
    """Tokens in ``ids``."""


def read_request(header: bytes) -> ModelRequest:
    """The request of a header that the supervisor let through."""
    request = codec.decode_request(header)
    if not isinstance(request, Embed | Tokenize):
        raise ProtocolError(f"{type(request).__name__.lower()} is not a request for a worker")
    return request


def tokenize(
    request: ModelRequest, body: Body, model: LoadedModel, card: ModelCard, between: Callable[[], None]
) -> Tokenized:
    """Checks the request against the model and makes ids of its texts. Raises Invalid.

    A large request takes seconds: ``between`` is called again and again meanwhile.
    """
    check_precision(request)
    check_prompt(request)
    check_dimensions(request, card)
    check_task(request, card)
    prompt = _prompt(request, card)
    if isinstance(body, Texts):
        texts, positions = _unique(body.texts)
        if not request.lenient:
            _check_texts(body.texts, texts)
        encoded = model.tokenize(texts, prompt=prompt, max_tokens=card.max_tokens, between=between)
    else:
        if request.task is not None or request.prompt is not None:
            raise InvalidInput("a task or a prompt goes before texts; token ids are taken as they are")
        encoded, positions = _encode_ids(body, model, card)
    truncated = _cut(encoded, positions, card, request)
    return Tokenized(
        ids=[one.ids for one in encoded],
        prompt_tokens=[one.prompt_tokens for one in encoded],
        positions=positions,
        truncated=truncated,
        count=len(body.texts if isinstance(body, Texts) else body.ids),
        tokens=sum(len(one.ids) for one in encoded),
    )


def _prompt(request: ModelRequest, card: ModelCard) -> str:
    """The request's own prompt, else its task's, else that of the model's default task."""
    if request.prompt is not None:
        return request.prompt
    task = request.task or card.default_task
    return card.prompts[task] if task is not None else ""


def _check_texts(texts: Sequence[str], unique: Sequence[str]) -> None:
    if all(text and "\0" not in text for text in unique):
        return
    for index, text in enumerate(texts):
        if not text:
            raise InvalidInput(f"text {index} is empty", details={"index": index})
        if "\0" in text:
            character = text.index("\0")
            raise InvalidInput(
                f"text {index} has a NUL character at {character}", details={"index": index, "character": character}
            )


def _unique(texts: tuple[T, ...]) -> tuple[Sequence[T], list[int] | None]:
    """The different ones in order of appearance, and where each text's is among them."""
    if len(texts) == 1:
        return texts, None
    places: dict[T, int] = {}
    positions = [places.setdefault(text, len(places)) for text in texts]
    if len(places) == len(texts):
        return texts, None
    return list(places), positions


def _encode_ids(body: TokenIds, model: LoadedModel, card: ModelCard) -> tuple[list[Encoded], list[int] | None]:
    for index, ids in enumerate(body.ids):
        if not ids:
            raise InvalidInput(f"text {index} has no token ids", details={"index": index})
        largest = max(ids)
        if largest >= card.vocabulary:
            raise InvalidInput(
                f"token id {largest} of text {index} is not one of {card.name}, whose ids are below {card.vocabulary}",
                details={"index": index, "id": largest, "vocabulary": card.vocabulary},
            )
    unique, positions = _unique(body.ids)
    closing: int | None = None
    if any(len(ids) > card.max_tokens for ids in unique):
        closing = _last(model.tokenize([""], prompt="", max_tokens=card.max_tokens)[0].ids)
    return [Encoded(_shorten(ids, card.max_tokens, closing), 0, len(ids)) for ids in unique], positions


def _last(ids: Ids) -> int | None:
    return int(ids[-1]) if len(ids) else None


def _shorten(ids: tuple[int, ...], limit: int, closing: int | None) -> Ids:
    """Cut as the tokenizer cuts: a closing special token stays."""
    if len(ids) > limit:
        ids = (*ids[: limit - 1], ids[-1]) if ids[-1] == closing else ids[:limit]
    return np.array(ids, dtype=np.int32)


def _cut(
    encoded: Sequence[Encoded], positions: list[int] | None, card: ModelCard, request: ModelRequest
) -> tuple[int, ...]:
    """Indices in the request of what was cut. Raises TextTooLong where it may not be."""
    if all(one.full_length <= len(one.ids) for one in encoded):
        return ()
    places = range(len(encoded)) if positions is None else positions
    cut = tuple(index for index, place in enumerate(places) if encoded[place].full_length > len(encoded[place].ids))
    if not request.truncate:
        tokens = encoded[places[cut[0]]].full_length
        raise TextTooLong(
            f"text {cut[0]} has {tokens} tokens, {card.name} takes {card.max_tokens}",
            details={"index": cut[0], "tokens": tokens, "limit": card.max_tokens},
        )
    return cut
