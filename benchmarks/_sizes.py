"""Sizes of published models: a generated checkpoint of each family, written as its small ones are (_generated.py).

Sizes are those of the named model. Where a whole one is too large for the machines that measure, it has fewer layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks._generated import RealSize, byte_level, byte_pairs, letters, sentence_pieces, word_pieces
from tests.support.checkpoints import TinyBert, TinyDense
from tests.support.families.deberta import TinyDeberta
from tests.support.families.decoders import TinyGemma, TinyNvEmbed, TinyQwen2, TinyQwen3
from tests.support.families.distilbert import TinyDistilbert
from tests.support.families.eurobert import TinyEuroBert
from tests.support.families.gte import TinyGte
from tests.support.families.jina_v2 import TinyJina
from tests.support.families.jina_v3 import TinyJinaV3
from tests.support.families.modernbert import TinyModernBert
from tests.support.families.mpnet import TinyMPNet
from tests.support.families.nomic import TinyNomic, TinyNomicMoe
from tests.support.roberta_checkpoints import TinyRoberta


@dataclass(kw_only=True)
class _Base(RealSize):
    """As wide and deep as BERT base, but for what a shape says."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    has_pooler: bool = False
    has_head: bool = False
    has_lm_head: bool = False
    vocabulary: int = 30_522
    pieces: Any = word_pieces
    sentence_config: dict[str, Any] | None = None
    tokenizer_config: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Bert(_Base, TinyBert):
    pass


@dataclass(kw_only=True)
class _Roberta(_Base, TinyRoberta):
    positions: int = 514

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config["vocab_size"] = self.vocabulary


@dataclass(kw_only=True)
class _Distilbert(_Base, TinyDistilbert):
    layers: int = 6


@dataclass(kw_only=True)
class _MPNet(_Base, TinyMPNet):
    positions: int = 514
    vocabulary: int = 30_527


@dataclass(kw_only=True)
class _Deberta(_Base, TinyDeberta):
    buckets: int = 256
    vocabulary: int = 128_100
    pieces: Any = sentence_pieces


@dataclass(kw_only=True)
class _Gte(_Base, TinyGte):
    positions: int = 8192


@dataclass(kw_only=True)
class _Nomic(_Base, TinyNomic):
    positions: int = 8192
    vocabulary: int = 30_528


@dataclass(kw_only=True)
class _NomicMoe(_Base, TinyNomicMoe):
    vocabulary: int = 250_048
    pieces: Any = sentence_pieces


@dataclass(kw_only=True)
class _Jina(_Base, TinyJina):
    positions: int = 8192
    vocabulary: int = 30_528


@dataclass(kw_only=True)
class _JinaV3(_Base, TinyJinaV3):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.config["vocab_size"] = self.vocabulary


@dataclass(kw_only=True)
class _ModernBert(_Base, TinyModernBert):
    positions: int = 8192
    local: int = 128


@dataclass(kw_only=True)
class _EuroBert(_Base, TinyEuroBert):
    positions: int = 8192
    prefix: str = "model."


@dataclass(kw_only=True)
class _Qwen2(_Base, TinyQwen2):
    pass


@dataclass(kw_only=True)
class _Qwen3(_Base, TinyQwen3):
    positions: int = 32_768
    pieces: Any = byte_pairs


@dataclass(kw_only=True)
class _Gemma(_Base, TinyGemma):
    pieces: Any = letters


@dataclass(kw_only=True)
class _NvEmbed(_Base, TinyNvEmbed):
    pieces: Any = letters


