"""Every family that a folder is told to be has somebody who computes it."""

from __future__ import annotations

import pytest

from embeddaemon.errors import UnsupportedModel
from embeddaemon.models.body import FAMILIES
from embeddaemon.models.card import ModelCard
from embeddaemon.models.spec import Pooling
from embeddaemon.workers.engines.torch_engine.families import family_of


def card(family: str) -> ModelCard:
    return ModelCard(
        name="tiny", folder="/nowhere", revision="1", family=family, dim=8, pooled_dim=8, max_tokens=8, vocabulary=8,
        pooling=(Pooling.MEAN,), normalize=False,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_family_that_is_told_is_computed(family: str) -> None:
    """What `models inspect` calls served must not be refused by the engine for its family."""
    found = family_of(card(family))
    assert callable(found.build)


def test_family_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="family t5 is not served"):
        family_of(card("t5"))
