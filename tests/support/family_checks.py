"""What every family has to hold: the reference's vectors, however texts lie in a row, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embeddaemon.workers.engines import Rows
from tests.support.embedding import Embedder

TOLERANCE = 1e-4
"""Most that a number of a vector may differ from the reference's."""

TEXTS = (
    "the red planet",
    "a",
    "what is the moon of the red planet?",
    "the blue star was known as a small new light of the night",
    "near the river and the house, far from the sea",
    "cat - dog",
    "the red planet " * 7,
    "how old is the sun, and which star was near the tree in the night of the old moon?",
)
"""Of one token to several dozen, two of the same length."""


def reference(folder: Path, texts: Sequence[str], **options: Any) -> Rows:
    """What sentence-transformers gives for a folder that it can read, in float32 on the CPU, each text by itself."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    rows = [model.encode([text], convert_to_numpy=True, show_progress_bar=False, **options) for text in texts]
    return np.concatenate(rows).astype(np.float32)


def check_family(embedder: Embedder, expected: Rows, texts: Sequence[str] = TEXTS) -> None:
    """Ours are the ``expected`` (texts, dim): together, in other orders, in other rows, alone; none like another."""
    assert np.abs(expected[:, None] - expected[None]).max(axis=2)[~np.eye(len(texts), dtype=bool)].min() > 1e-2
    for order in (range(len(texts)), reversed(range(len(texts))), [*range(1, len(texts), 2), *range(0, len(texts), 2)]):
        chosen = list(order)
        ours = embedder.embed([texts[index] for index in chosen])
        np.testing.assert_allclose(ours, expected[chosen], atol=TOLERANCE, rtol=0)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(alone, expected, atol=TOLERANCE, rtol=0)
    few = Embedder(embedder.card, token_budget=embedder.card.max_tokens)
    np.testing.assert_allclose(few.embed(texts), expected, atol=TOLERANCE, rtol=0)
