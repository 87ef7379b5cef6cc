"""How long a model's vectors are: by themselves, and when a request asks for other dimensions. Pure.

A dimension is a head's own, or cut from the default vector by a model that was trained for it (Matryoshka). Nothing
else is offered: a vector cut elsewhere is a worse one, and one of a missing head does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embeddaemon.errors import ConfigError, CorruptModel, UnsupportedModel
from embeddaemon.models.pipeline import Pipeline
from embeddaemon.models.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """By the names of the card."""

    pooled_dim: int
    dim: int
    dimensions: tuple[int, ...]


def sizes_of(spec: ModelSpec, pipeline: Pipeline, pooled_dim: int, cuts: Sequence[int]) -> Sizes:
    """``pooled_dim`` is what the transformer's pooling gives, ``cuts`` what the model is known to be trained for.

    Raises CorruptModel, UnsupportedModel and ConfigError.
    """
    heads = pipeline.dense.heads
    for head in heads:
        takes = head.layers[0].in_features
        if takes != pooled_dim:
            file = head.layers[0].file
            if spec.pooling is None:
                raise CorruptModel(
                    f"model {spec.name}: {file} takes {takes} dimensions, the pooling gives {pooled_dim}"
                )
            # The folder's fault as much as the configuration's: it is this model's end, and of no other.
            raise UnsupportedModel(
                f"models.{spec.name}.pooling = {[mode.value for mode in spec.pooling]} gives {pooled_dim} dimensions, "
                f"{file} of its folder takes {takes}"
            )
    whole = heads[0].dim if heads else pooled_dim
    for wanted in spec.dimensions:
        if not 1 <= wanted <= whole:
            raise ConfigError(f"model {spec.name}: dimensions has {wanted}, the model can do 1 to {whole}")
    own = min(pipeline.truncate_dim or whole, whole)
    if own != whole and any(head.dim == own for head in heads):
        raise UnsupportedModel(
            f"model {spec.name}: {own} dimensions are those of a head and, by truncate_dim, of the default vector cut "
            "short; remove one of the two from the folder"
        )
    offered = {whole, own, *(head.dim for head in heads), *spec.dimensions, *(cut for cut in cuts if cut < whole)}
    return Sizes(pooled_dim=pooled_dim, dim=own, dimensions=tuple(sorted(offered, reverse=True)))
