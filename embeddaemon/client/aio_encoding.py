"""encoding.py with ``await``."""

# ruff: noqa: FBT001, FBT002, PLR0917 - the signatures of sentence-transformers
# ruff: noqa: ASYNC109 - a time-out travels with the request; asyncio.timeout may be put around it as well

from __future__ import annotations

from collections.abc import Iterable

from embeddaemon.client import _operations as operations
from embeddaemon.client._encode_options import EncodeOptions
from embeddaemon.client._progress import reporting
from embeddaemon.client.aio_methods import AsyncMethods
from embeddaemon.client.results import NumberArray

Encoded = NumberArray | list[NumberArray]


class AsyncSentenceTransformerMethods(AsyncMethods):
    """``encode`` and its sisters.

    ``batch_size`` and ``device`` are accepted and ignored: the daemon decides both. ``prompt_name`` is one of the
    model's tasks. ``output_value`` other than "sentence_embedding" and ``convert_to_tensor=True`` raise InvalidInput:
    the client has no torch. Empty texts are embedded, not refused. ``truncate_dim`` may be any length, and goes before
    that of the model's folder: the default vector is cut, then normalised. Of a model with a head for each size
    (Stella) that is the beginning of the default head's vector, as there; ``embed(dimensions=...)`` asks the head.
    ``model``, ``timeout`` and ``on_poisoned`` are ours, as in ``embed``.
    """

    async def encode(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,  # noqa: ARG002
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,  # noqa: ARG002
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        on_poisoned: str = "raise",
    ) -> Encoded:
        """Sentences to vectors: float32 (sentences, dim), (dim,) for a string; a list if not ``convert_to_numpy``."""
        options = EncodeOptions(
            model=model,
            prompt_name=prompt_name,
            prompt=prompt,
            task_choices=(),
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            on_poisoned=on_poisoned,
        )
        return await self._encode(sentences, options, timeout, is_bar_shown=bool(show_progress_bar))

    async def encode_query(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,  # noqa: ARG002
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,  # noqa: ARG002
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        on_poisoned: str = "raise",
    ) -> Encoded:
        """As ``encode``, with the model's task "query" where it has one."""
        options = EncodeOptions(
            model=model,
            prompt_name=prompt_name,
            prompt=prompt,
            task_choices=("query",),
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            on_poisoned=on_poisoned,
        )
        return await self._encode(sentences, options, timeout, is_bar_shown=bool(show_progress_bar))

    async def encode_document(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,  # noqa: ARG002
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,  # noqa: ARG002
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        on_poisoned: str = "raise",
    ) -> Encoded:
        """As ``encode``, with the first of the tasks document, passage and corpus that the model has."""
        options = EncodeOptions(
            model=model,
            prompt_name=prompt_name,
            prompt=prompt,
            task_choices=("document", "passage", "corpus"),
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            on_poisoned=on_poisoned,
        )
        return await self._encode(sentences, options, timeout, is_bar_shown=bool(show_progress_bar))

    async def get_sentence_embedding_dimension(self, model: str | None = None) -> int:
        """The length of a model's vectors."""
        return await self._run(operations.dimension(model))

    async def _encode(
        self, sentences: str | Iterable[str], options: EncodeOptions, timeout: float | None, *, is_bar_shown: bool
    ) -> Encoded:
        with reporting(is_bar_shown, sentences) as report:
            return await self._run(operations.encode(sentences, options, report=report), timeout)
