"""Tokenizers of the families that began as language models, each of its family's kind and with the tiny model's words.

Qwen's has bytes in pairs and no token before a text; Llama's and Gemma's have pieces.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tests.support.checkpoints import vocabulary

END = "<|endoftext|>"
"""Qwen's last token, which is also its padding."""

_WORDS = [word for word in vocabulary()[5:] if word.isalpha() and len(word) > 1]


def byte_pairs(*, closes: bool) -> Tokenizer:
    """Qwen's kind: a space belongs to the word behind it, digits stand alone."""
    merges = [*_merges("Ġ"), *_merges("")]
    words = [*sorted(ByteLevel.alphabet()), *(left + right for left, right in merges)]
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, "<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if closes:
        both = [processors.ByteLevel(trim_offsets=False), template(tokenizer, f"$A {END}")]
        tokenizer.post_processor = processors.Sequence(both)
    return tokenizer


def pieces(*, closes: bool) -> Tokenizer:
    """Llama's kind: a space is a letter, and stands before every text too."""
    tokenizer = of_pieces(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>" if closes else "<s> $A")
    return tokenizer


def of_pieces(special: list[str]) -> Tokenizer:
    """Pairs of letters; what is no letter that it knows is spelt in bytes."""
    merges = _merges("▁")
    letters = sorted({letter for word in vocabulary()[5:] for letter in word})
    known = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *(a + b for a, b in merges)]
    ids = {word: number for number, word in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer


def _merges(space: str) -> list[tuple[str, str]]:
    """Which pairs make the tiny model's words, letter by letter."""
    pairs: dict[tuple[str, str], None] = {}
    for word in _WORDS:
        letters = [*space, *word]
        for length in range(1, len(letters)):
            pairs["".join(letters[:length]), letters[length]] = None
    return list(pairs)


def template(tokenizer: Tokenizer, single: str) -> processors.TemplateProcessing:
    """Special tokens around ``$A``."""
    names = [name for name in single.split() if name != "$A"]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names]
    )
