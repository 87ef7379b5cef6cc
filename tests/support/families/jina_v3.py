"""Small checkpoints of Jina embeddings v3: as converted for transformers, and as first published, with adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.checkpoints import Tensors, linear, norm
from tests.support.roberta_checkpoints import TinyRoberta

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class TinyJinaV3(TinyRoberta):
    """XLM-R's tokenizer; no table of positions."""

    family: str = "xlm-roberta"
    theta: float = 20000.0
    has_pooler: bool = False
    has_class_names: bool = False
    """transformers' own names of layers instead of the published ones."""

    def __post_init__(self) -> None:
        self.config = {
            "rope_parameters": {"rope_type": "default", "rope_theta": self.theta},
            **self.config,
        }
        super().__post_init__()
        self.config |= {"model_type": "jina_embeddings_v3", "architectures": ["JinaEmbeddingsV3Model"]}

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return int(self.config["vocab_size"])

    def _shapes(self) -> Shapes:
        hidden, ours = self.hidden, self.has_class_names
        shapes: Shapes = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            "embeddings.token_type_embeddings.weight": (1, hidden),
            **norm("embeddings.LayerNorm" if ours else "emb_ln", hidden),
        }
        for number in range(self.layers):
            layer = f"layers.{number}" if ours else f"encoder.layers.{number}"
            if ours:
                for part in "qkvo":
                    shapes |= linear(f"{layer}.self_attn.{part}_proj", hidden, hidden)
            else:
                shapes |= linear(f"{layer}.mixer.Wqkv", 3 * hidden, hidden)
                shapes |= linear(f"{layer}.mixer.out_proj", hidden, hidden)
            shapes |= norm(f"{layer}.{'post_attention_layernorm' if ours else 'norm1'}", hidden)
            shapes |= linear(f"{layer}.mlp.fc1", self.intermediate, hidden)
            shapes |= linear(f"{layer}.mlp.fc2", hidden, self.intermediate)
            shapes |= norm(f"{layer}.{'post_mlp_layernorm' if ours else 'norm2'}", hidden)
        return shapes | (linear("pooler.dense", hidden, hidden) if self.has_pooler else {})


@dataclass(kw_only=True)
class TinyJinaV3WithAdapters(TinyJinaV3):
    """The first files: each weight under ``parametrizations``, with two factors for each task beside it."""

    prefix: str = "roberta."

    def _config(self) -> dict[str, Any]:
        code = "jinaai/xlm-roberta-flash-implementation--"
        config = super()._config()
        del config["rope_parameters"]
        return {
            **config,
            "model_type": "xlm-roberta",
            "architectures": ["XLMRobertaModel"],
            "auto_map": {"AutoModel": f"{code}modeling_lora.XLMRobertaLoRA"},
            "lora_adaptations": ["retrieval.query", "retrieval.passage", "separation", "text-matching"],
            "lora_rank": 4,
            "position_embedding_type": "rotary",
            "rotary_emb_base": self.theta,
        }  # fmt: skip

    def tensors(self) -> Tensors:
        """By the names of the file."""
        parts: Tensors = {}
        for name, values in super().tensors().items():
            if values.ndim == 1:
                parts[name] = values
                continue
            rows, columns = values.shape
            under = name.removesuffix("weight") + "parametrizations.weight"
            parts[f"{under}.original"] = values
            parts[f"{under}.0.lora_A"] = np.zeros((4, 4, columns), dtype=np.float32)
            parts[f"{under}.0.lora_B"] = np.zeros((4, rows, 4), dtype=np.float32)
        return parts


PUBLISHED: dict[str, TinyJinaV3] = {
    "published names": TinyJinaV3(prefix="roberta.", has_pooler=True),
    "names of the class": TinyJinaV3(has_class_names=True, heads=2, layers=3, intermediate=80, dtype="float16"),
}
"""What the models of the family look like, by name."""
