"""What ``encode`` was given, and what of it the daemon can serve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embeddaemon.client import _requests as requests
from embeddaemon.client.results import Embeddings, NumberArray
from embeddaemon.errors import InvalidInput
from embeddaemon.protocol.messages import Embed
from embeddaemon.protocol.numbers import written
from embeddaemon.protocol.precisions import PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """The arguments of sentence-transformers that mean something here."""

    model: str | None
    prompt_name: str | None
    prompt: str | None
    task_choices: tuple[str, ...]
    """The first of these that the model has is its task, where neither a prompt nor its name was given."""
    output_value: str | None
    precision: str
    convert_to_numpy: bool
    convert_to_tensor: bool
    normalize_embeddings: bool
    truncate_dim: int | None
    on_poisoned: str

    def request(self) -> Embed:
        """As a request without id. Raises InvalidInput for what is not served."""
        if self.output_value != "sentence_embedding":
            raise InvalidInput(f"output_value {self.output_value!r} is not served, only 'sentence_embedding' is")
        if self.convert_to_tensor:
            raise InvalidInput(
                "convert_to_tensor=True is not served: the client has no torch; use torch.from_numpy(vectors)"
            )
        if self._is_cut_here and PRECISIONS.get(self.precision, PRECISIONS["float32"]).has_ranges:
            raise InvalidInput(
                f"precision {self.precision!r} with truncate_dim is not served here: the daemon knows the ranges; use "
                "embed(dimensions=..., precision=...)"
            )
        requests.truncate_dim(self.truncate_dim)
        return requests.embed_request(
            model=self.model,
            task=None if self.prompt is not None else self.prompt_name,
            prompt=self.prompt,
            dimensions=None,
            normalize=bool(self.normalize_embeddings) and not self._is_cut_here,
            truncate=True,
            precision="float32" if self._is_cut_here and self.precision in PRECISIONS else self.precision,
            lane=None,
            lenient=True,
            on_poisoned=self.on_poisoned,
        )

    @property
    def _is_cut_here(self) -> bool:
        """Whole vectors come then, which are cut, normalised and written down by the client."""
        return self.truncate_dim is not None

    @property
    def wants_choice(self) -> bool:
        """Whether the model's tasks decide."""
        return bool(self.task_choices) and self.prompt is None and self.prompt_name is None

    def finish(self, embeddings: Embeddings) -> NumberArray | list[NumberArray]:
        """The vectors as asked for: cut to any length, offered or not, and only then normalised, as they do it."""
        vectors = embeddings.vectors
        if self._is_cut_here:
            vectors = np.ascontiguousarray(vectors[..., : requests.truncate_dim(self.truncate_dim)])
            if self.normalize_embeddings:
                vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
            vectors = written(vectors, PRECISIONS[self.precision], None)
        return vectors if self.convert_to_numpy or vectors.ndim == 1 else list(vectors)
