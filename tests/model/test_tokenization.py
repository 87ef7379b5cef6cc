"""Texts of megabytes: encoded in slices and pieces, as if at once, within a bound of memory."""

from __future__ import annotations

import os
import random
import resource
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE, Unigram
from tokenizers.normalizers import NFC, NFD, NFKC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Metaspace

from embeddaemon.workers.measure import Meter, give_back
from embeddaemon.workers.tokenization import (
    _BYTES_AT_LEAST,
    _BYTES_PER_BYTE,
    _SLICE_BYTES,
    Tokenizer,
    load_tokenizer,
)
from tests.support.checkpoints import TinyBert, word_piece
from tests.support.embedding import card_of

MIB = 1024 * 1024
MAX_TOKENS = 32

ENCODED, NO_MEMORY = 1, 2
"""Exit codes."""


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(card_of(TinyBert().write(tmp_path)))


def words(count: int, seed: int = 1) -> list[str]:
    """Some known to the tiny model, some not, and all that stands between words."""
    chance = random.Random(seed)
    known = ["red", "planet", "a", "the", "."]
    unknown = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 12))) for _ in range(50)]
    spaces = [" ", " ", "\n", "\t  ", " , "]
    return [chance.choice(known + unknown) + chance.choice(spaces) for _ in range(count)]


