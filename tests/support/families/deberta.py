"""Small checkpoints of DeBERTa v2 and v3 in the published layout: relative positions, pieces, ``deberta.`` prefix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

from tests.support.checkpoints import Tensors, TinyBert, linear, norm, vocabulary, write_json

Shapes = dict[str, tuple[int, ...]]
_FIRST = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


@dataclass(kw_only=True)
class TinyDeberta(TinyBert):
    """deberta-v3-base by default."""

    prefix: str = "deberta."
    has_pooler: bool = False
    buckets: int = 8
    shares_keys: bool = True
    """Whether positions are projected as words are (v3); False: by layers of their own."""
    convolves: bool = False
    """Whether a convolution stands behind the first layer, as in deberta-v2-xlarge."""
    has_head: bool = False
    """A language model's, and a discriminator's, as the file of deberta-v3-base has them."""
    has_positions: bool = False
    """Whether there is a table of positions that nothing uses."""

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return max(self.table_rows, self.tokenizer().get_vocab_size())

    def _shapes(self) -> Shapes:
        hidden = self.hidden
        shapes: Shapes = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            **norm("embeddings.LayerNorm", hidden),
            "encoder.rel_embeddings.weight": (2 * self.buckets, hidden),
            **norm("encoder.LayerNorm", hidden),
        }
        if self.has_positions:
            shapes["embeddings.position_embeddings.weight"] = (self.positions, hidden)
        projections = ["query_proj", "key_proj", "value_proj"]
        projections += [] if self.shares_keys else ["pos_key_proj", "pos_query_proj"]
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            for projection in projections:
                shapes |= linear(f"{layer}.attention.self.{projection}", hidden, hidden)
            shapes |= linear(f"{layer}.attention.output.dense", hidden, hidden)
            shapes |= norm(f"{layer}.attention.output.LayerNorm", hidden)
            shapes |= linear(f"{layer}.intermediate.dense", self.intermediate, hidden)
            shapes |= linear(f"{layer}.output.dense", hidden, self.intermediate)
            shapes |= norm(f"{layer}.output.LayerNorm", hidden)
        if self.convolves:
            shapes |= {"encoder.conv.conv.weight": (hidden, hidden, 3), "encoder.conv.conv.bias": (hidden,)}
            shapes |= norm("encoder.conv.LayerNorm", hidden)
        return shapes

    def tensors(self) -> Tensors:
        """By the names of the file; the heads' have no prefix."""
        head = linear("lm_predictions.lm_head.dense", self.hidden, self.hidden)
        head |= norm("mask_predictions.LayerNorm", self.hidden) | linear("mask_predictions.dense", 1, self.hidden)
        return super().tensors() | (self.fill(head) if self.has_head else {})

    def _config(self) -> dict[str, Any]:
        convolution = {"conv_act": "gelu", "conv_kernel_size": 3} if self.convolves else {}
        return {
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_norm_eps": 1e-7,
            "max_position_embeddings": self.positions,
            "max_relative_positions": -1,
            "model_type": "deberta-v2",
            "norm_rel_ebd": "layer_norm",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "pad_token_id": 0,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
            "position_buckets": self.buckets,
            "relative_attention": True,
            "share_att_key": self.shares_keys,
            "type_vocab_size": 0,
            "vocab_size": self.words,
            **convolution,
            **self.config,
        }

    def tokenizer(self) -> Tokenizer:
        """Unigram pieces, as tokenizer.json has them."""
        letters = sorted({letter for word in vocabulary()[5:] for letter in word.removeprefix("##")})
        words = [f"▁{word}" for word in vocabulary()[5:] if not word.startswith("##") and len(word) > 1]
        pieces = [(piece, 0.0) for piece in _FIRST]
        pieces += [(piece, -1.0 - place / 50) for place, piece in enumerate(["▁", *letters, *words])]
        tokenizer = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=False))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False)]
        )
        tokenizer.pre_tokenizer = Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.add_special_tokens([*_FIRST, "[MASK]"])
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
        return tokenizer

    def _write_tokenizer(self, folder: Path) -> None:
        self.tokenizer().save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {
            "tokenizer_class": "DebertaV2Tokenizer",
            "do_lower_case": False,
            "model_max_length": self.positions,
            "split_by_punct": False,
            "vocab_type": "spm",
            **dict.fromkeys(("bos_token", "cls_token"), "[CLS]"),
            **dict.fromkeys(("eos_token", "sep_token"), "[SEP]"),
            **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "mask")},
            **self.tokenizer_config,
        }
        write_json(folder / "tokenizer_config.json", settings)


PUBLISHED: dict[str, TinyDeberta] = {
    "v3": TinyDeberta(),
    "v3 with heads": TinyDeberta(has_head=True, heads=2, layers=3, intermediate=80, table_rows=300),
    "v2 xlarge": TinyDeberta(prefix="", convolves=True, shares_keys=False, has_positions=True, buckets=6),
}
"""What the models of the family look like, by name."""
