"""Checkpoints of real sizes with random weights, each with a tokenizer of a real size: what no file here could give.

How much memory a model takes depends on shapes, on the number of words and on the kind of tokenizer, never on what the
weights say. The words are syllables, so that they share beginnings as real ones do. Which models there are: _sizes.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from tests.support.checkpoints import SPECIAL, write_json

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
class RealSize:
    """Before one of the writers of small checkpoints among a class's bases: its sizes are real ones then."""

    vocabulary: int
    """Tokens, of which all but the special ones are words, and rows of their table."""
    pieces: Callable[[int], Tokenizer]
    stored: torch.dtype = torch.float32

    @property
    def words(self) -> int:
        """Rows of the table of words."""
        return self.vocabulary

    def write(self: Any, folder: Path) -> Path:  # the other base has what this calls
        """All files of the model."""
        folder.mkdir(parents=True)
        write_json(folder / "config.json", self._config())
        self._write_pipeline(folder)
        self.pieces(self.vocabulary).save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", {"model_max_length": self.positions, **self.tokenizer_config})
        save_file(self.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def fill(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Small values: with those of the small checkpoints, scores of wide heads would overflow."""
        some = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1)) / 50
        gains = {name for name, shape in shapes.items() if len(shape) == 1 and name.endswith(".weight")}
        return {name: _repeated(some + (name in gains), shape).to(self.stored) for name, shape in shapes.items()}


def _repeated(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    count = math.prod(shape)
    return values.repeat(-(-count // len(values)))[:count].view(shape)


def word_pieces(count: int) -> Tokenizer:
    """BERT's kind."""
    listed = [*SPECIAL, *words(count - len(SPECIAL))]
    tokenizer = Tokenizer(WordPiece({word: index for index, word in enumerate(listed)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]")
    return tokenizer


def _template(tokenizer: Tokenizer, single: str) -> TemplateProcessing:
    names = [name for name in single.split() if name != "$A"]
    return TemplateProcessing(single=single, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])


_FIRST = ("<s>", "<pad>", "</s>", "<unk>")


def sentence_pieces(count: int) -> Tokenizer:
    """SentencePiece's kind, as XLM-RoBERTa, CamemBERT and DeBERTa have it."""
    letters = sorted(set("".join(_SYLLABLES)))
    listed = [*_FIRST, "▁", *letters]
    listed += [f"▁{word}" for word in words(count - len(listed) - 1)] + ["<mask>"]
    scores = [0.0 if index < len(_FIRST) else -1.0 - index / count for index in range(count)]
    tokenizer = Tokenizer(Unigram(list(zip(listed, scores, strict=True)), unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [WhitespaceSplit(), Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*_FIRST, "<mask>"])
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s>")
    return tokenizer


def byte_level(count: int) -> Tokenizer:
    """RoBERTa's kind."""
    ids, merges = _merged([*_FIRST, *sorted(ByteLevel.alphabet())], "Ġ", count - 1)
    ids["<mask>"] = len(ids)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*_FIRST, "<mask>"])
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s>")
    return tokenizer


def byte_pairs(count: int) -> Tokenizer:
    """Qwen's kind."""
    end = "<|endoftext|>"
    ids, merges = _merged([end, *sorted(ByteLevel.alphabet())], "Ġ", count)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([end])
    tokenizer.post_processor = _template(tokenizer, f"$A {end}")
    return tokenizer


def letters(count: int) -> Tokenizer:
    """Llama's and Gemma's kind: what is no word is spelt in bytes."""
    spelt = [f"<0x{byte:02X}>" for byte in range(256)]
    ids, merges = _merged([*_FIRST, *spelt, "▁", *sorted(set("".join(_SYLLABLES)))], "▁", count)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.add_special_tokens(list(_FIRST))
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s>")
    return tokenizer


def _merged(first: list[str], space: str, count: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """``count`` tokens, and the pairs of which they are merged: a word of two syllables or more has two such pairs."""
    ids = {word: index for index, word in enumerate(first)}
    merges: list[tuple[str, str]] = []

    def merge(left: str, right: str, *others: tuple[str, str]) -> None:
        if left + right not in ids and len(ids) < count:
            ids[left + right] = len(ids)
            merges.extend([(left, right), *others])

    for syllable in _SYLLABLES:
        for end in range(2, len(syllable) + 1):
            merge(syllable[: end - 1], syllable[end - 1])
    for syllable in _SYLLABLES:
        merge(space, syllable)
    for length in itertools.count(2):
        for start, *rest in itertools.product(_SYLLABLES, repeat=length):
            if len(ids) == count:
                return ids, merges
            *middle, last = rest
            if length == 2:
                merge(start, last)
            others = [(space + start, "".join(rest))] if middle else []
            merge(space + start + "".join(middle), last, *others)
    raise AssertionError("there are always longer words")
