"""ONNX Runtime in process: the exported graph, pooling included, on all cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnxruntime

from benchmarks.peers import EXPORTED, FloatArray
from benchmarks.peers._padding import Batch, Tokens


class OnnxRuntime:
    """One session over all cores, with the runtime's own settings."""

    batch_sizes: Sequence[int] = (4, 8, 16, 32)

    def __init__(self, precision: Literal["fp32"]) -> None:
        self._session = onnxruntime.InferenceSession(
            EXPORTED / f"minilm-{precision}.onnx", providers=["CPUExecutionProvider"]
        )
        self._tokens = Tokens()
        self.embed(["The first call is slower."] * 8, 8)

    def embed(self, texts: Sequence[str], batch_size: int) -> FloatArray:
        """As (texts, dim)."""
        parts = [(batch.rows, self._run(batch)) for batch in self._tokens.batches(texts, batch_size)]
        vectors = np.empty((len(texts), parts[0][1].shape[1]), dtype=np.float32)
        for rows, part in parts:
            vectors[list(rows)] = part
        return vectors

    def one(self, text: str) -> FloatArray:
        """As (dim,)."""
        vector: FloatArray = self._run(self._tokens.one(text))[0]
        return vector

    def _run(self, batch: Batch) -> FloatArray:
        vectors: FloatArray = self._session.run(None, {"input_ids": batch.ids, "attention_mask": batch.mask})[0]
        return vectors

    def versions(self) -> Mapping[str, str]:
        return {"onnxruntime": str(onnxruntime.__version__)}
