"""Popular models of families that have other names, each against sentence-transformers on the same folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.embedding import card_of, embedder_of
from tests.support.families.siblings import SIBLINGS
from tests.support.family_checks import TEXTS, check_family, reference


@pytest.mark.parametrize("name", SIBLINGS)
def test_vectors_equal_the_reference(name: str, tmp_path: Path) -> None:
    """With prompts where it has any: old names, 16-bit files, BERT over another tokenizer, pickles beside the model."""
    tiny = SIBLINGS[name]
    folder = tiny.write(tmp_path)
    embedder = embedder_of(folder)
    check_family(embedder, reference(folder, TEXTS))
    plain = embedder.embed(TEXTS)
    for task in tiny.prompts or ():
        ours = embedder.embed(TEXTS, task=task)
        np.testing.assert_allclose(ours, reference(folder, TEXTS, prompt_name=task), atol=1e-4)
        assert np.abs(ours - plain).max() > 1e-2, "the prompt changes nothing"
    lengths = np.linalg.norm(plain, axis=1)
    assert (np.abs(lengths - 1.0) < 1e-5).all() == tiny.normalize


@pytest.mark.parametrize(
    ("name", "family", "pooling", "max_tokens"),
    [
        ("bge-base-en-v1.5", "bert", "cls", 32),
        ("snowflake-arctic-embed-m-v1.5", "bert", "cls", 64),
        ("multilingual-e5-small", "bert", "mean", 32),
        ("multilingual-e5-large-instruct", "xlm-roberta", "mean", 32),
        ("bge-m3", "xlm-roberta", "cls", 8192),
        ("snowflake-arctic-embed-m-v2.0", "gte", "cls", 32),
        ("all-distilroberta-v1", "roberta", "mean", 32),
    ],
)
def test_card_says_what_the_folder_does(name: str, family: str, pooling: str, max_tokens: int, tmp_path: Path) -> None:
    card = card_of(SIBLINGS[name].write(tmp_path))
    assert (card.family, [mode.value for mode in card.pooling], card.max_tokens) == (family, [pooling], max_tokens)