_STELLA_HEADS: dict[str, Any] = {
    "dense": (TinyDense(size=1024, sized=True),),
    "other_sizes": (256, 768, 2048, 4096, 6144, 8192),
    "normalize": False,
}
_SHORT: dict[str, Any] = {"sentence_config": {"max_seq_length": 512}}
_LARGE: dict[str, Any] = {"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096}
_QWEN2: dict[str, Any] = {
    "hidden": 1536, "layers": 4, "key_value_heads": 2, "intermediate": 8960, "vocabulary": 151_646,
    "positions": 131_072, "pieces": byte_pairs,
}  # fmt: skip

# Made when asked for: each is a class with a seed and gigabytes behind it.
SIZES: dict[str, Callable[[], Any]] = {
    "bert": lambda: _Bert(**_SHORT),
    "roberta": lambda: _Roberta(family="roberta", vocabulary=50_265, pieces=byte_level, **_SHORT),
    "xlm-roberta": lambda: _Roberta(
        family="xlm-roberta", hidden=384, intermediate=1536, vocabulary=250_002, pieces=sentence_pieces, **_SHORT
    ),
    "camembert": lambda: _Roberta(family="camembert", vocabulary=32_005, pieces=sentence_pieces, **_SHORT),
    "multilingual-e5-base": lambda: _Roberta(
        family="xlm-roberta", vocabulary=250_002, pieces=sentence_pieces, **_SHORT
    ),
    "distilbert": _Distilbert,
    "mpnet": lambda: _MPNet(sentence_config={"max_seq_length": 384}),
    "deberta": _Deberta,
    "gte-base": lambda: _Gte(token_types=0, theta=500_000.0, scaling=None, vocabulary=30_528),
    "gte-multilingual": lambda: _Gte(
        token_types=1, theta=20_000.0, scaling={"type": "ntk", "factor": 8.0}, prefix="new.", vocabulary=250_048,
        pieces=sentence_pieces, stored=torch.float16,
    ),
    "stella-400m": lambda: _Gte(prefix="new.", vocabulary=30_528, **_LARGE, **_STELLA_HEADS, **_SHORT),
    "nomic": lambda: _Nomic(sentence_config={"max_seq_length": 2048}),
    "nomic-moe": lambda: _NomicMoe(**_SHORT),
    "jina-v2": lambda: _Jina(stored=torch.float16),
    "jina-v3": lambda: _JinaV3(
        positions=8194, vocabulary=250_002, pieces=sentence_pieces, stored=torch.bfloat16, **_LARGE
    ),
    "modernbert": lambda: _ModernBert(layers=22, intermediate=1152, vocabulary=50_368, pieces=byte_level),
    "eurobert": lambda: _EuroBert(key_value_heads=12, vocabulary=128_256, pieces=byte_pairs),
    "gemma": lambda: _Gemma(
        layers=24, heads=3, key_value_heads=1, head_width=256, intermediate=1152, vocabulary=262_144, positions=2048,
        dense=(TinyDense(size=3072, bias=False), TinyDense(size=768, bias=False)),
        config={"sliding_window": 512, "query_pre_attn_scalar": 256, "_sliding_window_pattern": 6},
    ),
    "qwen3-0.6b": lambda: _Qwen3(
        hidden=1024, layers=28, heads=16, key_value_heads=8, head_width=128, intermediate=3072, vocabulary=151_669,
        padded_words=0, stored=torch.bfloat16,
    ),
    "qwen2-4-layers": lambda: _Qwen2(stored=torch.bfloat16, **_QWEN2),
    "stella-1.5b-4-layers": lambda: _Qwen2(**_QWEN2, **_STELLA_HEADS, **_SHORT),
    "nv-embed-2-layers": lambda: _NvEmbed(
        hidden=4096, layers=2, heads=32, key_value_heads=8, intermediate=14_336, vocabulary=32_000, positions=32_768,
        latents=512, cross_heads=8, cross_head_dim=4096, latent_dim=4096, stored=torch.bfloat16,
        sentence_config={"max_seq_length": 4096},
    ),
}  # fmt: skip
"""By name."""


def write(name: str, folder: Path) -> Path:
    """One of ``SIZES``, all its files."""
    made: Path = SIZES[name]().write(folder)
    return made
