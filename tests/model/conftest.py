"""One process computes for all model tests: torch is imported once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def tokenizing_with_one_thread() -> Iterator[None]:
    """As in a worker; and not beyond these tests, so that others see what the daemon itself sets."""
    with pytest.MonkeyPatch.context() as patch:
        if "TOKENIZERS_PARALLELISM" not in os.environ:
            patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(autouse=True, scope="package")
def computing_with_one_thread() -> None:
    """Models here are tiny: threads that wait for each other take longer than one, on a busy machine far longer."""
    torch.set_num_threads(1)
