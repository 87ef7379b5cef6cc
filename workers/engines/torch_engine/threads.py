"""How many threads torch computes with. A process that will fork says so before its first operator."""

from __future__ import annotations

import torch


def use_one_thread() -> None:
    """No OpenMP pool from now on: it would not survive a fork."""
    torch.set_num_threads(1)
