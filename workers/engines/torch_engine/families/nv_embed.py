"""NV-Embed v2: Mistral without causality or window, and behind it an attention of every token to learned latents.

The latents are the same for all texts. So their keys are multiplied into the projection of the queries, and their
values into the one behind, once: two layers of (hidden, heads x latents) are left of what has several hundred million
parameters. Names and order: the model's published config and tensors, and its paper (arXiv 2405.17428).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, linear
from transformers import MistralConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mistral.modeling_mistral import MistralModel

from embeddaemon.errors import CorruptModel
from embeddaemon.workers.engines.torch_engine.attention import LengthGroup
from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.decoders import translated
from embeddaemon.workers.engines.torch_engine.families.native import Native, forward
from embeddaemon.workers.engines.torch_engine.families.numbers import whole

_WIDENING = 4
"""The layers behind the latents are so many times as wide as a token, and twice that with the gates."""

_BLOCK_TOKENS = 512
"""Those layers are wide: so many tokens go through them at once."""

_EPSILON = 1e-5


class _CrossAttention(nn.Module):
    """Tokens (…, hidden) to what they take from the latents (…, hidden)."""

    def __init__(self, hidden: int, latent: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.to_q = nn.Linear(hidden, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(latent, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, hidden, bias=False)

    def fold(self, latents: torch.Tensor) -> None:
        """``latents`` (latents, latent dim), normalised, into the two projections; a head at a time, in float32."""
        dtype, latents = latents.dtype, latents.float()
        inner = self.heads * self.head_dim
        scores, output = [], []
        for begin in range(0, inner, self.head_dim):
            part, behind = slice(begin, begin + self.head_dim), slice(inner + begin, inner + begin + self.head_dim)
            keys, values = (linear(latents, self.to_kv.weight[rows].float()) for rows in (part, behind))
            query = self.to_q.weight[part].float()  # (head dim, hidden)
            scores.append((keys @ query * self.head_dim**-0.5).to(dtype))  # (latents, hidden)
            output.append((self.to_out.weight[:, part].float() @ values.T).to(dtype))  # (hidden, latents)
        self.scores = _linear(torch.cat(scores))
        self.output = _linear(torch.cat(output, dim=1))
        del self.to_q, self.to_kv, self.to_out

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores = self.scores(tokens).unflatten(-1, (self.heads, -1))  # (tokens, heads, latents)
        shares = scores.softmax(dim=-1, dtype=torch.float32).to(tokens.dtype)
        output: torch.Tensor = self.output(shares.flatten(-2))
        return output


class _GatedUnit(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values, gates = tokens.chunk(2, dim=-1)
        return values * gelu(gates)


class _FeedForward(nn.Module):
    """(…, hidden) to the same."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        wide = _WIDENING * hidden
        self.net = nn.Sequential(nn.Linear(hidden, 2 * wide), _GatedUnit(), nn.Linear(wide, hidden))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.net(tokens)
        return output


class _Normed(nn.Module):
    """``fn`` of normalised tokens, added to the tokens."""

    def __init__(self, hidden: int, fn: nn.Module, context: int | None = None) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(hidden, eps=_EPSILON)
        if context is not None:
            self.norm_context = nn.LayerNorm(context, eps=_EPSILON)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.fn(self.norm(tokens)) + tokens
        return output


class _LatentAttention(nn.Module):
    """Tokens (tokens, hidden) to the same, each by itself."""

    def __init__(self, hidden: int, settings: Mapping[str, object]) -> None:
        super().__init__()
        latent = whole(settings, "latent_dim")
        attention = _CrossAttention(
            hidden, latent, whole(settings, "num_cross_heads"), whole(settings, "cross_dim_head")
        )
        self.latents = nn.Parameter(torch.empty(whole(settings, "num_latents_value"), latent))
        self.cross_attend_blocks = nn.ModuleList(
            [_Normed(hidden, attention, context=latent), _Normed(hidden, _FeedForward(hidden))]
        )

    def fold(self) -> None:
        """Makes of the latents what every forward needs of them."""
        block: Any = self.cross_attend_blocks[0]
        block.fn.fold(block.norm_context(self.latents))
        del self.latents, block.norm_context

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        attend, feed = self.cross_attend_blocks
        return torch.cat([feed(attend(block)) for block in torch.split(tokens, _BLOCK_TOKENS)])


class NvEmbedModel(nn.Module):
    """The whole model, called as transformers' classes are."""

    def __init__(self, config: MistralConfig) -> None:
        super().__init__()
        settings: Any = config  # what the config class does not know, it keeps
        self.config = config
        self.embedding_model = MistralModel(config)
        self.latent_attention_model = _LatentAttention(config.hidden_size, settings.latent_attention_config)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, groups: Sequence[LengthGroup]
    ) -> BaseModelOutput:
        """``input_ids`` and ``position_ids`` (1, tokens), to a last hidden state of (1, tokens, hidden)."""
        body: Any = self.embedding_model(input_ids=input_ids, position_ids=position_ids, groups=groups, is_causal=False)
        return BaseModelOutput(last_hidden_state=self.latent_attention_model(body.last_hidden_state[0])[None])


def _linear(weight: torch.Tensor) -> nn.Linear:
    """``weight`` (out, in) as a layer."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _translated(config: Mapping[str, object]) -> dict[str, object]:
    """The body's own settings with those of the latents beside them; the published class masks nothing."""
    body, latents = config.get("text_config"), config.get("latent_attention_config")
    if not isinstance(body, dict) or not isinstance(latents, dict):
        raise CorruptModel("config.json: text_config and latent_attention_config must both be maps")
    return {**translated(body, "mistral"), "sliding_window": None, "latent_attention_config": latents}


def _fold(model: nn.Module) -> None:
    latents: Any = model.get_submodule("latent_attention_model")
    with torch.no_grad():
        latents.fold()


_NATIVE = Native(config_class=MistralConfig, model_class=NvEmbedModel, translate=_translated, finish=_fold)


def family(_: str) -> Family:
    """See families/__init__.py."""
    return Family(build=_NATIVE.build, forward=forward)