@pytest.mark.parametrize("length", [70_000, 131_072, 400_001])
def test_long_text_has_the_ids_and_the_length_of_one_encoded_at_once(tokenizer: Tokenizer, length: int) -> None:
    text = "".join(words(length // 4))[:length]
    assert len(text) == length
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS)
    whole = tokenizer._rust.encode(text).ids
    assert encoded.full_length == len(whole)
    assert encoded.ids.tolist() == [*whole[: MAX_TOKENS - 1], whole[-1]]
    assert encoded.ids.dtype == np.int32


def test_texts_of_all_lengths_together_are_encoded_as_each_alone(tokenizer: Tokenizer) -> None:
    chance = random.Random(2)
    texts = ["".join(words(chance.choice([0, 1, 20, 5_000, 30_000]), seed)) for seed in range(20)]
    together = tokenizer.encode(texts, prompt="red ", max_tokens=MAX_TOKENS)
    assert len(together) == len(texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = tokenizer.encode([text], prompt="red ", max_tokens=MAX_TOKENS)
        assert found.ids.tolist() == alone.ids.tolist()
        assert (found.full_length, found.prompt_tokens) == (alone.full_length, alone.prompt_tokens)


@pytest.mark.parametrize("text", [" " * 200_000 + "red", "red" + "\n" * 200_000])
def test_text_of_spaces_is_what_is_left_of_it(tokenizer: Tokenizer, text: str) -> None:
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS)
    (plain,) = tokenizer.encode(["red"], prompt="", max_tokens=MAX_TOKENS)
    assert encoded.ids.tolist() == plain.ids.tolist()
    assert encoded.full_length == plain.full_length


def test_no_text_is_no_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([], prompt="", max_tokens=MAX_TOKENS) == []


def bytes_joined(normalizer: Normalizer) -> Tokenizer:
    """As RoBERTa's and ModernBERT's, with one merge, of two spaces: each other byte is a token."""
    words = [*sorted(ByteLevel.alphabet()), "\u0120\u0120"]
    rust = RustTokenizer(BPE({word: number for number, word in enumerate(words)}, [("\u0120", "\u0120")]))
    rust.normalizer = normalizer
    rust.pre_tokenizer = ByteLevel(add_prefix_space=True)
    return Tokenizer(rust, counts_prompts=False)


def pieces_of_words() -> Tokenizer:
    """As XLM-RoBERTa's: what NFKC makes of a text, in pieces without regard to words."""
    rust = RustTokenizer(Unigram([("<unk>", 0.0), ("\u2581", -2.0), ("red", -3.0)], 0, byte_fallback=False))
    rust.normalizer = NFKC()
    rust.pre_tokenizer = Metaspace()
    return Tokenizer(rust, counts_prompts=False)


TOKENIZERS = {
    "bert": lambda: Tokenizer(word_piece(), counts_prompts=False),
    "bytes": lambda: bytes_joined(NFC()),
    "bytes nfd": lambda: bytes_joined(NFD()),
    "bytes nfkc": lambda: bytes_joined(NFKC()),
    "pieces": pieces_of_words,
}
HEAP_BYTES = 8 * 1024 * 1024
"""What malloc takes beside, in a process whose heap other tests left full of holes."""

TEXTS = {
    "full stops": ".",
    "chinese": "\u65e5\u672c\u6771\u4eac",
    "hangul": "\ud55c",
    "emoji": "\U0001f468",
    "spaces": " ",
    "greek": "\u0390",
    "ligatures": "\ufdfa",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_slice_takes_no_more_memory_than_is_required_for_it(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    full = text * (_SLICE_BYTES // len(text.encode()))
    tokenizer.encode(["red"], prompt="", max_tokens=MAX_TOKENS)
    give_back()
    meter = Meter()
    before = meter.estimate().private_bytes
    tokenizer.encode([full], prompt="", max_tokens=MAX_TOKENS)
    required = _BYTES_AT_LEAST + _BYTES_PER_BYTE * len(full.encode())
    assert meter.estimate().peak_bytes - before < required + HEAP_BYTES


def test_want_of_memory_is_an_error_and_no_abort(tokenizer: Tokenizer) -> None:
    text = TEXTS["full stops"] * 300_000
    tokenizer.encode([text[:1000]], prompt="", max_tokens=MAX_TOKENS)
    endings = [_end_with(tokenizer, text, mebibytes * MIB) for mebibytes in (1, 2, 4, 8, 16, 64)]
    assert set(endings) <= {ENCODED, NO_MEMORY}, endings
    assert (endings[0], endings[-1]) == (NO_MEMORY, ENCODED)


def _end_with(tokenizer: Tokenizer, text: str, free_bytes: int) -> int:
    """How a process ends that may take so much."""
    if (pid := os.fork()) == 0:
        give_back()
        (held,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(held.split()[1]) + free_bytes,) * 2)
        try:
            tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS)
            os._exit(ENCODED)
        except MemoryError:
            os._exit(NO_MEMORY)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_other_things_have_their_turn_while_one_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    text = "red planet " * 9_000
    calls: list[int] = []
    tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS, between=lambda: calls.append(1))
    assert len(calls) == -(-len(text) // _SLICE_BYTES)


def test_other_things_have_their_turn_between_slices_of_short_texts(tokenizer: Tokenizer) -> None:
    calls: list[int] = []
    tokenizer.encode(["red planet "] * 9_000, prompt="", max_tokens=MAX_TOKENS, between=lambda: calls.append(1))
    assert len(calls) == -(-9_000 // (_SLICE_BYTES // len("red planet ")))


@pytest.mark.parametrize("inside", ["\x1c", "\x85", "\x0b"])
def test_long_text_is_not_cut_at_what_bert_deletes(tokenizer: Tokenizer, inside: str) -> None:
    text = "red " * 2000 + "plan" + inside + "et" + inside + "x" * 300 + " red" * 2000
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=8192)
    assert encoded.ids.tolist() == tokenizer._rust.encode(text).ids


def test_long_text_without_spaces_is_cut_before_its_commas(tokenizer: Tokenizer) -> None:
    text = "\u30c6\u30ad\u30b9\u3001" * 5000  # kana: BERT takes all between two commas for one word
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=20_000)
    assert encoded.ids.tolist() == tokenizer._rust.encode(text).ids


def test_spaces_of_a_long_text_stay_together() -> None:
    tokenizer = bytes_joined(NFC())
    text = ("abc" + " " * 9) * 3000
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=50_000)
    assert encoded.ids.tolist() == tokenizer._rust.encode(text).ids


@pytest.mark.parametrize(
    "texts",
    [
        ["red planet " * 180] * 512,
        ["red planet " * 90_000],
        ["x" * MIB],
        [TEXTS["chinese"] * (MIB // 12)],
        [TEXTS["hangul"] * 300] * 1165,
        [TEXTS["emoji"] * (MIB // 4)],
        ["." * MIB],
    ],
    ids=["many texts", "one long text", "one word", "chinese", "hangul", "emoji", "full stops"],
)
def test_encoding_a_mebibyte_takes_a_few_mebibytes(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokenizer.encode(["red"], prompt="", max_tokens=MAX_TOKENS)
    give_back()
    meter = Meter()
    before = meter.estimate().private_bytes
    tokenizer.encode(texts, prompt="", max_tokens=MAX_TOKENS)
    assert meter.estimate().peak_bytes - before < 8 * MIB
