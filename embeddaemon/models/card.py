"""``ModelCard``: what a model's folder says, merged with what the operator declared. Made by folder.py; no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embeddaemon.models.fileset import FileSet
from embeddaemon.models.spec import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """One dense layer behind the pooling."""

    file: str
    """Its weights, within the model's folder: ``linear.weight`` (out, in) and, with a bias, ``linear.bias`` (out,)."""
    in_features: int
    out_features: int
    has_bias: bool
    activation: str
    """As torch.nn calls it: ``Identity``, ``Tanh`` …"""

    @property
    def parameters(self) -> int:
        return self.in_features * self.out_features + (self.out_features if self.has_bias else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Dense layers, one after the other, from the pooled vector to one of ``dim`` dimensions."""

    dim: int
    layers: tuple[Dense, ...]


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
    """Of a vector when a request asks for no other."""
    pooled_dim: int
    """Of what the pooling gives: what heads take, and the model's own vector where it has none."""
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
    """Every dimension that a request may ask for, its own included, descending: one of a head's, else cut from the
    default's."""
    heads: tuple[Head, ...] = ()
    """What stands behind the pooling, the default one first; empty where the pooled vector is the model's own."""
    cut_after_layer_norm: bool = False
    """Whether a vector is normalised as a layer is, without gains, before it is cut to fewer dimensions."""
    is_causal: bool = False
    """Whether a token sees only those before it."""
    closing_token: str | None = None
    """A token that must end every text, also where the folder's tokenizer does not put it there."""
    pools_last_prompt_token: bool = False
    """With ``include_prompt`` false: whether the prompt's last token is pooled all the same."""
    weights_files: tuple[str, ...] = ()
    """Names within the folder. The transformer's other files (config.json, tokenizer) lie beside the first."""
    weights_bytes: int = 0
    weights_digest: str = ""
    """Of the tensors' names, dtypes and shapes: memory follows from those, so fine-tuned siblings have the same."""
    parameters: int = 0
    """Of the tensors that are read: heads of other tasks are not."""
    hidden: int = 0
    layers: int = 0
    attention_heads: int = 0
    key_value_heads: int = 0
    attention_width: int = 0
    """Of all heads' queries together."""
    intermediate: int = 0
    gated: bool = False
    """Whether the feed-forward layers are gated (GLU): they activate more."""
    source: str = ""
    licence: str | None = None
    notes: tuple[str, ...] = ()
    """What of all this surprises people, as short sentences."""
    files: FileSet = field(default_factory=FileSet)
    """All that is read of it, and what that must be when it is loaded."""

    @property
    def transformer_folder(self) -> str:
        """Where the transformer's files lie: the folder itself, or the ``0_Transformer`` of old ones."""
        return str((Path(self.folder) / self.weights_files[0]).parent)

    @property
    def head_parameters(self) -> int:
        """Of all heads together; they are held as float32."""
        return sum(layer.parameters for head in self.heads for layer in head.layers)

    def head_for(self, dimensions: int) -> Head | None:
        """What a vector of so many dimensions comes out of, whole or to be cut; None: the pooling itself."""
        return next((head for head in self.heads if head.dim == dimensions), self.heads[0] if self.heads else None)

    def whole_dim(self, dimensions: int) -> int:
        """Dimensions of the vector that is cut to so many; the same where nothing is cut."""
        head = self.head_for(dimensions)
        return self.pooled_dim if head is None else head.dim
