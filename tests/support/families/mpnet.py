"""Small checkpoints of MPNet in the published layout: BERT's words with RoBERTa's special tokens, no token types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import RobertaProcessing

from tests.support.checkpoints import TinyBert, linear, norm, vocabulary, write_json

_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_BUCKETS = 32


@dataclass(kw_only=True)
class TinyMPNet(TinyBert):
    """all-mpnet-base-v2 by default."""

    heads: int = 4
    positions: int = 64
    """Rows of their table; two of them no text uses."""

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return max(self.table_rows, len(mpnet_words()))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        hidden = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.words, hidden),
            "embeddings.position_embeddings.weight": (self.positions, hidden),
            **norm("embeddings.LayerNorm", hidden),
            "encoder.relative_attention_bias.weight": (_BUCKETS, self.heads),
        }
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            for projection in "qkvo":
                shapes |= linear(f"{layer}.attention.attn.{projection}", hidden, hidden)
            shapes |= norm(f"{layer}.attention.LayerNorm", hidden)
            shapes |= linear(f"{layer}.intermediate.dense", self.intermediate, hidden)
            shapes |= linear(f"{layer}.output.dense", hidden, self.intermediate)
            shapes |= norm(f"{layer}.output.LayerNorm", hidden)
        return shapes | (linear("pooler.dense", hidden, hidden) if self.has_pooler else {})

    def tensors(self) -> dict[str, Any]:
        """By the names of the file. The bias is as large as trained ones are, so that its buckets show."""
        tensors = super().tensors()
        tensors[f"{self.prefix}encoder.relative_attention_bias.weight"] *= 10
        return tensors

    def _config(self) -> dict[str, Any]:
        config = super()._config()
        for key in ("position_embedding_type", "type_vocab_size"):
            del config[key]
        return {
            **config,
            "architectures": ["MPNetForMaskedLM"],
            "bos_token_id": 0,
            "eos_token_id": 2,
            "layer_norm_eps": 1e-5,
            "model_type": "mpnet",
            "pad_token_id": 1,
            "relative_attention_num_buckets": _BUCKETS,
            **self.config,
        }

    def _write_tokenizer(self, folder: Path) -> None:
        tokenizer = mpnet_tokenizer()
        tokenizer.enable_truncation(8)
        tokenizer.enable_padding(length=8, pad_id=1, pad_token="<pad>")
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.txt").write_text("\n".join(mpnet_words()) + "\n", encoding="utf-8")
        settings: dict[str, Any] = {
            "tokenizer_class": "MPNetTokenizer",
            "do_lower_case": True,
            "model_max_length": self.positions - 2,
            **dict.fromkeys(("bos_token", "cls_token"), "<s>"),
            **dict.fromkeys(("eos_token", "sep_token"), "</s>"),
            "unk_token": "[UNK]",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            **self.tokenizer_config,
        }
        write_json(folder / "tokenizer_config.json", settings)


def mpnet_words() -> list[str]:
    """Every word; its place is its id."""
    return [*_FIRST, *vocabulary(), "<mask>"]


def mpnet_tokenizer() -> Tokenizer:
    """As tokenizer.json has it."""
    ids = {word: index for index, word in enumerate(mpnet_words())}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    plain = [AddedToken(name, special=True, normalized=False) for name in _FIRST]
    tokenizer.add_special_tokens([*plain, AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


PUBLISHED: dict[str, TinyMPNet] = {
    "published": TinyMPNet(),
    "with a head": TinyMPNet(prefix="mpnet.", heads=2, layers=3, intermediate=80, table_rows=200, old_names=True),
}
"""What the models of the family look like, by name."""
