"""Small checkpoints of DistilBERT and ELECTRA in the published layout: BERT's tokenizer and folder, other names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.checkpoints import TinyBert, linear, norm


@dataclass(kw_only=True)
class TinyDistilbert(TinyBert):
    """DistilBERT: its own keys and names, no token types, and in files of ``DistilBertForMaskedLM`` a head."""

    has_pooler: bool = False
    has_head: bool = False
    """A language model's, as the file of distilbert-base-uncased has it."""

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        hidden = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            "embeddings.position_embeddings.weight": (self.positions, hidden),
            **norm("embeddings.LayerNorm", hidden),
        }
        for number in range(self.layers):
            layer = f"transformer.layer.{number}"
            for projection in ("q_lin", "k_lin", "v_lin", "out_lin"):
                shapes |= linear(f"{layer}.attention.{projection}", hidden, hidden)
            shapes |= norm(f"{layer}.sa_layer_norm", hidden)
            shapes |= linear(f"{layer}.ffn.lin1", self.intermediate, hidden)
            shapes |= linear(f"{layer}.ffn.lin2", hidden, self.intermediate)
            shapes |= norm(f"{layer}.output_layer_norm", hidden)
        return shapes

    def tensors(self) -> dict[str, Any]:
        """By the names of the file; the head's have no prefix."""
        tensors = super().tensors()
        if self.has_head:
            head = linear("vocab_transform", self.hidden, self.hidden) | norm("vocab_layer_norm", self.hidden)
            head |= linear("vocab_projector", self.words, self.hidden)
            tensors |= self.fill(head)
        return tensors

    def _config(self) -> dict[str, Any]:
        return {
            "activation": "gelu",
            "architectures": ["DistilBertModel"],
            "attention_dropout": 0.1,
            "dim": self.hidden,
            "dropout": 0.1,
            "hidden_dim": self.intermediate,
            "initializer_range": 0.02,
            "max_position_embeddings": self.positions,
            "model_type": "distilbert",
            "n_heads": self.heads,
            "n_layers": self.layers,
            "pad_token_id": 0,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
            "vocab_size": self.words,
            **self.config,
        }


@dataclass(kw_only=True)
class TinyElectra(TinyBert):
    """ELECTRA: BERT's names; the table of words may be narrower than the model."""

    has_pooler: bool = False
    embedding: int = 24
    """Width of the tables."""
    has_head: bool = False
    """The discriminator's, as published files have it."""

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = super()._shapes()
        for name in [name for name in shapes if name.startswith("embeddings.")]:
            shapes[name] = (*shapes[name][:-1], self.embedding)
        if self.embedding != self.hidden:
            shapes |= linear("embeddings_project", self.hidden, self.embedding)
        return shapes

    def tensors(self) -> dict[str, Any]:
        """By the names of the file; the head's have no prefix."""
        head = linear("discriminator_predictions.dense", self.hidden, self.hidden)
        head |= linear("discriminator_predictions.dense_prediction", 1, self.hidden)
        return super().tensors() | (self.fill(head) if self.has_head else {})

    def _config(self) -> dict[str, Any]:
        config = super()._config()
        config |= {"model_type": "electra", "architectures": ["ElectraModel"], "embedding_size": self.embedding}
        return {**config, "summary_type": "first", **self.config}


PUBLISHED: dict[str, TinyDistilbert | TinyElectra] = {
    "distilbert": TinyDistilbert(),
    "distilbert-head": TinyDistilbert(prefix="distilbert.", has_head=True, heads=2, layers=3, intermediate=80),
    "electra": TinyElectra(),
    "electra-head": TinyElectra(prefix="electra.", has_head=True, old_names=True, embedding=32, heads=2, layers=3),
}
"""What the models of the family look like, by name."""
