"""Small checkpoints of Jina BERT v2 in the published layout, and of its variant for code, which has bytes in pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkpoints import TinyBert, linear, norm
from tests.support.roberta_checkpoints import TinyRoberta

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class TinyJina(TinyBert):
    """jina-embeddings-v2-base-en by default, with heads whose number is no power of two."""

    hidden: int = 96
    heads: int = 12
    positions: int = 8192
    is_code: bool = False
    normalize: bool = False
    sentence_config: dict[str, Any] | None = field(default_factory=lambda: {"max_seq_length": 64})

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return max(self.table_rows, self._pairs().config["vocab_size"]) if self.is_code else super().words

    def _shapes(self) -> Shapes:
        hidden = self.hidden
        shapes: Shapes = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            "embeddings.token_type_embeddings.weight": (2, hidden),
            **norm("embeddings.LayerNorm", hidden),
        }
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            for projection in ("query", "key", "value"):
                shapes |= linear(f"{layer}.attention.self.{projection}", hidden, hidden)
            shapes |= linear(f"{layer}.attention.output.dense", hidden, hidden)
            shapes |= norm(f"{layer}.attention.output.LayerNorm", hidden)
            shapes |= self._code_layer(layer) if self.is_code else self._text_layer(layer)
        return shapes | (linear("pooler.dense", hidden, hidden) if self.has_pooler else {})

    def _text_layer(self, layer: str) -> Shapes:
        shapes: Shapes = {f"{layer}.mlp.gated_layers.weight": (2 * self.intermediate, self.hidden)}
        shapes |= linear(f"{layer}.mlp.wo", self.hidden, self.intermediate)
        return shapes | norm(f"{layer}.mlp.layernorm", self.hidden)

    def _code_layer(self, layer: str) -> Shapes:
        shapes: Shapes = {f"{layer}.mlp.up_gated_layer.weight": (2 * self.intermediate, self.hidden)}
        shapes |= linear(f"{layer}.mlp.down_layer", self.hidden, self.intermediate)
        for name in ("attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2"):
            shapes |= norm(f"{layer}.{name}", self.hidden)
        return shapes

    def _config(self) -> dict[str, Any]:
        code = "jinaai/jina-bert-v2-qk-post-norm" if self.is_code else "jinaai/jina-bert-implementation"
        return {
            **super()._config(),
            "_name_or_path": code,
            "architectures": ["JinaBertForMaskedLM"],
            "attn_implementation": "torch",
            "auto_map": {
                "AutoConfig": f"{code}--configuration_bert.JinaBertConfig",
                "AutoModel": f"{code}--modeling_bert.JinaBertModel",
            },
            "emb_pooler": "mean",
            "feed_forward_type": "geglu",
            "position_embedding_type": "alibi",
            **self.config,
        }

    def _pairs(self) -> TinyRoberta:
        return TinyRoberta(positions=self.positions)

    def _write_tokenizer(self, folder: Path) -> None:
        if self.is_code:
            self._pairs()._write_tokenizer(folder)
        else:
            super()._write_tokenizer(folder)


PUBLISHED: dict[str, TinyJina] = {
    "text": TinyJina(),
    "code": TinyJina(is_code=True),
    "text-masked-lm": TinyJina(prefix="bert.", heads=8, hidden=32, layers=3, intermediate=40, normalize=True),
    "code-masked-lm": TinyJina(prefix="bert.", heads=6, hidden=48, is_code=True, has_pooler=False, table_rows=400),
}
"""What the models of the family look like, by name."""
