"""What can be known of a published model. The models themselves are in published_models.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embeddaemon.models.spec import Pooling


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a transformer: what memory and time follow from."""

    hidden: int
    layers: int
    attention_heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    head_dim: int = 0
    """0: a head's share of the hidden size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published model."""

    name: str
    """Of its repository, without the organisation."""
    organisations: tuple[str, ...]
    """That publish it on the hub, the usual one first."""
    family: str
    shape: Shape
    dim: int
    max_tokens: int
    """Recommended; some configurations would let it be more."""
    licence: str
    parameters: int
    pooling: Pooling | None = None
    normalizes: bool | None = None
    """Whether its own pipeline ends with unit length."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    needs_prompt: bool = False
    """Whether its card asks for a prompt before every text, documents included."""
    cut_dimensions: tuple[int, ...] = ()
    """Fewer dimensions that it was trained to be cut to (Matryoshka)."""
    cut_after_layer_norm: bool = False
    """Whether a vector goes through a layer norm without gains before it is cut."""
    head_dimensions: tuple[int, ...] = ()
    """Dimensions for which its folder has heads of their own; the default among them."""

    served_as: str | None = None
    """ORG/NAME of the same model in the layout that is served, where this repository's is refused."""

    @property
    def source(self) -> str:
        """Where it usually comes from."""
        return f"hub:{self.organisations[0]}/{self.name}"
