"""Positions as RoBERTa and the families of its kind count them: behind the id of the padding token.

Their classes are built and called as BERT is (bert.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from embeddaemon.workers.engines import Ids
from embeddaemon.workers.engines.torch_engine.row import Positions, positions_of


def positions_of_model(model: nn.Module) -> Positions:
    """As ``positions_behind`` the padding token of the model's config."""
    config: Any = model.config  # transformers': each family has its own class
    return positions_behind(int(config.pad_token_id))


def positions_behind(pad: int) -> Positions:
    """``pad + 1``, ``pad + 2`` … anew for each text; a padding token that stands in a text is not counted."""

    def positions(ids: Ids, lengths: Ids) -> Ids:
        counts = ids != pad
        if counts.all():
            return positions_of(ids, lengths) + (pad + 1)
        counted = np.cumsum(counts, dtype=np.int32)
        before = np.repeat(np.concatenate([[0], counted])[np.cumsum(lengths) - lengths], lengths)
        behind: Ids = np.where(counts, counted - before + pad, pad).astype(np.int32)
        return behind

    return positions
