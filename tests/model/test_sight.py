"""Causal attention, windows and fewer heads of keys, without a mask: against transformers' own classes and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    EuroBertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.eurobert.modeling_eurobert import EuroBertModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mistral.modeling_mistral import MistralModel
from transformers.models.modernbert.modeling_modernbert import ModernBertModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from embeddaemon.workers.engines.torch_engine import attention, varlen
from embeddaemon.workers.engines.torch_engine.attention import groups_of, packed_attention
from embeddaemon.workers.engines.torch_engine.row import Texts
from embeddaemon.workers.engines.torch_engine.sight import EVERYTHING, Sight, attend, sight_of
from tests.support import varlen_kernel

LENGTHS = (1, 2, 5, 5, 17, 33, 47, 47, 75)
ENDS = torch.tensor(LENGTHS).cumsum(0)
FILLER = 8
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FEW: dict[str, object] = {"num_key_value_heads": 2}
QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
GEMMA = {**FEW, "head_dim": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8}

CLASSES: dict[str, tuple[type[PreTrainedConfig], Callable[[Any], torch.nn.Module], dict[str, object]]] = {
    "llama": (LlamaConfig, LlamaModel, {"num_key_value_heads": 1}),
    "llama, bidirectional": (LlamaConfig, LlamaModel, {"is_causal": False}),
    "qwen3": (Qwen3Config, Qwen3Model, {**FEW, "head_dim": 8}),
    "qwen3, bidirectional": (Qwen3Config, Qwen3Model, {**FEW, "head_dim": 8, "is_causal": False}),
    "qwen2 with a window in later layers": (Qwen2Config, Qwen2Model, {**FEW, **QWEN_WINDOWS}),
    "qwen2, bidirectional": (Qwen2Config, Qwen2Model, {**FEW, "is_causal": False}),
    "mistral": (MistralConfig, MistralModel, {**FEW, "sliding_window": None}),
    "mistral with a window": (MistralConfig, MistralModel, {**FEW, "sliding_window": 7}),
    "mistral with a window of itself": (MistralConfig, MistralModel, {**FEW, "sliding_window": 1}),
    "mistral, bidirectional with a window": (
        MistralConfig,
        MistralModel,
        {**FEW, "sliding_window": 7, "is_causal": False},
    ),
    "gemma3": (Gemma3TextConfig, Gemma3TextModel, {**GEMMA, "sliding_window": 9}),
    "gemma3, bidirectional": (
        Gemma3TextConfig,
        Gemma3TextModel,
        {**GEMMA, "sliding_window": 9, "use_bidirectional_attention": True},
    ),
    "modernbert": (ModernBertConfig, ModernBertModel, {"local_attention": 8}),
    "modernbert, odd": (ModernBertConfig, ModernBertModel, {"local_attention": 11, "global_attn_every_n_layers": 2}),
    "eurobert": (EuroBertConfig, EuroBertModel, FEW),
}
each = pytest.mark.parametrize("kind", CLASSES)


def model_of(kind: str) -> Any:
    config_class, model_class, options = CLASSES[kind]
    config = config_class.from_dict({**SIZES, **options, "use_cache": False})
    torch.manual_seed(3)
    model: Any = model_class(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(requires_grad=False).eval()


def tokens(lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(sum(lengths)) * 7 % 47 + 3
    return ids, torch.cat([torch.arange(length) for length in lengths])


def one_by_one(model: Any, implementation: str) -> torch.Tensor:
    """(tokens, hidden): the class as it is, each text alone with the mask that it makes for it."""
    model.config._attn_implementation = implementation
    ids = tokens(LENGTHS)[0]
    return torch.cat([model(input_ids=text[None]).last_hidden_state[0] for text in ids.tensor_split(ENDS[:-1])])


@each
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_texts_equal_the_class_with_its_own_masks(kind: str, implementation: str) -> None:
    attention.register()
    model = model_of(kind)
    expected = one_by_one(model, implementation)
    model.config._attn_implementation = attention.NAME
    ids, positions = tokens([*LENGTHS, FILLER])
    found = model(input_ids=ids[None], position_ids=positions[None], groups=groups_of(LENGTHS)).last_hidden_state[0]
    torch.testing.assert_close(found[: sum(LENGTHS)], expected, atol=1e-4, rtol=1e-4)


@each
@pytest.mark.parametrize(
    "attending", [varlen.by_group, varlen.by_kernel(varlen_kernel.kernel)], ids=["group", "kernel"]
)
def test_attention_of_accelerators_equals_the_class_with_its_own_masks(kind: str, attending: varlen.Attend) -> None:
    dtype, atol = (torch.float32, 1e-4) if attending is varlen.by_group else (torch.bfloat16, 0.15)
    model = model_of(kind).to(dtype)
    expected = one_by_one(model, "sdpa")
    varlen.install(model, attending)
    ids, positions = tokens(LENGTHS)
    texts = Texts(groups_of(LENGTHS), torch.tensor([0, *LENGTHS]).cumsum(0).int())
    found = model(input_ids=ids[None], position_ids=positions[None], groups=texts).last_hidden_state[0]
    torch.testing.assert_close(found, expected, atol=atol, rtol=0.1)


@pytest.mark.parametrize("kind", ["mistral with a window", "modernbert", "gemma3, bidirectional", "qwen3"])
def test_what_is_compared_here_depends_on_windows_and_causality(kind: str) -> None:
    """A class that is taken for one without windows, or a causal one for another, is noticed by the tests above."""
    model = model_of(kind)
    expected = one_by_one(model, "sdpa")
    varlen.install(model, lambda *parts, scale=None, **_: varlen.by_group(*parts, scale=scale))
    ids, positions = tokens(LENGTHS)
    found = model(input_ids=ids[None], position_ids=positions[None], groups=groups_of(LENGTHS)).last_hidden_state[0]
    assert (found - expected).abs().max() > 0.05


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sight: Sight) -> torch.Tensor:
    """(texts, heads, length, head dim), written from the definition, in float64."""
    length = query.shape[2]
    away = torch.arange(length) - torch.arange(length).unsqueeze(1)
    hidden = (away > 0) & torch.tensor(sight.is_causal)
    if sight.reach is not None:
        hidden |= away.abs() > sight.reach
    alike = query.shape[1] // key.shape[1]
    query, key, value = (part.double() for part in (query, key, value))
    key, value = (part.repeat_interleave(alike, 1) for part in (key, value))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    weights: torch.Tensor = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return weights @ value


SIGHTS = [Sight(causal, reach) for causal in (False, True) for reach in (None, 0, 5, 20, 64)]


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_length_sees_what_it_should(sight: Sight, dtype: torch.dtype) -> None:
    """Lengths around tiles and blocks; in 16 bits those are rounded up with filler, which nobody may see."""
    lengths = [1, 2, 15, 16, 17, 33, 65, 70, 129, 161, 257, 401]
    generator = torch.Generator().manual_seed(5)
    query, key, value = (
        torch.randn(1, heads, sum(lengths) + 5, 8, generator=generator).to(dtype) for heads in (4, 2, 2)
    )
    module = torch.nn.Module()
    module.is_causal = sight.is_causal  # type: ignore[assignment]  # as the classes do
    window = None if sight.reach is None else sight.reach + 1
    found, _ = packed_attention(module, query, key, value, None, groups=groups_of(lengths), sliding_window=window)
    assert not found[:, sum(lengths) :].any()
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        ours = found[:, part].transpose(1, 2)
        atol = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(
            ours.double(), plain(query[:, :, part], key[:, :, part], value[:, :, part], sight), atol=atol, rtol=1e-2
        )
        start += length


class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """The most elements that any operator made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        self.largest = max([self.largest, *(one.numel() for one in made if isinstance(one, torch.Tensor))])
        return result


