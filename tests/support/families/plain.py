"""Parts that plain forwards of published descriptions have in common; each family's own forward is in its tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import normalize

from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import TinyBert


def ids_of(folder: Path, text: str) -> list[int]:
    """The tokens of the folder's own tokenizer, which must not be more than the folder allows."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids: list[int] = tokenizer.encode(text).ids
    assert len(ids) <= json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    return ids


def angles_of(tokens: int, frequencies: torch.Tensor) -> torch.Tensor:
    """(tokens, head dim), each half of a head with the same ``frequencies`` (head dim / 2)."""
    return torch.outer(torch.arange(tokens), frequencies).repeat(1, 2)


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Queries or keys (heads, tokens, head dim) by their ``angles``, each dimension with the one half a head away."""
    left, right = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


def pooled(states: Sequence[torch.Tensor], tiny: TinyBert) -> Rows:
    """(texts, hidden) from each text's (tokens, hidden): the first or the mean, normalised, as the folder says."""
    is_cls = "pooling_mode_cls_token" in (tiny.pooling or {})
    rows = torch.stack([state[0] if is_cls else state.mean(0) for state in states])
    vectors: Rows = (normalize(rows) if tiny.normalize else rows).numpy()
    return vectors
