"""OpenVINO itself, in process: the best that we know how to get out of it.

In bulk an asynchronous queue over a stream per core; one text on a model that was compiled for latency. Pooling is part
of the graph, so that no Python touches token vectors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import openvino

from benchmarks.peers import EXPORTED, FloatArray
from benchmarks.peers._padding import Batch, Tokens

_DIMENSION = 384


class OpenVino:
    """Both compilations share nothing but the file."""

    batch_sizes: Sequence[int] = (4, 8, 16, 32)

    def __init__(self, precision: Literal["fp32", "bf16", "int8"]) -> None:
        cores = os.cpu_count() or 1
        graph = EXPORTED / ("minilm-int8.xml" if precision == "int8" else "minilm-fp32.xml")
        # int8 beside bf16, the runtime's own choice where the processor has both, gives wrong vectors in 2026.4.1 for
        # batches of about 30 tokens (cosine 0.79); beside f32 it is as fast within 2 %.
        hint = "bf16" if precision == "bf16" else "f32"
        shared = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": cores}
        core = openvino.Core()
        bulk = core.compile_model(graph, "CPU", {**shared, "NUM_STREAMS": cores})
        single = core.compile_model(graph, "CPU", {**shared, "PERFORMANCE_HINT": "LATENCY"})
        self._queue = openvino.AsyncInferQueue(bulk, cores)
        self._queue.set_callback(_keep)
        self._single = single.create_infer_request()
        self._tokens = Tokens()
        self.embed(["The first call is slower."] * 16, 4)
        self.one("The first call is slower.")

    def embed(self, texts: Sequence[str], batch_size: int) -> FloatArray:
        """As (texts, dim)."""
        vectors = np.empty((len(texts), _DIMENSION), dtype=np.float32)
        for batch in self._tokens.batches(texts, batch_size):
            self._queue.start_async(_inputs(batch), (vectors, batch.rows))
        self._queue.wait_all()
        return vectors

    def one(self, text: str) -> FloatArray:
        """As (dim,)."""
        self._single.infer(_inputs(self._tokens.one(text)), share_inputs=True)
        vector: FloatArray = self._single.get_output_tensor(0).data[0].copy()
        return vector

    def versions(self) -> Mapping[str, str]:
        return {"openvino": str(openvino.__version__)}


def _inputs(batch: Batch) -> dict[str, Any]:
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


def _keep(request: Any, where: tuple[FloatArray, Sequence[int]]) -> None:
    vectors, rows = where
    vectors[list(rows)] = request.get_output_tensor(0).data
