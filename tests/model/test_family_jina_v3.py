"""Jina embeddings v3 against sentence-transformers with transformers' own class; the first files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embeddaemon.errors import UnsupportedModel
from tests.support.embedding import embedder_of
from tests.support.families.jina_v3 import TinyJinaV3, TinyJinaV3WithAdapters
from tests.support.family_checks import TEXTS, check_family, reference


def test_theta_may_stand_under_its_first_name(tmp_path: Path) -> None:
    """Guards: ``rotary_emb_base``, which the class does not read, passed by for the class's own 20,000."""
    right = TinyJinaV3(theta=500.0).write(tmp_path / "right")
    first = TinyJinaV3(config={"rotary_emb_base": 500.0, "rope_parameters": None}).write(tmp_path / "first")
    check_family(embedder_of(first), reference(right, TEXTS))
    usual = embedder_of(TinyJinaV3().write(tmp_path / "usual")).embed(TEXTS)
    assert np.abs(usual - embedder_of(first).embed(TEXTS)).max() > 1e-2


def test_files_with_adapters_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"adapters.*jina-embeddings-v3-hf"):
        embedder_of(TinyJinaV3WithAdapters().write(tmp_path))
