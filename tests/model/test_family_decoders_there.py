"""The families that began as language models with the attention of other devices, which is computed here on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embeddaemon.models.jsonfile import read_json
from embeddaemon.workers.engines.torch_engine import attention, varlen
from embeddaemon.workers.engines.torch_engine.families import family_of
from embeddaemon.workers.engines.torch_engine.row import positions_of
from tests.support.embedding import card_of
from tests.support.families.decoders import (
    TinyDecoder,
    TinyGemma,
    TinyLlama,
    TinyMistral,
    TinyNvEmbed,
    TinyQwen2,
    TinyQwen3,
)

LENGTHS = np.array([1, 2, 2, 9, 9, 30, 41], dtype=np.int32)


@pytest.mark.parametrize(
    "tiny",
    [
        TinyQwen2(),
        TinyQwen3(),
        TinyMistral(config={"sliding_window": 4}),
        TinyMistral(config={"sliding_window": 4, "is_causal": False}),
        TinyLlama(),
        TinyGemma(),
        TinyGemma(config={"use_bidirectional_attention": False}),
        TinyNvEmbed(),
    ],
    ids=["qwen2", "qwen3", "mistral", "mistral both ways", "llama", "gemma", "causal gemma", "nv-embed"],
)
def test_attention_of_other_devices_gives_the_same(tiny: TinyDecoder, tmp_path: Path) -> None:
    """Guards against a mask of transformers' own, which knows of no texts in a row."""
    attention.register()
    card = card_of(tiny.write(tmp_path))
    family = family_of(card)
    module: Any = family.build(read_json(tmp_path / "config.json").values, card, torch.float32)
    ids = torch.from_numpy(np.arange(LENGTHS.sum()) * 7 % card.vocabulary)
    positions = torch.from_numpy(positions_of(ids.numpy().astype(np.int32), LENGTHS)).long()
    groups = attention.groups_of(LENGTHS.tolist())
    with torch.inference_mode():
        expected = family.forward(module, ids, positions, groups)
        varlen.install(module, varlen.by_group)
        there = family.forward(module, ids, positions, groups)
    torch.testing.assert_close(there, expected, atol=1e-5, rtol=0)
    assert expected.shape == (LENGTHS.sum(), card.hidden)
