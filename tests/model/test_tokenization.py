"""Texts of megabytes: encoded in slices and pieces, as if at once, within a bound of memory."""

from __future__ import annotations

import random
import string
from pathlib import Path

import numpy as np
import pytest

from embeddaemon.workers.measure import Meter
from embeddaemon.workers.tokenization import Tokenizer, load_tokenizer
from tests.support.checkpoints import TinyBert
from tests.support.embedding import card_of

MIB = 1024 * 1024
MAX_TOKENS = 32


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


@pytest.mark.parametrize(
    "texts",
    [["red planet " * 180] * 512, ["red planet " * 90_000], ["x" * MIB]],
    ids=["many texts", "one long text", "one word"],
)
def test_encoding_a_mebibyte_takes_a_few_mebibytes(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokenizer.encode(texts[:1], prompt="", max_tokens=MAX_TOKENS)
    meter = Meter()
    before = meter.estimate().private_bytes
    tokenizer.encode(texts, prompt="", max_tokens=MAX_TOKENS)
    assert meter.estimate().peak_bytes - before < 24 * MIB
