"""Small checkpoints of ModernBERT in the published layout: packed tensors, no biases, a first layer with no norm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.checkpoints import TinyBert

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class TinyModernBert(TinyBert):
    """Keys, names and packing of the file."""

    layers: int = 5
    has_pooler: bool = False
    local: int = 6
    """Tokens that a layer of the near ones sees, itself not counted: half of them to each side."""
    every: int = 3
    """Each so-many-th layer sees everything, the first one too."""
    global_theta: float = 160000.0
    local_theta: float | None = 10000.0
    has_head: bool = False
    """Of ``ModernBertForMaskedLM``, without the weight that it shares with the table of words."""
    tokenizer_config: dict[str, Any] = field(
        default_factory=lambda: {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
        }
    )

    def _shapes(self) -> Shapes:
        hidden, intermediate = self.hidden, self.intermediate
        shapes: Shapes = {
            "embeddings.tok_embeddings.weight": (self.words, hidden),
            "embeddings.norm.weight": (hidden,),
            "final_norm.weight": (hidden,),
        }
        for number in range(self.layers):
            layer = f"layers.{number}"
            if number:
                shapes[f"{layer}.attn_norm.weight"] = (hidden,)
            shapes |= {
                f"{layer}.attn.Wqkv.weight": (3 * hidden, hidden),
                f"{layer}.attn.Wo.weight": (hidden, hidden),
                f"{layer}.mlp_norm.weight": (hidden,),
                f"{layer}.mlp.Wi.weight": (2 * intermediate, hidden),
                f"{layer}.mlp.Wo.weight": (hidden, intermediate),
            }
        return shapes

    def tensors(self) -> dict[str, Any]:
        """By the names of the file; the head's have no prefix."""
        hidden = self.hidden
        head: Shapes = {"head.dense.weight": (hidden, hidden), "head.norm.weight": (hidden,)}
        head["decoder.bias"] = (self.words,)
        return super().tensors() | (self.fill(head) if self.has_head else {})

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["ModernBertForMaskedLM" if self.has_head else "ModernBertModel"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "classifier_pooling": "mean",
            "cls_token_id": 2,
            "decoder_bias": True,
            "deterministic_flash_attn": False,
            "embedding_dropout": 0.0,
            "eos_token_id": 3,
            "global_attn_every_n_layers": self.every,
            "global_rope_theta": self.global_theta,
            "hidden_activation": "gelu",
            "hidden_size": self.hidden,
            "initializer_cutoff_factor": 2.0,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_norm_eps": 1e-05,
            "local_attention": self.local,
            "local_rope_theta": self.local_theta,
            "max_position_embeddings": self.positions,
            "mlp_bias": False,
            "mlp_dropout": 0.0,
            "model_type": "modernbert",
            "norm_bias": False,
            "norm_eps": 1e-05,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "sep_token_id": 3,
            "vocab_size": self.words,
            **self.config,
        }


PUBLISHED: dict[str, TinyModernBert] = {
    "modernbert-embed-base": TinyModernBert(prefix="model.", has_head=True, sentence_config={"max_seq_length": 48}),
    "gte-modernbert-base": TinyModernBert(
        normalize=False, pooling={"pooling_mode_cls_token": True}, dtype="float16", heads=2, layers=4, local=9,
        sentence_config={"max_seq_length": 48},
    ),
    "granite-embedding-english-r2": TinyModernBert(
        pooling={"pooling_mode_cls_token": True}, every=2, layers=3, intermediate=80, local_theta=None,
    ),
}  # fmt: skip
"""What the models of the family look like, by name."""
