"""Small checkpoints of the families that began as language models, in the published layout, with their tokenizers.

Qwen2 and Qwen3 have bytes in pairs and no token before a text; Mistral and Llama have pieces and ``<s>``; Gemma has
pieces and a token at both ends. Key/value heads are fewer than heads; a head of Qwen3's is wider than its share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from tests.support.checkpoints import Tensors, TinyBert, write_json
from tests.support.families.decoder_tokenizers import END, byte_pairs, of_pieces, pieces, template

Shapes = dict[str, tuple[int, ...]]


@dataclass(kw_only=True)
class TinyDecoder(TinyBert):
    """What the families have in common: gated layers, norms without biases, rotated positions."""

    kind: str = "qwen2"
    architecture: str = "Qwen2ForCausalLM"
    heads: int = 4
    key_value_heads: int = 2
    head_width: int | None = None
    """None: the head's share of the hidden size."""
    prefix: str = "model."
    has_lm_head: bool = False
    positions: int = 128
    pooling: dict[str, Any] | None = field(default_factory=lambda: {"pooling_mode_lasttoken": True})
    sentence_config: dict[str, Any] | None = field(
        default_factory=lambda: {"max_seq_length": 64, "do_lower_case": False}
    )
    padded_words: int = 0
    """Rows of the table that no token has."""
    closes: bool = False
    """Whether tokenizer.json itself puts the last token behind every text."""
    bfloat16: bool = False

    def write(self, folder: Path) -> Path:
        """All files of the model."""
        super().write(folder)
        if self.bfloat16:
            tensors = {name: torch.from_numpy(values).bfloat16() for name, values in self.tensors().items()}
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return int(self.tokenizer().get_vocab_size()) + self.padded_words

    @property
    def head_dim(self) -> int:
        return self.head_width or self.hidden // self.heads

    def tensors(self) -> Tensors:
        """By the names of the file; a head of the language model has no prefix."""
        tensors = super().tensors()
        if self.has_lm_head:
            tensors["lm_head.weight"] = np.ones((self.words, self.hidden), dtype=np.float32)
        return tensors

    def _shapes(self) -> Shapes:
        hidden = self.hidden
        shapes: Shapes = {"embed_tokens.weight": (self.words, hidden)}
        for number in range(self.layers):
            layer = f"layers.{number}"
            shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
            shapes |= self._attention(f"{layer}.self_attn")
            shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
            for name in ("gate_proj", "up_proj"):
                shapes[f"{layer}.mlp.{name}.weight"] = (self.intermediate, hidden)
            shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, self.intermediate)
        return shapes | {"norm.weight": (hidden,)}

    def _attention(self, name: str) -> Shapes:
        wide, narrow = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        shapes: Shapes = {f"{name}.q_proj.weight": (wide, self.hidden)}
        shapes |= {f"{name}.{projection}_proj.weight": (narrow, self.hidden) for projection in "kv"}
        return shapes | {f"{name}.o_proj.weight": (self.hidden, wide)}

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": [self.architecture],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "model_type": self.kind,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16" if self.bfloat16 else "float32",
            "use_cache": True,
            "vocab_size": self.words,
            **self.config,
        }

    def tokenizer(self) -> Tokenizer:
        """As tokenizer.json has it."""
        return byte_pairs(closes=self.closes)

    def _write_tokenizer(self, folder: Path) -> None:
        self.tokenizer().save(str(folder / "tokenizer.json"))
        settings = {"model_max_length": self.positions, **self._special_tokens(), **self.tokenizer_config}
        write_json(folder / "tokenizer_config.json", settings)

    def _special_tokens(self) -> dict[str, Any]:
        return {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "pad_token": END}


@dataclass(kw_only=True)
class TinyQwen2(TinyDecoder):
    """gte-Qwen2 and Stella 1.5B: non-causal by the code that they came with; biases on queries, keys and values."""

    published_code: bool = True
    """Whether config.json names the code whose class sees in both directions."""

    def __post_init__(self) -> None:
        code = {"AutoModel": "modeling_qwen.Qwen2Model", "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM"}
        usual = {"max_window_layers": 28, "sliding_window": 131072, "use_sliding_window": False}
        self.config = {**usual, **({"auto_map": code} if self.published_code else {}), **self.config}

    def _attention(self, name: str) -> Shapes:
        shapes = super()._attention(name)
        return shapes | {f"{name}.{letter}_proj.bias": shapes[f"{name}.{letter}_proj.weight"][:1] for letter in "qkv"}


@dataclass(kw_only=True)
class TinyQwen3(TinyDecoder):
    """Qwen3-Embedding: causal, a norm for each head, no biases, a head wider than its share."""

    kind: str = "qwen3"
    architecture: str = "Qwen3ForCausalLM"
    head_width: int | None = 16
    padded_words: int = 7

    def __post_init__(self) -> None:
        usual = {"max_window_layers": 28, "sliding_window": None, "use_sliding_window": False, "attention_bias": False}
        self.config = {**usual, "head_dim": self.head_dim, "tie_word_embeddings": True, **self.config}

    def _attention(self, name: str) -> Shapes:
        return super()._attention(name) | {f"{name}.{letter}_norm.weight": (self.head_dim,) for letter in "qk"}


