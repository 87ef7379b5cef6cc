"""From a client's frames to token ids: what is allowed, which prompt goes before, what was cut or is a repeat. Pure.

Raises our Invalid errors and ProtocolError; whoever calls answers them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from embeddaemon.errors import InvalidInput, ProtocolError, TextTooLong
from embeddaemon.models.card import ModelCard
from embeddaemon.models.offers import check_dimensions, check_precision, check_prompt, check_task
from embeddaemon.protocol import codec
from embeddaemon.protocol.journal import WHOLE_REQUEST, digest_of_ids, digest_of_text
from embeddaemon.protocol.messages import Body, Embed, ModelRequest, Texts, TokenIds, Tokenize
from embeddaemon.workers.engines import Encoded, Ids, LoadedModel
from embeddaemon.workers.screening import Refusal, poisoned

T = TypeVar("T", str, tuple[int, ...])

REFUSED = -1
"""The place of a text that is not computed."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokenized:
    """The texts of one request as token ids; identical texts are here once."""

    ids: list[Ids]
    prompt_tokens: list[int]
    positions: list[int] | None
    """For each text of the request its place in ``ids``, REFUSED for none; None when each has its own."""
    truncated: tuple[int, ...]
    """Indices, in the request, of the texts that were cut."""
    count: int
    """Texts in the request."""
    tokens: int
    """Tokens in ``ids``."""
    digests: Sequence[bytes] = field(default=())
    """What stands for each of ``ids`` in the journal; empty where nobody asks."""

    def digest(self, place: int) -> bytes:
        """Of the text at a place in ``ids``."""
        return self.digests[place] if self.digests else WHOLE_REQUEST

    def indices_of(self, places: Container[int]) -> tuple[int, ...]:
        """In the request, of the texts at these places; with REFUSED among them, also of those that have none."""
        return tuple(index for index, place in enumerate(self.where) if place in places)

    @property
    def where(self) -> Sequence[int]:
        """For each text of the request its place in ``ids``, REFUSED for none."""
        return range(self.count) if self.positions is None else self.positions


class Watch(Protocol):
    """Whoever is told what is about to be tokenized, and says what may not be."""

    def refused(self, digests: Sequence[bytes]) -> Mapping[int, Refusal]:
        """Those that may not be touched, by their places."""
        ...

    def parts(self, digests: Sequence[bytes]) -> Iterator[Sequence[int]]:
        """Places of what may be tokenized together, part after part: each is about to be, when it comes."""
        ...


def read_request(header: bytes | memoryview) -> ModelRequest:
    """The request of a header that the supervisor let through."""
    request = codec.decode_request(header)
    if not isinstance(request, Embed | Tokenize):
        raise ProtocolError(f"{type(request).__name__.lower()} is not a request for a worker")
    return request


def tokenize(
    request: ModelRequest,
    body: Body,
    model: LoadedModel,
    card: ModelCard,
    between: Callable[[], None],
    *,
    watch: Watch,
) -> Tokenized:
    """Checks the request against the model and makes ids of its texts. Raises Invalid, Poisoned.

    A large request takes seconds: ``between`` is called again and again meanwhile.
    """
    check_precision(request)
    check_prompt(request)
    check_dimensions(request, card)
    check_task(request, card)
    prompt = _prompt(request, card)
    digests: Sequence[bytes]
    if isinstance(body, Texts):
        texts, positions = _unique(body.texts)
        if not request.lenient:
            _check_texts(body.texts, texts)
        digests = [digest_of_text(text, prompt) for text in texts]
        texts, digests, positions = _screened(texts, digests, positions, request, card, watch=watch)
        encoded = []
        for part in watch.parts(digests):
            together = texts if len(part) == len(texts) else [texts[place] for place in part]
            encoded += model.tokenize(together, prompt=prompt, max_tokens=card.max_tokens, between=between)
        _check_room(encoded, prompt, model, card)
    else:
        if request.task is not None or request.prompt is not None:
            raise InvalidInput("a task or a prompt goes before texts; token ids are taken as they are")
        unique, positions = _unique(body.ids)
        digests = [digest_of_ids(np.array(ids, dtype="<i4").tobytes()) for ids in unique]
        unique, digests, positions = _screened(unique, digests, positions, request, card, watch=watch)
        encoded = _encode_ids(unique, body, model, card)
    truncated = _cut(encoded, positions, card, request)
    return Tokenized(
        ids=[one.ids for one in encoded],
        prompt_tokens=[one.prompt_tokens for one in encoded],
        positions=positions,
        truncated=truncated,
        count=len(body.texts if isinstance(body, Texts) else body.ids),
        tokens=sum(len(one.ids) for one in encoded),
        digests=digests,
    )


