"""EuroBERT against sentence-transformers with transformers' own class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import UnsupportedModel
from tests.support.embedding import embedder_of
from tests.support.families.eurobert import TinyEuroBert
from tests.support.family_checks import TEXTS


def test_every_token_sees_those_behind_it(tmp_path: Path) -> None:
    """Guards: a class that is built like a Llama, and is not causal though its config does not say so."""
    folder = TinyEuroBert(pooling={"pooling_mode_cls_token": True}).write(tmp_path)
    first = embedder_of(folder).embed(["the red planet", "the red planet was"])
    assert np.abs(first[0] - first[1]).max() > 1e-2


def test_theta_is_the_published_one(tmp_path: Path) -> None:
    """Guards: 250,000 as published; the class's own would be 10,000."""
    tiny = TinyEuroBert()
    right, wrong = (
        embedder_of(one.write(tmp_path / str(one.theta))) for one in (tiny, replace(tiny, theta=1e4, config={}))
    )
    assert np.abs(right.embed(TEXTS) - wrong.embed(TEXTS)).max() > 1e-2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"is_causal": True}, "is_causal is 'True'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic'"),
    ],
)
def test_option_that_is_not_computed_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        embedder_of(TinyEuroBert(config=config).write(tmp_path))