@dataclass(kw_only=True)
class TinyMistral(TinyDecoder):
    """e5-mistral and its kind: causal, a window, pieces."""

    kind: str = "mistral"
    architecture: str = "MistralModel"
    prefix: str = ""
    closes: bool = True

    def __post_init__(self) -> None:
        self.config = {"sliding_window": 4096, "rms_norm_eps": 1e-5, **self.config}

    def tokenizer(self) -> Tokenizer:
        """As tokenizer.json has it."""
        return pieces(closes=self.closes)

    def _special_tokens(self) -> dict[str, Any]:
        return {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(kw_only=True)
class TinyLlama(TinyMistral):
    """Llama, causal or not by what config.json says."""

    kind: str = "llama"
    architecture: str = "LlamaModel"

    def __post_init__(self) -> None:
        self.config = {"rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False, **self.config}


@dataclass(kw_only=True)
class TinyGemma(TinyDecoder):
    """EmbeddingGemma's body: both directions, windows, four norms in a layer that count from one."""

    kind: str = "gemma3_text"
    architecture: str = "Gemma3TextModel"
    prefix: str = ""
    heads: int = 3
    key_value_heads: int = 1
    hidden: int = 48
    head_width: int | None = 16
    layers: int = 4
    pooling: dict[str, Any] | None = field(default_factory=lambda: {"pooling_mode_mean_tokens": True})

    def __post_init__(self) -> None:
        kinds = ["full_attention" if number % 3 == 2 else "sliding_attention" for number in range(self.layers)]
        self.config = {
            "_sliding_window_pattern": 3,
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "head_dim": self.head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": kinds,
            "query_pre_attn_scalar": 20,
            "rope_local_base_freq": 100.0,
            "rope_scaling": None,
            "sliding_window": 8,
            "use_bidirectional_attention": True,
            **self.config,
        }

    def _config(self) -> dict[str, Any]:
        return {key: value for key, value in super()._config().items() if key != "hidden_act"}

    def _attention(self, name: str) -> Shapes:
        return super()._attention(name) | {f"{name}.{letter}_norm.weight": (self.head_dim,) for letter in "qk"}

    def _shapes(self) -> Shapes:
        shapes = super()._shapes()
        for number in range(self.layers):
            for place in ("pre", "post"):
                shapes[f"layers.{number}.{place}_feedforward_layernorm.weight"] = (self.hidden,)
        return shapes

    def tensors(self) -> Tensors:
        """By the names of the file; gains are near nought."""
        return {
            name: values - 1 if name.endswith("norm.weight") else values for name, values in super().tensors().items()
        }

    def tokenizer(self) -> Tokenizer:
        """As tokenizer.json has it."""
        tokenizer = of_pieces(["<pad>", "<eos>", "<bos>", "<unk>"])
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.post_processor = template(tokenizer, "<bos> $A <eos>")
        return tokenizer

    def _special_tokens(self) -> dict[str, Any]:
        names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
        return {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": True, **names}


@dataclass(kw_only=True)
class TinyNvEmbed(TinyMistral):
    """NV-Embed v2: Mistral within, latents behind, a config of several parts."""

    prefix: str = "embedding_model."
    closes: bool = False
    latents: int = 6
    cross_heads: int = 2
    cross_head_dim: int = 32
    latent_dim: int = 32
    pooling: dict[str, Any] | None = field(
        default_factory=lambda: {"pooling_mode_mean_tokens": True, "include_prompt": False}
    )

    def __post_init__(self) -> None:
        """The body's sizes stand in a part of the config."""

    def _config(self) -> dict[str, Any]:
        body = {**super()._config(), "model_type": "bidir_mistral", "rms_norm_eps": 1e-5, "sliding_window": 4}
        return {
            "add_eos": True,
            "add_pad_token": True,
            "architectures": ["NVEmbedModel"],
            "auto_map": {
                "AutoConfig": "configuration_nvembed.NVEmbedConfig",
                "AutoModel": "modeling_nvembed.NVEmbedModel",
            },
            "hidden_size": self.hidden,
            "is_mask_instruction": True,
            "latent_attention_config": {
                "cross_dim_head": self.cross_head_dim,
                "hidden_dim": self.hidden,
                "latent_dim": self.latent_dim,
                "model_type": "latent_attention",
                "num_cross_heads": self.cross_heads,
                "num_latents_value": self.latents,
                "output_normalize": True,
            },
            "mask_type": "b",
            "model_type": "nvembed",
            "padding_side": "right",
            "text_config": body,
            **self.config,
        }

    def tensors(self) -> Tensors:
        """The body's by its prefix, and those of the latents."""
        block = "latent_attention_model.cross_attend_blocks"
        inner, wide = self.cross_heads * self.cross_head_dim, 4 * self.hidden
        shapes: Shapes = {
            "latent_attention_model.latents": (self.latents, self.latent_dim),
            f"{block}.0.fn.to_q.weight": (inner, self.hidden),
            f"{block}.0.fn.to_kv.weight": (2 * inner, self.latent_dim),
            f"{block}.0.fn.to_out.weight": (self.hidden, inner),
            f"{block}.1.fn.net.0.weight": (2 * wide, self.hidden),
            f"{block}.1.fn.net.0.bias": (2 * wide,),
            f"{block}.1.fn.net.2.weight": (self.hidden, wide),
            f"{block}.1.fn.net.2.bias": (self.hidden,),
        }
        for norm, size in (("0.norm", self.hidden), ("0.norm_context", self.latent_dim), ("1.norm", self.hidden)):
            shapes |= {f"{block}.{norm}.weight": (size,), f"{block}.{norm}.bias": (size,)}
        return super().tensors() | self.fill(shapes)
