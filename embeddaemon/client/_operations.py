"""What each method asks and makes of the answers, once for both clients and the mock. Pure.

An operation yields an ``Exchange``; whoever runs it gets the pieces answered and hands each answer, in order, to
``take``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from embeddaemon.client import _requests as requests
from embeddaemon.client._answers import Assembler, OnRefused, document_of, ids_of
from embeddaemon.client._encode_options import EncodeOptions
from embeddaemon.client._requests import Pieces
from embeddaemon.client._window import PIECE_CHARACTERS, Answered, Span
from embeddaemon.client.results import (
    Embeddings,
    Health,
    IdArray,
    ModelInfo,
    ModelList,
    NumberArray,
    ServerInfo,
    health_of,
    model_list,
    server_info,
)
from embeddaemon.errors import (
    DaemonUnreachable,
    EmbedDaemonError,
    Expired,
    InvalidInput,
    UnknownDimensions,
    UnknownModel,
    UnknownTask,
)
from embeddaemon.protocol import messages
from embeddaemon.protocol.messages import Embed, Hello, Load, Models, Reload, Request, Status, Tokenize, Unload
from embeddaemon.protocol.precisions import PRECISIONS

T = TypeVar("T")
Report = Callable[[int, int], None]
"""Told (texts done, texts in all) after every piece."""

ANY_TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Exchange:
    """Pieces to be answered, and who takes the answers."""

    pieces: Pieces
    take: Callable[[Answered], None]


Operation = Generator[Exchange, None, T]


def embed(texts: object, request: Embed, *, is_lane_given: bool, report: Report) -> Operation[Embeddings]:
    """``embed_detailed``: a string or strings to vectors."""
    is_single = isinstance(texts, str)
    listed = [texts] if isinstance(texts, str) else requests.as_texts(texts)
    if not listed:
        return (yield from _nothing(request))
    if not is_lane_given:
        request = requests.in_lane_for(request, [len(text) for text in listed], largest=PIECE_CHARACTERS)
    pieces = requests.text_pieces(request, listed)
    again = partial(requests.text_pieces_of, request, listed)
    return (yield from _assembled(pieces, again, len(listed), is_single=is_single, report=report))


def embed_ids(ids: object, request: Embed, *, is_lane_given: bool, refused: OnRefused | None) -> Operation[Embeddings]:
    """Texts that are tokenized already to vectors."""
    listed = requests.as_ids(ids)
    if not listed:
        return (yield from _nothing(request))
    if not is_lane_given:
        request = requests.in_lane_for(request, [len(text) for text in listed], largest=requests.PIECE_IDS)
    pieces = requests.id_pieces(request, listed)
    again = partial(requests.id_pieces_of, request, listed)
    embeddings = yield from _assembled(pieces, again, len(listed), is_single=False, report=unreported)
    if refused is not None:
        for index in embeddings.poisoned:
            refused(index)
    return embeddings


def unreported(_done: int, _total: int) -> None:
    """Nobody wants to know."""


def _assembled(
    pieces: Pieces, again: Callable[[Sequence[Span]], Pieces], texts: int, *, is_single: bool, report: Report
) -> Operation[Embeddings]:
    """``again`` makes the pieces that are asked for once more, where the model changed while they were answered."""
    assembler = Assembler(texts)

    def take(answered: Answered) -> None:
        assembler.take(answered)
        report(assembler.done, texts)

    yield Exchange(pieces, take)
    if outdated := assembler.outdated():
        yield Exchange(again(outdated), take)
    return assembler.embeddings(is_single=is_single)


def _nothing(request: Embed) -> Operation[Embeddings]:
    """No texts: (0, dim), where only the daemon knows dim. What is wrong with the options is told all the same."""
    if request.task is not None and request.prompt is not None:
        raise InvalidInput("a request names a task or brings a prompt of its own, not both")
    info = yield from model_info(request.model)
    if info.dimension is not None:
        _check_offers(request, info)
    dim = None if info.dimension is None else request.dimensions or info.dimension
    if dim is None:  # a hub model that was never fetched: only loading it tells
        assembler = Assembler(1)
        yield Exchange(requests.text_pieces(request, [ANY_TEXT]), assembler.take)
        dim = assembler.embeddings(is_single=True).dimensions
    precision = PRECISIONS[request.precision]
    vectors = np.empty((0, precision.columns(dim)), precision.dtype)
    return Embeddings(vectors=vectors, model=info.name, tokens=0, precision=precision.name, dimensions=dim)


def _check_offers(request: Embed, info: ModelInfo) -> None:
    """Raises what the daemon would, of a model whose files were seen."""
    if request.task is not None and request.task not in info.tasks:
        known = list(info.tasks)
        raise UnknownTask(
            f"model {info.name!r} has no task {request.task!r}; known are {', '.join(known) or 'none'}",
            details={"known": known},
        )
    if request.dimensions not in {None, info.dimension, *info.dimensions}:
        offered = list(info.dimensions)
        raise UnknownDimensions(
            f"model {info.name!r} does not offer {request.dimensions} dimensions; "
            f"offered are {', '.join(map(str, offered))}",
            details={"offered": offered},
        )


def tokenize(texts: object, request: Tokenize) -> Operation[list[IdArray]]:
    """Strings to token ids."""
    listed = [texts] if isinstance(texts, str) else requests.as_texts(texts)
    ids: list[IdArray] = []
    if listed:
        yield Exchange(requests.text_pieces(request, listed), lambda answered: ids.extend(ids_of(answered)))
    return ids


def encode(sentences: object, options: EncodeOptions, *, report: Report) -> Operation[NumberArray | list[NumberArray]]:
    """``encode`` and its two sisters."""
    request = options.request()
    if options.wants_choice or options.truncate_dim is not None:
        info = yield from model_info(request.model)
        if options.truncate_dim is not None:
            info = yield from _understood(info, request)
            request = replace(request, dimensions=_whole(info, options.truncate_dim))
        if options.wants_choice:
            request = replace(request, task=next((task for task in options.task_choices if task in info.tasks), None))
    embeddings = yield from embed(sentences, request, is_lane_given=False, report=report)
    return options.finish(embeddings)


def _whole(info: ModelInfo, truncate_dim: int) -> int | None:
    """The dimensions of vectors before anything is cut; None: those that come by themselves are long enough."""
    longest = max(info.dimensions, default=0)
    if info.whole_dimension is None and (info.dimension or 0) < min(truncate_dim, longest):
        raise InvalidInput(
            f"the daemon does not say how long vectors of {info.name!r} are before they are cut to {info.dimension}: "
            f"upgrade it, or use embed(dimensions=...), which offers {', '.join(map(str, info.dimensions))}"
        )
    return info.whole_dimension


def _understood(info: ModelInfo, request: Embed) -> Operation[ModelInfo]:
    """The same model, loaded where only its loading tells how long its vectors are before anything is cut."""
    if info.dimension is None:
        yield Exchange(requests.text_pieces(replace(request, task=None), [ANY_TEXT]), lambda _answered: None)
        info = yield from model_info(request.model)
    return info


def ask(request: Request) -> Operation[dict[str, Any]]:
    """A request without texts to the map that answers it."""
    answers: list[Answered] = []
    yield Exchange(requests.single(request), answers.append)
    return document_of(answers[0])


def hello() -> Operation[ServerInfo]:
    """Who the daemon is, asked anew."""
    return server_info((yield from ask(Hello(id=0))))


def status() -> Operation[dict[str, Any]]:
    """The daemon's own account of itself."""
    return (yield from ask(Status(id=0)))


