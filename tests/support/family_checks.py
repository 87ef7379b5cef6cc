"""What tests of families share: that vectors are the reference's however texts lie in a row, and changed checkpoints.

What holds for every family is in tests/model/test_families.py; a family's own tests have its references and its traps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file

from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines import LoadedModel, Rows
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.families import family_of
from tests.support.checkpoints import Tensors, TinyBert, save_weights
from tests.support.embedding import Embedder, card_of, embedder_of

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

Tiny = TypeVar("Tiny", bound=TinyBert)


class Written(Generic[Tiny]):
    """A tiny checkpoint in a folder that nobody changes: for all tests of a module that only read it."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.tiny = tiny
        self.folder = tiny.write(folder)

    @cached_property
    def embedder(self) -> Embedder:
        """In float32."""
        return embedder_of(self.folder)


def reference(folder: Path, texts: Sequence[str], **options: Any) -> Rows:
    """What sentence-transformers gives for a folder that it can read, in float32 on the CPU, each text by itself."""
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
    few = embedder.embed(texts, token_budget=embedder.card.max_tokens)
    np.testing.assert_allclose(few, expected, atol=TOLERANCE, rtol=0)


def check_no_number_is_asked_for(folder: Path) -> None:
    """A functional forward never waits for its device between layers: one without memory has no numbers to give."""
    card = card_of(folder)
    family = family_of(card)
    assert family.functional is not None
    weights = family.build(read_json(folder / "config.json").values, card, torch.float32).to("meta")
    ids = torch.zeros(30, dtype=torch.long, device="meta")
    states = family.functional(weights)(ids, ids, groups_of([3, 3, 5, 19]))
    assert (states.shape, states.device.type) == ((30, card.hidden), "meta")


def alter_weights(folder: Path, alter: Callable[[Tensors], object]) -> None:
    """Writes the folder's tensors again, as ``alter`` leaves them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    alter(tensors)
    save_weights(path, tensors)


def exchange_halves(folder: Path, part: str) -> None:
    """In every tensor whose name has ``part`` the first half of the rows takes the place of the second."""

    def exchange(tensors: Tensors) -> None:
        names = [name for name in tensors if part in name]
        assert names
        for name in names:
            tensors[name] = np.concatenate(np.split(tensors[name], 2)[::-1])

    alter_weights(folder, exchange)


def states_alone(model: LoadedModel, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32]) -> Rows:
    """What ``model`` gives for each text of a row by itself. (texts, dim)."""
    starts = np.cumsum(lengths) - lengths
    rows = [
        model.forward(ids[start : start + length], np.array([length], dtype=np.int32), None)
        for start, length in zip(starts, lengths, strict=True)
    ]
    return np.concatenate(rows)
