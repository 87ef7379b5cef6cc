"""Which names somebody may have meant."""

from __future__ import annotations

import pytest

from embeddaemon.models.nearest import hint, nearest
from embeddaemon.models.published_models import PUBLISHED

NAMES = [entry.name for entry in PUBLISHED]


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("stella", "stella_en_1.5B_v5"),
        ("STELLA_en_400M", "stella_en_400M_v5"),
        ("bge-m4", "bge-m3"),
        ("hub:BAAI/bge-m33", "bge-m3"),
        ("Qwen/Qwen3-Embedding-06B", "Qwen3-Embedding-0.6B"),
        ("all-minilm", "all-MiniLM-L6-v2"),
    ],
)
def test_what_has_the_word_comes_before_what_resembles_it(word: str, first: str) -> None:
    assert nearest(word, NAMES)[0] == first


def test_names_are_few_and_none_comes_twice() -> None:
    near = nearest("e", [*NAMES, *NAMES])
    assert len(near) == len(set(near)) == 10
    assert nearest("zzzzz", NAMES) == nearest("", NAMES) == []


def test_many_names_or_a_long_word_are_not_compared_letter_by_letter() -> None:
    many = [f"model-{number}" for number in range(300)]
    assert nearest("model-29", many)[0] == "model-29"
    assert nearest("modle-29", many) == []
    assert nearest("x" * 300, NAMES) == []


def test_hint_says_what_there_is() -> None:
    assert hint("a", []) == "none is known"
    assert hint("x", ["b", "a", "b"]) == "known are a, b"
    assert hint("minni", ["mini", "large"]) == "did you mean 'mini'? known are large, mini"
    assert hint("zzzzz", NAMES) == f"{len(NAMES)} are known"
