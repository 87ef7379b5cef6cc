"""Small checkpoints of RoBERTa, XLM-RoBERTa and CamemBERT in the published layout, each with its own kind of tokenizer.

What differs from BERT: positions begin behind the padding token's id (1), so two places of the table stay empty; one
token type; ``roberta.`` before the names in classes with a head; byte-level or SentencePiece tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, WhitespaceSplit
from tokenizers.processors import RobertaProcessing, TemplateProcessing

from tests.support.checkpoints import TinyBert, vocabulary, write_json

_MERGES = ("t h", "th e", "Ġ the", "r e", "re d", "Ġ red", "a n", "Ġ a", "e r", "Ġ p", "l an", "Ġp lan", "e t")
_CLASSES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}


@dataclass(kw_only=True)
class TinyRoberta(TinyBert):
    """One of the three families."""

    family: str = "roberta"

    def __post_init__(self) -> None:
        self.config = {
            "model_type": self.family,
            "architectures": [f"{_CLASSES[self.family]}Model"],
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "type_vocab_size": 1,
            "vocab_size": self.tokenizer().get_vocab_size(),
            **self.config,
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            **super()._shapes(),
            "embeddings.word_embeddings.weight": (self.config["vocab_size"], self.hidden),
            "embeddings.token_type_embeddings.weight": (1, self.hidden),
        }

    def tokenizer(self) -> Tokenizer:
        """As tokenizer.json has it, but for truncation and padding."""
        return _byte_level() if self.family == "roberta" else _sentence_piece(camembert=self.family == "camembert")

    def _write_tokenizer(self, folder: Path) -> None:
        tokenizer = self.tokenizer()
        tokenizer.enable_truncation(8)
        tokenizer.enable_padding(length=8)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {
            "tokenizer_class": f"{_CLASSES[self.family]}Tokenizer",
            "model_max_length": self.positions - 2,
            **dict.fromkeys(("bos_token", "cls_token"), "<s>"),
            **dict.fromkeys(("eos_token", "sep_token"), "</s>"),
            **{f"{name}_token": f"<{name}>" for name in ("unk", "pad", "mask")},
            **self.tokenizer_config,
        }
        write_json(folder / "tokenizer_config.json", settings)


def _byte_level() -> Tokenizer:
    """RoBERTa's: every byte is a token, some pairs are merged, a space belongs to the word behind it."""
    merged = [merge.replace(" ", "") for merge in _MERGES]
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), *merged, "lan", "<mask>"]
    ids = {word: index for index, word in enumerate(dict.fromkeys(words))}
    merges = [(left, right) for left, right in (merge.split(" ") for merge in ("l a", "la n", *_MERGES))]
    ids.setdefault("la", len(ids))
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _add_specials(tokenizer)
    tokenizer.post_processor = RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False)
    return tokenizer


def _sentence_piece(*, camembert: bool) -> Tokenizer:
    """Unigram pieces; a space is a letter of its own at the beginning of each word."""
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    if camembert:  # as its file has it, with fairseq's names in the places that nobody uses
        first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    letters = sorted({letter for word in vocabulary()[5:] for letter in word.removeprefix("##")})
    words = [f"▁{word}" for word in vocabulary()[5:] if not word.startswith("##") and len(word) > 1]
    pieces = [*first, "▁", *letters, *words, "<mask>"]
    scores = [0.0 if piece in first or piece == "<mask>" else -1.0 - index / 50 for index, piece in enumerate(pieces)]
    tokenizer = Tokenizer(Unigram(list(zip(pieces, scores, strict=True)), unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [WhitespaceSplit(), Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    _add_specials(tokenizer)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    return tokenizer


def _add_specials(tokenizer: Tokenizer) -> None:
    plain = [AddedToken(name, special=True, normalized=False) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer.add_special_tokens([*plain, AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
