"""sentence-transformers as its users call it: ``encode`` on torch, fp32 or bf16, and on its OpenVINO backend."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.peers import EXPORTED, MAX_TOKENS, FloatArray, model_folder


class _Encoder:
    """`SentenceTransformer.encode`, which sorts by length itself."""

    batch_sizes: Sequence[int] = (8, 16, 32, 64)
    packages: Sequence[str] = ("sentence-transformers", "transformers", "torch")

    def __init__(self, model: SentenceTransformer) -> None:
        model.max_seq_length = MAX_TOKENS
        self._model = model
        for size in (1, 8):
            self.embed(["The first call is slower."] * size, size)

    def embed(self, texts: Sequence[str], batch_size: int) -> FloatArray:
        """As (texts, dim)."""
        vectors: FloatArray = self._model.encode(
            list(texts),
            batch_size=batch_size,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors

    def one(self, text: str) -> FloatArray:
        """As (dim,)."""
        vector: FloatArray = self._model.encode(
            text, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        )
        return vector

    def versions(self) -> Mapping[str, str]:
        return {f"{name} beside {self.packages[-1]}": importlib.metadata.version(name) for name in self.packages}


class Torch(_Encoder):
    """On torch: fp32 is what everybody gets who asks for nothing."""

    def __init__(self, precision: Literal["fp32", "bf16"]) -> None:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        folder = str(model_folder())
        super().__init__(SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype}))


class OpenVino(_Encoder):
    """On OpenVINO: bf16 is what the runtime takes by itself where the processor has it; int8 is NNCF's static one."""

    packages: Sequence[str] = ("sentence-transformers", "transformers", "optimum-intel", "openvino")

    def __init__(self, precision: Literal["bf16", "int8"]) -> None:
        name = {"bf16": "openvino_model.xml", "int8": "openvino_model_qint8_quantized.xml"}[precision]
        # For int8 see openvino_peer.py. Passing ov_config replaces optimum's own hint, LATENCY, so both are given.
        config = {"INFERENCE_PRECISION_HINT": {"int8": "f32"}.get(precision, precision), "PERFORMANCE_HINT": "LATENCY"}
        super().__init__(
            SentenceTransformer(
                str(EXPORTED / "st"),
                backend="openvino",
                device="cpu",
                model_kwargs={"file_name": name, "ov_config": config},
            )
        )