def load(name: object, *, force: bool) -> Operation[dict[str, Any]]:
    """Bring a model into memory."""
    return (yield from ask(Load(id=0, model=requests.model_name(name), force=force)))


def unload(name: object) -> Operation[dict[str, Any]]:
    """Give a model's memory back."""
    return (yield from ask(Unload(id=0, model=requests.model_name(name))))


def reload() -> Operation[dict[str, Any]]:
    """Have the configuration read again."""
    return (yield from ask(Reload(id=0)))


def models() -> Operation[ModelList]:
    """Every configured model, and which is the default."""
    return model_list((yield from ask(Models(id=0))))


def model_info(name: str | None) -> Operation[ModelInfo]:
    """One model by name, or the default one."""
    listed = yield from models()
    wanted = listed.default_model if name is None else name
    for model in listed.models:
        if model.name == wanted:
            return model
    known = [model.name for model in listed.models]
    if wanted is None:
        raise UnknownModel(
            f"no model was named and there is no default, known are {', '.join(known)}", details={"known": known}
        )
    raise UnknownModel(f"model {wanted!r} is not configured, known are {', '.join(known)}", details={"known": known})


def dimension(name: str | None) -> Operation[int]:
    """The length of a model's vectors."""
    vectors = yield from _nothing(Embed(id=0, model=name))
    return int(vectors.vectors.shape[1])


def health(name: str | None, *, deep: bool, wake: bool) -> Operation[Health]:
    """Whether the daemon answers, is ready, and its models embed; or one of them."""
    asked = None if name is None else requests.model_name(name)
    document = yield from ask(messages.Health(id=0, model=asked, deep=deep, wake=wake))
    return health_of(document, asked, deep=deep)


def unhealthy(name: str | None, error: EmbedDaemonError, *, deep: bool) -> Health:
    """The error that a health check ended with."""
    message = f"{error.code}: {error}"
    is_live = not isinstance(error, DaemonUnreachable | Expired)
    return Health(
        ok=False, model=name, deep=deep, message=message, live=is_live, ready=False, why=(message,), error=error.code
    )
