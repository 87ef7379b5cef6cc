"""Every method of the asynchronous client: methods.py with ``await``. aio.py provides the primitive under them."""

# ruff: noqa: ASYNC109 - a time-out travels with the request; asyncio.timeout may be put around it as well

from __future__ import annotations

import abc
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, Literal, TypeVar, Unpack, overload

from embeddaemon.client import _operations as operations
from embeddaemon.client import _requests as requests
from embeddaemon.client._answers import Listeners, OnRanges, OnRefused, OnTruncated, Streamed
from embeddaemon.client._operations import Operation
from embeddaemon.client._options import EmbedOptions, IdOptions, StreamOptions
from embeddaemon.client._progress import Progress, reporting
from embeddaemon.client._requests import AsyncPieces, Pieces, wait_seconds
from embeddaemon.client._window import Answered
from embeddaemon.client.methods import LOAD_TIMEOUT_SECONDS
from embeddaemon.client.results import Embeddings, FloatArray, Health, IdArray, ModelInfo, NumberArray, ServerInfo
from embeddaemon.errors import EmbedDaemonError

T = TypeVar("T")


class AsyncMethods(abc.ABC):
    """What a client can be asked. Every method may raise DaemonUnreachable, Expired, and what it names.

    ``timeout`` is in seconds and bounds the whole call. Where it is not given, the client's own bounds the wait for
    each piece of 64 texts or fewer, so that a call of a million texts may take as long as it makes progress.
    """

    @abc.abstractmethod
    def _answers(
        self, pieces: Pieces | AsyncPieces, timeout: float | None, *, bounds_piece: bool = False
    ) -> AsyncGenerator[Answered, None]:
        """The answers to the pieces, in their order. Raises the first error."""

    @abc.abstractmethod
    def _now(self) -> float:
        """Seconds of the clock that bounds calls."""

    async def _run(self, operation: Operation[T], timeout: float | None = None) -> T:
        left, until = timeout, None if timeout is None else self._now() + wait_seconds(timeout)
        try:
            while True:
                exchange = next(operation)
                async with contextlib.aclosing(self._answers(exchange.pieces, left)) as answers:
                    async for answered in answers:
                        exchange.take(answered)
                left = None if until is None else max(0.0, until - self._now())
        except StopIteration as stop:
            result: T = stop.value
            return result

    @overload
    async def embed(
        self, texts: str | Iterable[str], *, precision: Literal["float32"] = "float32", **options: Unpack[EmbedOptions]
    ) -> FloatArray: ...

    @overload
    async def embed(
        self, texts: str | Iterable[str], *, precision: str, **options: Unpack[EmbedOptions]
    ) -> NumberArray: ...

    async def embed(
        self,
        texts: str | Iterable[str],
        *,
        model: str | None = None,
        task: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        truncate: bool = True,
        precision: str = "float32",
        lane: str | None = None,
        timeout: float | None = None,
        progress: Progress = None,
        on_poisoned: str = "raise",
    ) -> NumberArray:
        """Texts to vectors: float32, (texts, dim) in their order, or (dim,) for a single string; (0, dim) for no texts.

        ``task`` is one of the model's (``model_info().tasks``) and chooses its prompt; ``prompt`` is put before every
        text as it is. ``dimensions`` must be one that the model offers. ``normalize`` gives vectors of unit length.
        With ``truncate=False`` a text beyond the model's maximum is TextTooLong instead of cut. Another ``precision``
        gives numbers of "float16", "int8" or "uint8", or bits, eight in a number ("binary", "ubinary"), as
        sentence-transformers defines them, but with ranges that do not depend on the texts. ``lane`` is "interactive"
        (goes first; the default for one small piece) or "bulk".

        A text that workers died of is refused for a while: Poisoned, whose ``details["indices"]`` name those of the
        first piece that has some. ``on_poisoned="nan"`` gives rows of NaN for them (zeros in precisions that have no
        NaN) and the others' vectors; ``embed_detailed`` says which they are.

        An empty text is InvalidInput (``encode`` takes it). All vectors of a call are of the same weights: where the
        model changed meanwhile, texts that were answered before are asked once more, and ModelChanged is raised when
        it changed again.

        Raises InvalidInput, InputTooLarge, TextTooLong, UnknownModel, UnknownTask, UnknownDimensions, Refused, Failed.
        """
        detailed = await self.embed_detailed(
            texts,
            model=model,
            task=task,
            prompt=prompt,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            precision=precision,
            lane=lane,
            timeout=timeout,
            progress=progress,
            on_poisoned=on_poisoned,
        )
        return detailed.vectors

    async def embed_detailed(
        self,
        texts: str | Iterable[str],
        *,
        model: str | None = None,
        task: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        truncate: bool = True,
        precision: str = "float32",
        lane: str | None = None,
        timeout: float | None = None,
        progress: Progress = None,
        on_poisoned: str = "raise",
    ) -> Embeddings:
        """As ``embed``, with the tokens computed, which texts were cut, timings, the model's name, and ranges.

        ``Embeddings.weights`` stands for the weights and settings that the vectors follow from.
        """
        request = requests.embed_request(
            model=model,
            task=task,
            prompt=prompt,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            precision=precision,
            lane=lane,
            on_poisoned=on_poisoned,
        )
        with reporting(progress, texts) as report:
            operation = operations.embed(texts, request, is_lane_given=lane is not None, report=report)
            return await self._run(operation, timeout)

    @overload
    def embed_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        precision: Literal["float32"] = "float32",
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[FloatArray, None]: ...

    @overload
    def embed_stream(
        self, texts: Iterable[str] | AsyncIterable[str], *, precision: str, **options: Unpack[StreamOptions]
    ) -> AsyncGenerator[NumberArray, None]: ...

    def embed_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        model: str | None = None,
        task: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        truncate: bool = True,
        precision: str = "float32",
        lane: str | None = None,
        timeout: float | None = None,
        on_poisoned: str = "raise",
        on_truncated: OnTruncated | None = None,
        on_refused: OnRefused | None = None,
        on_ranges: OnRanges | None = None,
    ) -> AsyncGenerator[NumberArray, None]:
        """Any number of texts to their vectors, piece by piece: arrays (texts, dim), in order, in constant memory.

        ``texts`` may be asynchronous, and is read by a task of its own then, some pieces (64 texts, or fewer that are
        long) ahead of the answers: however slow it is, an answer is given as soon as it comes. One that is not
        asynchronous is read while no answer is there, and holds up the event loop meanwhile. ``timeout`` bounds the
        wait for each piece. Errors as in ``embed``, raised where the stream reaches them; their ``details["index"]``
        counts from the first text of the stream, and so does the index that ``on_truncated`` is told of each text that
        was cut, and ``on_refused``, with ``on_poisoned="nan"``, of each whose row is no vector, both before the array
        with its row. ``on_ranges`` is told once what the numbers of int8 and uint8 stand for (``Embeddings.ranges``).
        Where the model changes meanwhile the stream ends with ModelChanged; its ``details["given"]`` says of how many
        texts it gave vectors.
        """
        request = requests.embed_request(
            model=model,
            task=task,
            prompt=prompt,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            precision=precision,
            lane=lane,
            on_poisoned=on_poisoned,
        )
        listeners = Listeners(on_truncated, on_refused, on_ranges)
        if isinstance(texts, AsyncIterable):
            return self._stream(requests.async_text_pieces(request, texts), timeout, listeners)
        source = requests.checked_texts(requests.as_stream(texts))
        return self._stream(requests.text_pieces(request, source), timeout, listeners)

    async def _stream(
        self,
        pieces: Pieces | AsyncPieces,
        timeout: float | None,
        listeners: Listeners,
    ) -> AsyncGenerator[NumberArray, None]:
        # Closed by hand: a consumer that leaves early must not leave pieces in flight until the garbage collector
        # comes.
        streamed = Streamed(listeners)
        async with contextlib.aclosing(self._answers(pieces, timeout, bounds_piece=True)) as answers:
            async for answered in answers:
                yield streamed.take(answered)

    @overload
    async def embed_ids(
        self, ids: Iterable[Iterable[int]], *, precision: Literal["float32"] = "float32", **options: Unpack[IdOptions]
    ) -> FloatArray: ...

    @overload
    async def embed_ids(
        self, ids: Iterable[Iterable[int]], *, precision: str, **options: Unpack[IdOptions]
    ) -> NumberArray: ...

    async def embed_ids(
        self,
        ids: Iterable[Iterable[int]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        truncate: bool = True,
        precision: str = "float32",
        lane: str | None = None,
        timeout: float | None = None,
        on_poisoned: str = "raise",
        on_refused: OnRefused | None = None,
    ) -> NumberArray:
        """Texts that are tokenized already, special tokens included, to vectors (texts, dim).

        ``on_poisoned`` as in ``embed``; ``on_refused`` is told the index of each text whose row is no vector then.
        """
        request = requests.embed_request(
            model=model,
            task=None,
            prompt=None,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            precision=precision,
            lane=lane,
            on_poisoned=on_poisoned,
        )
        operation = operations.embed_ids(ids, request, is_lane_given=lane is not None, refused=on_refused)
        return (await self._run(operation, timeout)).vectors

    async def tokenize(
        self,
        texts: str | Iterable[str],
        *,
        model: str | None = None,
        task: str | None = None,
        prompt: str | None = None,
        truncate: bool = True,
        lane: str | None = None,
        timeout: float | None = None,
    ) -> list[IdArray]:
        """Texts to the token ids that ``embed`` would feed the model, prompt included: int32 arrays, one per text."""
        request = requests.tokenize_request(model=model, task=task, prompt=prompt, truncate=truncate, lane=lane)
        return await self._run(operations.tokenize(texts, request), timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every configured model."""
        return list((await self._run(operations.models(), timeout)).models)

    async def model_info(self, name: str | None = None, *, timeout: float | None = None) -> ModelInfo:
        """One model, or the default one: name, dimension, maximum tokens, tasks. Raises UnknownModel."""
        return await self._run(operations.model_info(name), timeout)

    async def load(self, name: str, *, force: bool = False, timeout: float | None = None) -> dict[str, Any]:
        """Bring a model into memory and wait until it is ready: ``{model, state, seconds}``.

        ``force``: one that is loaded is loaded anew, from its files as they are now, and takes over without a gap. It
        ends a quarantine, and forgets which texts workers died of.
        Only for the daemon's own user or root. Waits LOAD_TIMEOUT_SECONDS unless told otherwise. Raises UnknownModel,
        Forbidden, NoHeadroom, FailedLoad.
        """
        return await self._run(operations.load(name, force=force), LOAD_TIMEOUT_SECONDS if timeout is None else timeout)

    async def unload(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Drain a model's workers and give its memory back: ``{model, state}``. Raises UnknownModel, Forbidden."""
        return await self._run(operations.unload(name), timeout)

    async def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """What the daemon is doing: workers, queues, memory (docs/protocol.md has the keys)."""
        return await self._run(operations.status(), timeout)

    async def hello(self, *, timeout: float | None = None) -> ServerInfo:
        """Who the daemon is: versions, instance, limits, default model. Asked anew each time."""
        return await self._run(operations.hello(), timeout)

    async def reload(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Have the daemon read its configuration again: what changed (docs/protocol.md has the keys).

        Only for the daemon's own user or root. Raises Forbidden; ConfigError where the new one is wrong, and the old
        one stays in force.
        """
        return await self._run(operations.reload(), timeout)

    async def health(
        self, model: str | None = None, *, deep: bool = False, wake: bool = False, timeout: float | None = None
    ) -> Health:
        """Whether the daemon is ready, or one model. What is wrong is in the result, not raised.

        ``deep``: every model that is loaded, or the one that is named, really embeds a text; with ``wake`` also one
        that is not loaded (only for the daemon's own user or root). Without it asking is no use of a model.
        """
        try:
            return await self._run(operations.health(model, deep=deep, wake=wake), timeout)
        except EmbedDaemonError as error:
            return operations.unhealthy(model, error, deep=deep)
