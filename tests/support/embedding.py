"""Texts to vectors with the torch engine alone: what a worker does, without the worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import default_spec
from embeddaemon.protocol.limits import Limits
from embeddaemon.workers import packing
from embeddaemon.workers.engines import LoadedModel, Rows
from embeddaemon.workers.engines.torch_engine import load


class Embedder:
    """One loaded model and its card."""

    def __init__(
        self, card: ModelCard, precision: str = "float32", device: str = "cpu", token_budget: int = 512
    ) -> None:
        self.card = card
        self._token_budget = token_budget
        order = LoadOrder(card=card, device=device, precision=precision, token_budget=token_budget, limits=Limits())
        self.model: LoadedModel = load(order)

    def embed(
        self,
        texts: Sequence[str],
        *,
        task: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        token_budget: int | None = None,
    ) -> Rows:
        """(texts, dim of the head), packed within the token budget, in the order of the texts."""
        prompt = self.card.prompts[task] if task else ""
        encoded = self.model.tokenize(texts, prompt=prompt, max_tokens=self.card.max_tokens)
        rows = np.empty((len(texts), self.card.pooled_dim), dtype=np.float32)
        for batch in packing.plan([len(text.ids) for text in encoded], token_budget or self._token_budget):
            chosen = [encoded[index] for index in batch.indices]
            ids = np.concatenate([np.array(text.ids, dtype=np.int32) for text in chosen])
            lengths = np.array([len(text.ids) for text in chosen], dtype=np.int32)
            prompts = np.array([text.prompt_tokens for text in chosen], dtype=np.int32)
            rows[list(batch.indices)] = self.model.forward(ids, lengths, None if self.card.include_prompt else prompts)
        rows = self.model.project(rows, dimensions or self.card.dim)
        if self.card.normalize if normalize is None else normalize:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def embedder_of(folder: Path, precision: str = "float32") -> Embedder:
    """The model of a folder, as the folder says."""
    return Embedder(card_of(folder), precision)


def card_of(folder: Path) -> ModelCard:
    return read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)


def bundled(precision: str) -> Embedder:
    """The real MiniLM."""
    spec = default_spec()
    return Embedder(read_card(spec, locate(parse_source(spec.source))), precision)


def cosines(left: Rows, right: Rows) -> Rows:
    """Row by row."""
    products: Rows = (left * right).sum(axis=1)
    lengths: Rows = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return products / lengths
