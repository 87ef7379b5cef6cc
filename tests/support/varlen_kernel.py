"""A kernel for rows of texts that runs anywhere, called as CUDA's is and as choosy: what the real one refuses, it does.

Its limits are those of FlashAttention as torch 2.13 builds it in; that its arguments are the real one's is checked
against the installed torch. It computes in float32 by plain operators, so it is also a reference.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch.nn.attention.varlen import varlen_attn

_SIGNATURE = inspect.signature(varlen_attn)


def kernel(*arguments: object, **options: object) -> torch.Tensor:
    """(tokens, heads, head dim) each, and the rest as ``varlen_attn`` names them. Raises RuntimeError as it would."""
    bound = _SIGNATURE.bind(*arguments, **options)
    bound.apply_defaults()
    given = bound.arguments
    query, key, value, bounds = (given[name] for name in ("query", "key", "value", "cu_seq_q"))
    _check(query, key, value, bounds, enable_gqa=given["enable_gqa"])
    _check_longest(bounds, given["max_q"], given["max_k"])
    assert given["cu_seq_k"] is bounds
    scale = given["scale"] or 1 / math.sqrt(query.shape[-1])
    result = torch.full_like(query, float("nan"))  # what no text owns is left as it is
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        ours, theirs, values = (part[start:end].transpose(0, 1).float() for part in (query, key, value))
        theirs, values = (part.repeat_interleave(len(ours) // len(part), 0) for part in (theirs, values))
        scores = ours @ theirs.transpose(1, 2) * scale  # (heads, length, length)
        scores = scores.masked_fill(~_seen(end - start, given["window_size"]), float("-inf"))
        result[start:end] = (scores.softmax(dim=-1) @ values).transpose(0, 1).to(query.dtype)
    return result


def _seen(length: int, window: tuple[int, int]) -> torch.Tensor:
    """(length, length): whether a token sees another; -1 to a side: all that are there."""
    left, right = (length if tokens < 0 else tokens for tokens in window)
    away = torch.arange(length) - torch.arange(length).unsqueeze(1)
    return (-left <= away) & (away <= right)


def _check(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, *, enable_gqa: bool
) -> None:
    _need(key.shape == value.shape and query.dim() == key.dim() == 3, "shapes of query, key and value")
    _need(query.shape[::2] == key.shape[::2], "as many tokens and numbers of query, key and value")
    if enable_gqa:
        _need(query.shape[1] % key.shape[1] == 0, "number of query heads to be a multiple of kv heads")
    else:
        _need(query.shape[1] == key.shape[1], "the same number of heads")
    for part in (query, key, value):
        _need(part.dtype in {torch.float16, torch.bfloat16}, "FlashAttention only support fp16 and bf16 data type")
        _need(part.dtype == query.dtype, "query and key must have the same dtype")
        _need(part.stride(-1) == 1, "Input tensor must have contiguous last dimension")
        _need(part.device == query.device == bounds.device, "tensors on one device")
    _need(query.shape[-1] <= 256 and query.shape[-1] % 8 == 0, "head_size must be a multiple of 8")
    _need(bounds.dtype == torch.int32, "cu_seqlens_q must have dtype int32")
    _need(bounds.is_contiguous() and bounds.dim() == 1 and len(bounds) > 1, "batch size must be positive")


def _check_longest(bounds: torch.Tensor, *longest: object) -> None:
    for one in longest:
        _need(type(one) is int and one == int(bounds.diff().max()), "the longest text, as a number of Python's")


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(what)
