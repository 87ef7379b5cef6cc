"""A packed row on its way to an accelerator: all that a forward needs of the texts, in one array, sent in one piece.

``lay_out`` makes the array on the host, ``divide`` gives its parts on the device as views. What the host needs of the
same texts (lengths, their number, the longest) stays there, so nobody asks the device for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch

from embeddaemon.workers.engines import Ids
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup, groups_of


class Texts(Sequence[LengthGroup]):
    """The texts of a row as groups of equal lengths, and for kernels that take every length at once."""

    def __init__(self, groups: Sequence[LengthGroup], bounds: torch.Tensor) -> None:
        self._groups = groups
        self.bounds = bounds
        """Where each text begins, and where the last one ends. (texts + 1,), int32, on the device."""
        self.longest = max(group.length for group in groups)

    @overload
    def __getitem__(self, index: int) -> LengthGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LengthGroup]: ...
    def __getitem__(self, index: int | slice) -> LengthGroup | Sequence[LengthGroup]:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)


@dataclass(frozen=True, slots=True)
class Row:
    """One row on its device."""

    ids: torch.Tensor
    """(tokens,), int64, as everything that looks up a table takes them."""
    positions: torch.Tensor
    """(tokens,), int64, as the model's family counts them."""
    texts: Texts
    prompt_lengths: torch.Tensor | None
    """(texts,): tokens at the start of each text that are left out of the pooling; None: no text has any."""
    pooled_bounds: torch.Tensor
    """Without prompts the bounds of the texts. With them (2 * texts + 1,): beginning, end of the prompt, and so on."""


Positions = Callable[[Ids, Ids], Ids]
"""How a family counts: ids (tokens,) and lengths (texts,) to each token's place in the table of positions."""


def positions_of(_: Ids, lengths: Ids) -> Ids:
    """0, 1, 2 … anew for each text. (texts,) to (tokens,)."""
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int32) - np.repeat(starts, lengths).astype(np.int32)


def lay_out(ids: Ids, positions: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Ids:
    """ids, positions, bounds of the texts and, where there are prompts, their lengths and the bounds with them."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=bounds[1:])
    parts = [ids, positions, bounds]
    if prompt_lengths is not None:
        starts = bounds[:-1]
        with_prompts = np.stack([starts, starts + prompt_lengths], axis=1).reshape(-1)
        parts += [prompt_lengths, with_prompts, bounds[-1:]]
    return np.concatenate(parts, dtype=np.int32)


def divide(array: torch.Tensor, lengths: Ids) -> Row:
    """The parts of ``lay_out``'s array, on whatever device it came to."""
    texts, tokens = len(lengths), int(lengths.sum())
    looked_up = array[: 2 * tokens].long()  # one conversion for both
    rest = array[2 * tokens :]
    bounds = rest[: texts + 1]
    groups = Texts(groups_of(lengths.tolist()), bounds)
    ids, positions = looked_up[:tokens], looked_up[tokens:]
    if len(rest) == texts + 1:
        return Row(ids, positions, groups, None, bounds)
    return Row(ids, positions, groups, rest[texts + 1 : 2 * texts + 1], rest[2 * texts + 1 :])
