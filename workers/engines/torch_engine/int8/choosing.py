"""From what was observed to a plan: smoothing, ranges, and which units are quantised apart.

Smoothing (Xiao et al. 2022, SmoothQuant) moves outlying channels from the activations, which have one scale for all,
into the weights. Behind GELU there is nothing to fold it into. There a few units reach ten times as far as the others,
so a layer may have them quantised apart, by a scale of their own: exact, at a small product more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import torch
from transformers.models.bert.modeling_bert import BertLayer

from embeddaemon.workers.engines.torch_engine.encoder import BertLike
from embeddaemon.workers.engines.torch_engine.int8.observing import LayerObserved, Range
from embeddaemon.workers.engines.torch_engine.int8.plan import LayerPlan, Plan, Steps, steps_between

_STRENGTH = 0.7
"""How much of a channel's reach moves into the weights. MiniLM's mean cosine with only the inputs of the first product
(of the wide one) quantised: 0.9990 (0.9980) at 0, 0.9997 (0.9996) at 0.5, 0.9998 (0.9997) at 0.7, 0.9998 (0.9996) at
0.85."""
_OUTLIERS = 64
"""One tile of the product: fewer cost the same."""
_CLIPPED_TO = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)
"""Shares of the highest value that are tried behind GELU."""


def plan_from(model: BertLike, observed: Sequence[LayerObserved], apart: Collection[int]) -> Plan:
    """The layers numbered in ``apart`` have their outliers quantised apart."""
    layers = (cast("BertLayer", layer) for layer in model.encoder.layer)  # a list of modules only
    return Plan(
        tuple(
            _layer_plan(layer, seen, is_apart=number in apart)
            for number, (layer, seen) in enumerate(zip(layers, observed, strict=True))
        )
    )


def worst_first(plan: Plan, model: BertLike, observed: Sequence[LayerObserved]) -> list[int]:
    """The layers by the error that quantising their units together makes, measured by what it adds to the output."""
    errors = []
    for layer, seen, module in zip(plan.layers, observed, model.encoder.layer, strict=True):
        weight = cast("BertLayer", module).output.dense.weight.float()
        samples = torch.cat(seen.narrow.samples)
        exact = samples @ weight.T
        wrong = (_rounded(samples, layer.narrow) - samples) @ weight.T
        errors.append((wrong.square().mean() / exact.square().mean().clamp(min=1e-12)).item())
    return sorted(range(len(errors)), key=lambda number: -errors[number])


def _layer_plan(layer: BertLayer, seen: LayerObserved, *, is_apart: bool) -> LayerPlan:
    heads = layer.attention.self
    into = torch.cat([part.weight for part in (heads.query, heads.key, heads.value)])
    into_smoothing = _smoothing(seen.into, into)
    wide_smoothing = _smoothing(seen.wide, layer.intermediate.dense.weight)
    reach = seen.narrow.bounds()[1]
    outliers = reach.argsort(descending=True)[: _outliers_of(len(reach)) if is_apart else 0].sort().values
    return LayerPlan(
        into_smoothing=tuple(into_smoothing.tolist()),
        into=_whole_range(seen.into, into_smoothing),
        out=_whole_range(seen.out, torch.ones(())),
        wide_smoothing=tuple(wide_smoothing.tolist()),
        wide=_whole_range(seen.wide, wide_smoothing),
        narrow=_clipped(seen.narrow, layer.output.dense.weight, without=outliers),
        outliers=tuple(outliers.tolist()),
        narrow_outliers=_whole_range(seen.narrow, torch.ones(())),
    )


def _outliers_of(units: int) -> int:
    return min(_OUTLIERS, units // 2)


def _smoothing(seen: Range, weight: torch.Tensor) -> torch.Tensor:
    """(channels,), around one."""
    low, high = seen.bounds()
    reach = torch.maximum(-low, high).clamp(min=1e-3)
    weights = weight.abs().amax(dim=0).clamp(min=1e-3)
    smoothing = reach**_STRENGTH / weights ** (1 - _STRENGTH)
    return smoothing / smoothing.log().mean().exp()


def _whole_range(seen: Range, smoothing: torch.Tensor) -> Steps:
    low, high = (bound / smoothing for bound in seen.bounds())
    return steps_between(low.min().item(), high.max().item())


def _clipped(seen: Range, weight: torch.Tensor, *, without: torch.Tensor) -> Steps:
    """The range that does least harm to the product's output; what lies outside is moved to its end."""
    kept = torch.ones(weight.shape[1], dtype=torch.bool)
    kept[without] = False
    low, high = (bound[kept] for bound in seen.bounds())
    samples = torch.cat(seen.samples)[:, kept]
    importance = weight.float().square().sum(dim=0)[kept]

    def harm(steps: Steps) -> float:
        return float(((_rounded(samples, steps) - samples).square().mean(dim=0) @ importance).item())

    candidates = [steps_between(low.min().item(), high.max().item() * share) for share in _CLIPPED_TO]
    return min(candidates, key=harm)


def _rounded(rows: torch.Tensor, steps: Steps) -> torch.Tensor:
    codes = (rows / steps.scale + steps.zero).round().clamp(0, 255)
    return (codes - steps.zero) * steps.scale