@pytest.mark.parametrize(
    "sight", [EVERYTHING, Sight(is_causal=True), Sight(reach=64), Sight(True, 64), Sight(True, 4095)]
)
def test_long_text_needs_no_mask_of_its_length_squared(sight: Sight) -> None:
    length = 8192
    query = torch.ones(1, 1, length, 8, dtype=torch.bfloat16)
    with Sizes() as sizes:
        attend(query, query, query, sight, scale=None, length=length)
    assert 0 < sizes.largest <= length * 512


def test_argument_overrules_the_module_and_a_module_that_says_nothing_is_causal() -> None:
    causal, bidirectional, silent = (torch.nn.Module() for _ in range(3))
    causal.is_causal, bidirectional.is_causal = True, False  # type: ignore[assignment]  # as the classes do
    seen = {
        (module, argument, window): sight_of(module, is_causal=argument, sliding_window=window)
        for module in (causal, bidirectional, silent)
        for argument in (None, True, False)
        for window in (None, 65)
    }
    assert seen[causal, None, None] == seen[bidirectional, True, None] == seen[silent, None, None] == Sight(True)
    assert seen[bidirectional, None, None] == seen[causal, False, None] == EVERYTHING
    assert seen[bidirectional, None, 65] == Sight(reach=64)
    assert seen[causal, None, 65] == Sight(is_causal=True, reach=64)


@pytest.mark.parametrize("name", ["softcap", "position_bias", "s_aux"])
def test_what_is_not_computed_is_refused(name: str) -> None:
    attention.check_others({name: None, "position_ids": torch.ones(1)})
    with pytest.raises(AssertionError, match=name):
        attention.check_others({name: torch.ones(1)})
