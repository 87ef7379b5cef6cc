"""NomicBERT with experts (nomic-embed-text-v2-moe), written here: no library has it.

As NomicBERT, but with biases and without gates; in every n-th layer the feed-forward part is a mixture: a router gives
each token to its best few of several experts, which are feed-forward parts without biases. Their outputs are weighed by
the router's probabilities as they are (they do not add up to one), then a bias for all is added. Sources: the published
config, and how TEI and vLLM compute it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, linear, pad
from transformers import NomicBertConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.nomic_bert.modeling_nomic_bert import NomicBertRotaryEmbedding, apply_rotary_pos_emb

from embeddaemon.errors import CorruptModel
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.families import Family, nomic
from embeddaemon.workers.engines.torch_engine.families.native import Native, Tensors
from embeddaemon.workers.engines.torch_engine.families.numbers import whole
from embeddaemon.workers.engines.torch_engine.rounding import rounded_up

_ROUTER = ".router.layer.weight"


def family(_: str) -> Family:
    """See families/__init__.py."""
    native = Native(config_class=NomicBertConfig, model_class=NomicMoe, translate=translate, rename=rename)
    return Family(build=native.build, forward=forward)


def translate(config: Mapping[str, object]) -> dict[str, object]:
    """The published config.json with the keys that ``NomicMoe`` reads. Raises CorruptModel."""
    experts, per_token = whole(config, "num_experts"), whole(config, "moe_top_k")
    if per_token > experts:
        raise CorruptModel(f"config.json: moe_top_k is {per_token}, there are {experts} experts")
    return {
        **nomic.common(config),
        "experts": experts,
        "experts_per_token": per_token,
        "mixed_every": whole(config, "moe_every_n_layers"),
    }


def rename(tensors: Tensors) -> Tensors:
    """Two matrices (out, in) for each expert, instead of one of all experts' rows per layer and side."""
    for name in [name for name in tensors if name.endswith(_ROUTER)]:
        router = tensors.pop(name)
        mixture = name.removesuffix(_ROUTER)
        tensors[f"{mixture}.router"] = router
        for theirs, ours in (("w1", "up"), ("w2", "down")):
            packed = tensors.get(f"{mixture}.experts.mlp.{theirs}")
            if packed is None or packed.shape[0] % router.shape[0]:
                continue  # what does not fit is told where the tensors are assigned
            del tensors[f"{mixture}.experts.mlp.{theirs}"]
            for index, rows in enumerate(packed.chunk(router.shape[0])):
                tensors[f"{mixture}.experts.{index}.{ours}.weight"] = rows if ours == "up" else rows.t().contiguous()
    return tensors


def forward(
    model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
    hidden: torch.Tensor = model(ids, positions, groups)
    return hidden


class NomicMoe(nn.Module):
    """Modules are named as the published tensors are, but for what ``rename`` divides."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.emb_ln = _norm(config)
        self.rotary_emb: nn.Module = NomicBertRotaryEmbedding(config)
        self.encoder = _Encoder(config)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[LengthGroup]) -> torch.Tensor:
        """(tokens,) to (tokens, hidden)."""
        rows = self.emb_ln(self.embeddings(ids))
        cosines, sines = self.rotary_emb(rows, positions.unsqueeze(0))  # (1, tokens, head dim) each
        return self.encoder(rows, cosines, sines, groups)  # type: ignore[no-any-return]  # torch's modules give Any


class _Encoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config, number) for number in range(config.num_hidden_layers))

    def forward(
        self, rows: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, groups: Sequence[LengthGroup]
    ) -> torch.Tensor:
        for layer in self.layers:
            rows = layer(rows, cosines, sines, groups)
        return rows


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Every token is of the first type. (tokens,) to (tokens, hidden)."""
        words: torch.Tensor = self.word_embeddings(ids)
        return words + self.token_type_embeddings.weight[0]


class _Layer(nn.Module):
    """Post-norm."""

    def __init__(self, config: Any, number: int) -> None:
        super().__init__()
        self.attn = _Attention(config)
        self.mlp = _Mixture(config) if number % config.mixed_every == 1 else _FeedForward(config)
        self.norm1 = _norm(config)
        self.norm2 = _norm(config)

    def forward(
        self, rows: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, groups: Sequence[LengthGroup]
    ) -> torch.Tensor:
        rows = self.norm1(rows + self.attn(rows, cosines, sines, groups))
        normed: torch.Tensor = self.norm2(rows + self.mlp(rows))
        return normed


class _Attention(nn.Module):
    is_causal = False
    """Read by the attention function."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, rows: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, groups: Sequence[LengthGroup]
    ) -> torch.Tensor:
        tokens, heads = rows.shape[0], self.config.num_attention_heads
        parts = self.Wqkv(rows).view(1, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # (1, heads, tokens, head dim) each
        query, key = apply_rotary_pos_emb(query, key, cosines, sines)
        attend: Any = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]  # noqa: SLF001 (see native.py)
        attended, _ = attend(self, query, key, value, None, groups=groups)  # (1, tokens, heads, head dim)
        mixed: torch.Tensor = self.out_proj(attended.reshape(tokens, -1))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        narrowed: torch.Tensor = self.fc2(gelu(self.fc1(rows)))
        return narrowed


class _Mixture(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.experts_per_token: int = config.experts_per_token
        self.router = nn.Parameter(torch.empty(config.experts, config.hidden_size))
        self.experts = _Experts(config)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) to the same."""
        # In float32, since a rounding that changes who is chosen changes the vector by more than a rounding.
        probabilities = linear(rows.float(), self.router.float()).softmax(-1)  # (tokens, experts)
        weights, chosen = probabilities.topk(self.experts_per_token)  # (tokens, experts per token) each
        found = self.experts(rows, chosen)
        summed: torch.Tensor = (found * weights.to(rows.dtype).unsqueeze(-1)).sum(1) + self.experts.bias
        return summed


class _Experts(nn.ModuleList):
    def __init__(self, config: Any) -> None:
        super().__init__(_Expert(config) for _ in range(config.experts))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) and (tokens, experts per token) to (tokens, experts per token, hidden)."""
        tokens, per_token = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # (tokens * experts per token,): first all of the first expert
        counts = torch.bincount(chosen.flatten(), minlength=len(self)).tolist()
        parts = torch.split(rows[order // per_token], counts)
        chosen_ones = [(expert, part) for expert, part in zip(self, parts, strict=True) if len(part)]
        found = torch.cat([expert(_rounded(part))[: len(part)] for expert, part in chosen_ones])
        result = torch.empty_like(found)
        result[order] = found
        return result.view(tokens, per_token, -1)


def _rounded(rows: torch.Tensor) -> torch.Tensor:
    """With zeros behind them: any number of tokens may choose an expert, and each leaves kernels behind (rounding.py).

    A worker of the published model grew by 350 MiB without this.
    """
    return pad(rows, (0, 0, 0, rounded_up(len(rows)) - len(rows))) if rows.is_cpu else rows


class _Expert(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        narrowed: torch.Tensor = self.down(gelu(self.up(rows)))
        return narrowed


def _norm(config: Any) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
