"""``ModelCard``: what a model's folder says, merged with what the operator declared. Made by folder.py; no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embeddaemon.models.spec import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model that was found and understood. Sizes in bytes, lengths in tokens."""

    name: str
    folder: str
    """Where the files are, resolved; every process opens them here."""
    revision: str
    """What tells two versions of the files apart: hub commit, package version, or the weights' size and time."""
    family: str
    """``bert`` …: the engine's way of loading it."""
    dim: int
    max_tokens: int
    vocabulary: int
    """Token ids are below this."""
    pooling: tuple[Pooling, ...]
    normalize: bool
    include_prompt: bool = True
    """False: the prompt's tokens take part in attention and not in pooling."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_task: str | None = None
    dimensions: tuple[int, ...] = ()
    """Every dimension that a request may ask for, its own included, descending."""
    weights_files: tuple[str, ...] = ()
    """Names within the folder. The transformer's other files (config.json, tokenizer) lie beside the first."""
    weights_bytes: int = 0
    weights_digest: str = ""
    """Of the tensors' names, dtypes and shapes: memory follows from those, so fine-tuned siblings have the same."""
    parameters: int = 0
    hidden: int = 0
    intermediate: int = 0
    gated: bool = False
    """Whether the feed-forward layers are gated (GLU): they activate more."""
    source: str = ""
    licence: str | None = None
    sha256: str | None = None
    """Digest that the weights must have, checked at load; None: not known."""

    @property
    def transformer_folder(self) -> str:
        """Where the transformer's files lie: the folder itself, or the ``0_Transformer`` of old ones."""
        return str((Path(self.folder) / self.weights_files[0]).parent)
