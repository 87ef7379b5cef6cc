"""Small checkpoints of EuroBERT in the published layout: a Llama's names, a table of words that is not the head's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from tests.support.families.decoder_tokenizers import END, byte_pairs, template
from tests.support.families.decoders import TinyDecoder

BEGIN = "<|im_start|>"
"""In the place of ``<|begin_of_text|>``."""


@dataclass(kw_only=True)
class TinyEuroBert(TinyDecoder):
    """Both directions by its class alone: config.json does not say it."""

    kind: str = "eurobert"
    architecture: str = "EuroBertForMaskedLM"
    theta: float = 250000.0
    has_lm_head: bool = True
    pooling: dict[str, Any] | None = field(default_factory=lambda: {"pooling_mode_mean_tokens": True})

    def __post_init__(self) -> None:
        usual: dict[str, Any] = {"attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-5, "rope_scaling": None}
        code = {"AutoConfig": "configuration_eurobert.EuroBertConfig", "AutoModel": "modeling_eurobert.EuroBertModel"}
        tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "mask_token_id": 3}
        self.config = {**usual, **tokens, "auto_map": code, "rope_theta": self.theta, **self.config}

    def tokenizer(self) -> Tokenizer:
        """As tokenizer.json has it: a token at both ends."""
        tokenizer = byte_pairs(closes=False)
        tokenizer.post_processor = template(tokenizer, f"{BEGIN} $A {END}")
        return tokenizer

    def _special_tokens(self) -> dict[str, Any]:
        names = ["input_ids", "attention_mask"]
        tokens = {"bos_token": BEGIN, "eos_token": END, "pad_token": END}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, **tokens}


PUBLISHED: dict[str, TinyEuroBert] = {
    "EuroBERT-210m": TinyEuroBert(key_value_heads=4),
    "EuroBERT-610m": TinyEuroBert(heads=6, key_value_heads=2, hidden=48, intermediate=80, layers=3, bfloat16=True),
    "without a prefix": TinyEuroBert(prefix="", has_lm_head=False, architecture="EuroBertModel"),
}
"""What the models of the family look like, by name."""