def _screened(
    texts: Sequence[T],
    digests: Sequence[bytes],
    positions: list[int] | None,
    request: ModelRequest,
    card: ModelCard,
    *,
    watch: Watch,
) -> tuple[Sequence[T], Sequence[bytes], list[int] | None]:
    """All three without the texts that may not be touched. Raises Poisoned where all is asked for."""
    refused = watch.refused(digests)
    if not refused:
        return texts, digests, positions
    where = range(len(texts)) if positions is None else positions
    if not is_partial(request):
        raise poisoned(card.name, {index: refused[place] for index, place in enumerate(where) if place in refused})
    kept = [place for place in range(len(texts)) if place not in refused]
    moved = {place: new for new, place in enumerate(kept)}
    return (
        [texts[place] for place in kept],
        [digests[place] for place in kept],
        [moved.get(place, REFUSED) for place in where],
    )


def is_partial(request: ModelRequest) -> bool:
    """Whether the client takes an answer without the texts that are refused."""
    return isinstance(request, Embed) and request.partial


def _prompt(request: ModelRequest, card: ModelCard) -> str:
    """The request's own prompt, else its task's, else that of the model's default task."""
    if request.prompt is not None:
        return request.prompt
    task = request.task or card.default_task
    return card.prompts[task] if task is not None else ""


def _check_room(encoded: Sequence[Encoded], prompt: str, model: LoadedModel, card: ModelCard) -> None:
    """Where a prompt alone fills the model, what is cut off is the text: all of them would have one vector."""
    if not prompt or all(one.full_length <= len(one.ids) for one in encoded):
        return
    tokens = model.tokenize([""], prompt=prompt, max_tokens=card.max_tokens)[0].full_length
    if tokens >= card.max_tokens:
        raise InvalidInput(
            f"the prompt has {tokens} tokens, special tokens included, and {card.name} takes {card.max_tokens}: it "
            "leaves no room for a text",
            details={"tokens": tokens, "limit": card.max_tokens},
        )


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


def _encode_ids(
    unique: Sequence[tuple[int, ...]], body: TokenIds, model: LoadedModel, card: ModelCard
) -> list[Encoded]:
    """Of the different ones that are computed. What is wrong is said of all, by the place in the request."""
    for index, ids in enumerate(body.ids):
        if not ids:
            raise InvalidInput(f"text {index} has no token ids", details={"index": index})
        largest = max(ids)
        if largest >= card.vocabulary:
            raise InvalidInput(
                f"token id {largest} of text {index} is not one of {card.name}, whose ids are below {card.vocabulary}",
                details={"index": index, "id": largest, "vocabulary": card.vocabulary},
            )
    closing: int | None = None
    if any(len(ids) > card.max_tokens for ids in unique):
        closing = _last(model.tokenize([""], prompt="", max_tokens=card.max_tokens)[0].ids)
    return [Encoded(_shorten(ids, card.max_tokens, closing), 0, len(ids)) for ids in unique]


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
    cut = tuple(
        index
        for index, place in enumerate(places)
        if place != REFUSED and encoded[place].full_length > len(encoded[place].ids)
    )
    if not request.truncate:
        tokens = encoded[places[cut[0]]].full_length
        raise TextTooLong(
            f"text {cut[0]} has {tokens} tokens, {card.name} takes {card.max_tokens}",
            details={"index": cut[0], "tokens": tokens, "limit": card.max_tokens},
        )
    return cut
