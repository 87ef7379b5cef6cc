"""Small checkpoints of NomicBERT in the published layout: GPT-2's keys, packed projections; with experts or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkpoints import TinyBert, linear, norm
from tests.support.roberta_checkpoints import TinyRoberta

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class TinyNomic(TinyBert):
    """nomic-embed-text v1.5 by default."""

    has_pooler: bool = False
    positions: int = 8192
    trained: int | None = 2048
    """``max_trained_positions``; None: not in the file."""
    theta: float = 1000.0
    eps: float = 1e-12
    table_rows: int = 120
    has_head: bool = False
    """A language model's, as pretrained files have it."""
    prompts: dict[str, str] | None = field(
        default_factory=lambda: {"query": "search_query: ", "document": "search_document: "}
    )

    def _shapes(self) -> Shapes:
        hidden = self.hidden
        shapes: Shapes = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            "embeddings.token_type_embeddings.weight": (self._token_types(), hidden),
            **norm("emb_ln", hidden),
        }
        for number in range(self.layers):
            layer = f"encoder.layers.{number}"
            shapes |= self._attention(f"{layer}.attn") | self._feed_forward(f"{layer}.mlp", number)
            shapes |= norm(f"{layer}.norm1", hidden) | norm(f"{layer}.norm2", hidden)
        return shapes | (linear("cls.predictions.decoder", self.words, hidden) if self.has_head else {})

    def _token_types(self) -> int:
        return 2

    def _attention(self, name: str) -> Shapes:
        return {
            f"{name}.Wqkv.weight": (3 * self.hidden, self.hidden),
            f"{name}.out_proj.weight": (self.hidden, self.hidden),
        }

    def _feed_forward(self, name: str, layer: int) -> Shapes:
        del layer
        return {
            f"{name}.fc11.weight": (self.intermediate, self.hidden),
            f"{name}.fc12.weight": (self.intermediate, self.hidden),
            f"{name}.fc2.weight": (self.hidden, self.intermediate),
        }

    def _config(self) -> dict[str, Any]:
        config = {
            "activation_function": "swiglu",
            "architectures": ["NomicBertModel"],
            "attn_pdrop": 0.0,
            "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
            "bos_token_id": None,
            "causal": False,
            "dense_seq_output": True,
            "embd_pdrop": 0.0,
            "fused_bias_fc": True,
            "initializer_range": 0.02,
            "layer_norm_epsilon": self.eps,
            "max_trained_positions": self.trained,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "model_type": "nomic_bert",
            "n_embd": self.hidden,
            "n_head": self.heads,
            "n_inner": self.intermediate,
            "n_layer": self.layers,
            "n_positions": self.positions,
            "parallel_block": False,
            "prenorm": False,
            "qkv_proj_bias": False,
            "rotary_emb_base": self.theta,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": 2.0,
            "scale_attn_by_inverse_layer_idx": False,
            "scale_attn_weights": True,
            "type_vocab_size": self._token_types(),
            "use_flash_attn": True,
            "use_rms_norm": False,
            "vocab_size": self.words,
        }
        return {key: value for key, value in config.items() if key != "max_trained_positions" or value} | self.config


@dataclass(kw_only=True)
class TinyNomicMoe(TinyNomic):
    """nomic-embed-text-v2-moe: experts in every second layer, biases, no gates, the tokenizer of XLM-R."""

    layers: int = 4
    positions: int = 2048
    theta: float = 10000.0
    eps: float = 1e-5
    experts: int = 8
    chosen: int = 2
    """Experts per token."""

    def _token_types(self) -> int:
        return 1

    def _attention(self, name: str) -> Shapes:
        hidden = self.hidden
        return linear(f"{name}.Wqkv", 3 * hidden, hidden) | linear(f"{name}.out_proj", hidden, hidden)

    def _feed_forward(self, name: str, layer: int) -> Shapes:
        hidden, intermediate = self.hidden, self.intermediate
        if layer % 2 != 1:
            return linear(f"{name}.fc1", intermediate, hidden) | linear(f"{name}.fc2", hidden, intermediate)
        return {
            f"{name}.router.layer.weight": (self.experts, hidden),
            f"{name}.experts.mlp.w1": (self.experts * intermediate, hidden),
            f"{name}.experts.mlp.w2": (self.experts * intermediate, hidden),
            f"{name}.experts.bias": (hidden,),
        }

    def _config(self) -> dict[str, Any]:
        return {
            **super()._config(),
            "activation_function": "gelu",
            "expert_choice_router": False,
            "ffn_div": 1.0,
            "mlp_fc1_bias": True,
            "mlp_fc2_bias": True,
            "moe_every_n_layers": 2,
            "moe_impl": "megablocks",
            "moe_normalize_expert_weights": False,
            "moe_top_k": self.chosen,
            "num_experts": self.experts,
            "num_shared_experts": 0,
            "pad_token_id": 1,
            "qkv_proj_bias": True,
            "rotary_scaling_factor": None,
            **self.config,
        }

    def _write_tokenizer(self, folder: Path) -> None:
        TinyRoberta(family="xlm-roberta", positions=512)._write_tokenizer(folder)


PUBLISHED: dict[str, TinyNomic] = {
    "v1.5": TinyNomic(),
    "arctic-embed-m-long": TinyNomic(
        theta=8000.0, eps=1e-3, heads=2, layers=3, pooling={"pooling_mode_cls_token": True}
    ),
    "with a head": TinyNomic(prefix="bert.", has_head=True, hidden=48, intermediate=40, config={"pad_token_id": 0}),
}
"""What the models of the family look like, by name."""


WITH_EXPERTS: dict[str, TinyNomicMoe] = {
    "as published": TinyNomicMoe(),
    "three of five": TinyNomicMoe(experts=5, chosen=3, layers=3, heads=2, hidden=48, intermediate=40, eps=1e-3),
}
"""The same, of models with experts."""
