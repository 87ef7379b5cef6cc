from __future__ import annotations

import pytest

from embeddaemon.workers.engines.torch_engine.rounding import rounded_up


@pytest.mark.parametrize(
    ("tokens", "rounded"),
    [
        (0, 0),
        (1, 16),
        (11, 16),
        (16, 16),
        (17, 32),
        (128, 128),
        (129, 160),
        (512, 512),
        (513, 640),
        (1024, 1024),
        (1025, 1280),
        (8191, 8192),
        (8192, 8192),
    ],
)
def test_tokens_are_rounded_up(tokens: int, rounded: int) -> None:
    assert rounded_up(tokens) == rounded
