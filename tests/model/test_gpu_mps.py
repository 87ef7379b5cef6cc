"""On Apple's GPU: the vectors of the CPU. The same operators run without one in test_accelerated.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.checkpoints import TinyBert
from tests.support.embedding import Embedder, bundled, card_of, cosines

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.backends.mps.is_available(), reason="torch sees no MPS device here"),
]

TEXTS = ["the red planet", "a", "What moon was known, and why?", "the cat and the dog " * 12, "red blue green", "sun"]


@pytest.mark.parametrize("modes", [["mean", "max"], ["cls", "lasttoken"], ["weightedmean", "mean_sqrt_len_tokens"]])
@pytest.mark.parametrize("heads", [1, 4])
def test_tiny_model_gives_the_vectors_of_the_cpu(tmp_path: Path, heads: int, modes: list[str]) -> None:
    """Heads of 64 values as well, where attention over strided inputs was wrong."""
    pooling = {"pooling_mode": modes, "include_prompt": False}
    card = card_of(TinyBert(hidden=64, heads=heads, pooling=pooling, normalize=False).write(tmp_path))
    found = Embedder(card, "float32", "mps").embed(TEXTS)
    np.testing.assert_allclose(found, Embedder(card).embed(TEXTS), atol=1e-4)


@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_minilm_stays_near_float32(precision: str) -> None:
    exact = bundled("float32")
    assert cosines(Embedder(exact.card, precision, "mps").embed(TEXTS), exact.embed(TEXTS)).min() > 0.9995


def test_text_alone_equals_itself_among_others() -> None:
    embedder = Embedder(bundled("float32").card, "float32", "mps")
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert cosines(embedder.embed(TEXTS), alone).min() > 0.9999
