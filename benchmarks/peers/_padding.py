"""What runtimes that take arrays need before and after: tokens, batches of similar length, and the original order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.peers import MAX_TOKENS, model_folder

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that go through the model together, padded to the longest of them."""

    rows: Sequence[int]
    """Which of the texts these are."""
    ids: IntArray
    mask: IntArray


class Tokens:
    """The model's tokenizer, all cores in bulk."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def one(self, text: str) -> Batch:
        """A batch of one."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        return Batch((0,), ids, np.ones_like(ids))

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[Batch]:
        """Longest first, so that the last ones to be computed are short and no core waits long for another."""
        several = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(several)), key=lambda row: len(several[row]), reverse=True)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids = np.zeros((len(rows), len(several[rows[0]])), dtype=np.int64)
            mask = np.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(several[row])] = several[row]
                mask[place, : len(several[row])] = 1
            yield Batch(rows, ids, mask)
