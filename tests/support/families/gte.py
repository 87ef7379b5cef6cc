"""Small checkpoints of GTE's own architecture as it was published (``new``, ``gte``), Stella 400M's body included."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkpoints import TinyBert, linear, norm
from tests.support.roberta_checkpoints import TinyRoberta

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class TinyGte(TinyBert):
    """Keys, names and packing of the file; what the models of the family differ in are fields."""

    has_pooler: bool = False
    token_types: int = 2
    """2 in gte-large and Stella, 1 in the multilingual ones, 0 in gte-base, whose file has no such table."""
    theta: float = 160000.0
    scaling: dict[str, Any] | None = field(default_factory=lambda: {"type": "ntk", "factor": 2.0})
    kind: str = "new"
    """``model_type``."""
    is_multilingual: bool = False
    """With the tokenizer of XLM-R instead of BERT's."""
    table_rows: int = 120

    def _shapes(self) -> Shapes:
        hidden, intermediate = self.hidden, self.intermediate
        shapes: Shapes = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            **norm("embeddings.LayerNorm", hidden),
        }
        if self.token_types:
            shapes["embeddings.token_type_embeddings.weight"] = (self.token_types, hidden)
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            shapes |= linear(f"{layer}.attention.qkv_proj", 3 * hidden, hidden)
            shapes |= linear(f"{layer}.attention.o_proj", hidden, hidden)
            shapes[f"{layer}.mlp.up_gate_proj.weight"] = (2 * intermediate, hidden)
            shapes |= linear(f"{layer}.mlp.down_proj", hidden, intermediate)
            shapes |= norm(f"{layer}.attn_ln", hidden) | norm(f"{layer}.mlp_ln", hidden)
        return shapes | (linear("pooler.dense", hidden, hidden) if self.has_pooler else {})

    def _config(self) -> dict[str, Any]:
        code = "Alibaba-NLP/new-impl--"
        return {
            "architectures": ["NewModel"],
            "attention_probs_dropout_prob": 0.0,
            "auto_map": {
                "AutoConfig": f"{code}configuration.NewConfig",
                "AutoModel": f"{code}modeling.NewModel",
            },
            "classifier_dropout": None,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_norm_eps": 1e-12,
            "layer_norm_type": "layer_norm",
            "logn_attention_clip1": False,
            "logn_attention_scale": False,
            "max_position_embeddings": self.positions,
            "model_type": self.kind,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "pack_qkv": True,
            "pad_token_id": 0,
            "position_embedding_type": "rope",
            "rope_scaling": self.scaling,
            "rope_theta": self.theta,
            "type_vocab_size": self.token_types,
            "unpad_inputs": False,
            "use_memory_efficient_attention": False,
            "vocab_size": self.words,
            **self.config,
        }

    def _write_tokenizer(self, folder: Path) -> None:
        if not self.is_multilingual:
            super()._write_tokenizer(folder)
            return
        sentence_piece = TinyRoberta(family="xlm-roberta", positions=self.positions)
        sentence_piece._write_tokenizer(folder)


PUBLISHED: dict[str, TinyGte] = {
    "gte-base-en-v1.5": TinyGte(token_types=0, theta=500000.0, scaling=None, normalize=False),
    "gte-large-en-v1.5": TinyGte(prefix="new.", scaling={"type": "ntk", "factor": 2.0, "mixed_b": None}, layers=3),
    "gte-multilingual-base": TinyGte(
        prefix="new.", token_types=1, theta=20000.0, scaling={"type": "ntk", "factor": 8.0}, is_multilingual=True,
        dtype="float16", config={"architectures": ["NewModel", "NewForTokenClassification"]},
        pooling={"pooling_mode_cls_token": True}, has_pooler=True, heads=2,
    ),
    "arctic-embed-m-v2.0": TinyGte(
        kind="gte", token_types=1, scaling=None, is_multilingual=True, pooling={"pooling_mode_cls_token": True}
    ),
    "stella_en_400M_v5": TinyGte(
        prefix="new.", normalize=False, hidden=48, heads=2, intermediate=80,
        config={"unpad_inputs": True, "use_memory_efficient_attention": True},
    ),
}  # fmt: skip
"""What the models of the family look like, by name."""
