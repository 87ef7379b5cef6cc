"""Token vectors to one vector per text in a few operators for all texts, however many lengths they have.

The same vectors as pooling.py gives, which pools length by length: on the CPU that is faster, on CUDA every length
costs a launch of each of its kernels. In float32 as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from embeddaemon.models.spec import Pooling
from embeddaemon.workers.engines.torch_engine.row import Row


def pool(hidden: torch.Tensor, row: Row, modes: Sequence[Pooling]) -> torch.Tensor:
    """(tokens, dim) to (texts, dim * modes) in float32."""
    starts, ends = row.texts.bounds[:-1], row.texts.bounds[1:]
    firsts = starts if row.prompt_lengths is None else starts + row.prompt_lengths
    counts = (ends - firsts).unsqueeze(1)  # (texts, 1)
    hidden = hidden.float()

    def pooled(mode: Pooling) -> torch.Tensor:
        match mode:
            case Pooling.CLS:
                return hidden[firsts]
            case Pooling.LAST_TOKEN:
                return hidden[ends - 1]
            case Pooling.MAX:
                return _reduce(hidden, row, "max")
            case Pooling.MEAN:
                return _reduce(hidden, row, "sum") / counts
            case Pooling.MEAN_SQRT_LEN:
                return _reduce(hidden, row, "sum") / counts.sqrt()
            case Pooling.WEIGHTED_MEAN:
                weights = _places(row).to(hidden.dtype).unsqueeze(1)  # (tokens, 1)
                return _reduce(hidden * weights, row, "sum") / _reduce(weights, row, "sum")

    return torch.cat([pooled(mode) for mode in modes], dim=1)


def _places(row: Row) -> torch.Tensor:
    """1, 2, 3 … anew for each text, prompts counted. (tokens,)."""
    starts, tokens = row.texts.bounds[:-1], len(row.ids)
    # Told how many come out, the operator does not ask the device.
    before = torch.repeat_interleave(starts, row.texts.bounds.diff(), output_size=tokens)
    return torch.arange(1, tokens + 1, device=before.device) - before


def _reduce(values: torch.Tensor, row: Row, how: str) -> torch.Tensor:
    """(tokens, dim) to (texts, dim), by ``sum`` or ``max`` over the tokens of each text that are not its prompt's."""
    reduced = torch.segment_reduce(values, how, offsets=row.pooled_bounds)
    return reduced if row.prompt_lengths is None else reduced[1::2]  # every other segment is a prompt
