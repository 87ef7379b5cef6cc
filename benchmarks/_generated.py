"""Checkpoints of real sizes with random weights, each with a tokenizer of a real size: what no file here could give.

How much memory a model takes depends on shapes, on the number of words and on the kind of tokenizer, never on what the
weights say. The words are syllables, so that they share beginnings as real ones do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from tests.support.checkpoints import SPECIAL, TinyBert, write_json
from tests.support.roberta_checkpoints import TinyRoberta

_ONSETS = ("b", "br", "c", "ch", "d", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "v")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
_SYLLABLES = tuple(onset + vowel for onset in _ONSETS for vowel in _VOWELS)


def words(count: int) -> list[str]:
    """So many different ones, the shortest first, none of one syllable."""
    longer = (itertools.product(_SYLLABLES, repeat=length) for length in itertools.count(2))
    every = ("".join(word) for several in longer for word in several)
    found: dict[str, None] = {}
    # Real vocabularies are not full: of longer words only some are there.
    for place, word in enumerate(every):
        if len(found) == count:
            break
        if place % 7 in {0, 1, 3}:
            found[word] = None
    return list(found)


@dataclass(kw_only=True)
class Shape:
    """What a checkpoint is measured for. ``vocabulary`` tokens, of which all but the special ones are words."""

    family: str
    hidden: int
    layers: int
    vocabulary: int
    heads: int = 12
    positions: int = 514
    seed: int = 0

    def write(self, folder: Path) -> Path:
        """All files of the model."""
        kind = _LargeBert if self.family == "bert" else _LargeRoberta
        extra: dict[str, Any] = {} if self.family == "bert" else {"family": self.family}
        return kind(
            words=self.vocabulary,
            seed=self.seed,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            intermediate=4 * self.hidden,
            positions=self.positions,
            has_pooler=False,
            sentence_config={"max_seq_length": 512},
            **extra,
        ).write(folder)


@dataclass(kw_only=True)
class _LargeBert(TinyBert):
    words: int

    def __post_init__(self) -> None:
        self.config = {"vocab_size": self.words}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super()._shapes(), "embeddings.word_embeddings.weight": (self.words, self.hidden)}

    def _write_tokenizer(self, folder: Path) -> None:
        vocabulary = [*SPECIAL, *words(self.words - len(SPECIAL))]
        ids = {word: index for index, word in enumerate(vocabulary)}
        tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
        tokenizer.add_special_tokens(list(SPECIAL))
        tokenizer.normalizer = BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = BertPreTokenizer()
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


@dataclass(kw_only=True)
class _LargeRoberta(TinyRoberta):
    words: int
    _made: Tokenizer | None = field(default=None, init=False, repr=False)

    def _tokenizer(self) -> Tokenizer:
        if self._made is None:
            self._made = _byte_level(self.words) if self.family == "roberta" else _pieces(self.words)
        return self._made


def _specials(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return tokenizer


_FIRST = ("<s>", "<pad>", "</s>", "<unk>")


def _pieces(count: int) -> Tokenizer:
    """SentencePiece's kind, as XLM-RoBERTa and CamemBERT have it."""
    letters = sorted(set("".join(_SYLLABLES)))
    listed = [*_FIRST, "▁", *letters]
    listed += [f"▁{word}" for word in words(count - len(listed) - 1)] + ["<mask>"]
    scores = [0.0 if index < len(_FIRST) else -1.0 - index / count for index in range(count)]
    tokenizer = Tokenizer(Unigram(list(zip(listed, scores, strict=True)), unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [WhitespaceSplit(), Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return _specials(tokenizer)


def _byte_level(count: int) -> Tokenizer:
    """RoBERTa's kind: each word of two syllables or more is merged from two parts that are words as well."""
    ids = {word: index for index, word in enumerate([*_FIRST, *sorted(ByteLevel.alphabet())])}
    merges: list[tuple[str, str]] = []

    def merge(left: str, right: str) -> None:
        if left + right not in ids and len(ids) < count - 1:
            ids[left + right] = len(ids)
            merges.append((left, right))

    for syllable in _SYLLABLES:
        for end in range(2, len(syllable) + 1):
            merge(syllable[: end - 1], syllable[end - 1])
    for syllable in _SYLLABLES:
        merge("Ġ", syllable)
    for length in itertools.count(2):
        if len(ids) == count - 1:
            break
        for start, *rest in itertools.product(_SYLLABLES, repeat=length):
            left = "Ġ" + start + "".join(rest[:-1])
            if left in ids:
                merge(left, rest[-1])
            if len(ids) == count - 1:
                break
    ids["<mask>"] = len(ids)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return _specials(tokenizer)
