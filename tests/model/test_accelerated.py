"""The path of accelerators, on the CPU: the same vectors as the CPU's own path, by every attention and pooling it has.

What only a device can show (its kernel, streams, pinned memory) is in test_gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from embeddaemon.models.jsonfile import read_json
from embeddaemon.models.spec import Pooling
from embeddaemon.workers.engines import DeviceLost, EngineFacts, Ids
from embeddaemon.workers.engines.torch_engine import encoder, pooling, segments, varlen
from embeddaemon.workers.engines.torch_engine.accelerated import AcceleratedModel
from embeddaemon.workers.engines.torch_engine.device_encoder import DeviceEncoder
from embeddaemon.workers.engines.torch_engine.families import bert
from embeddaemon.workers.engines.torch_engine.heads import Heads
from embeddaemon.workers.engines.torch_engine.model import Encode
from embeddaemon.workers.engines.torch_engine.row import Row, divide, lay_out, positions_of
from embeddaemon.workers.engines.torch_engine.sight import EVERYTHING, Sight
from embeddaemon.workers.tokenization import load_tokenizer
from tests.support import varlen_kernel
from tests.support.checkpoints import TinyBert
from tests.support.embedding import card_of, cosines, embedder_of

CPU = torch.device("cpu")
MANY_LENGTHS = [1, 2, 2, 3, 5, 8, 13, 13, 13, 21, 34]
FEW_LENGTHS = [4, 4, 4, 9]
HEADS = varlen.Heads(4, 4, 8)
BY_KERNEL = varlen.by_kernel(varlen_kernel.kernel)


def accelerated(
    folder: Path, dtype: torch.dtype, attend: varlen.Attend, *, functional: bool = True
) -> AcceleratedModel:
    """A folder's model as it would be on a device, by our forward or by transformers' class."""
    card = card_of(folder)
    module = bert.build(read_json(folder / "config.json").values, card, dtype)
    assert encoder.suits(module)
    encode: Encode = DeviceEncoder(module, attend).forward
    if not functional:
        varlen.install(module, attend)
        encode = partial(bert.forward, module)
    facts = EngineFacts(
        engine="torch", family="bert", precision=str(dtype), device="cpu", dim=card.dim, parameters=0, weights_bytes=0
    )
    return AcceleratedModel(
        encode, positions_of, load_tokenizer(card), card, facts, heads=Heads(card, torch.device("cpu"))
    )


def ints(values: list[int]) -> Ids:
    return np.array(values, dtype=np.int32)


def some_ids(lengths: list[int]) -> Ids:
    return np.arange(sum(lengths), dtype=np.int32) * 7 % 60


def prompts_for(lengths: list[int]) -> Ids:
    """Some texts have a prompt, some none, some are all prompt but one token."""
    return ints([min(length - 1, index % 3 * 2) for index, length in enumerate(lengths)])


def row_of(lengths: list[int], prompts: Ids | None) -> Row:
    ids, counts = some_ids(lengths), ints(lengths)
    return divide(torch.from_numpy(lay_out(ids, positions_of(ids, counts), counts, prompts)), counts)


@pytest.mark.parametrize("mode", list(Pooling))
@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("lengths", [MANY_LENGTHS, FEW_LENGTHS, [1], [1, 1, 7]])
def test_pooling_by_segments_equals_pooling_by_length(lengths: list[int], prompted: bool, mode: Pooling) -> None:
    row = row_of(lengths, prompts_for(lengths) if prompted else None)
    hidden = torch.randn(sum(lengths), 24, generator=torch.Generator().manual_seed(2))
    expected = pooling.pool(hidden, row.texts, [mode], row.prompt_lengths)
    torch.testing.assert_close(segments.pool(hidden, row, [mode]), expected, atol=1e-6, rtol=1e-6)


def test_pooling_by_segments_concatenates_modes_and_computes_in_float32() -> None:
    modes = [Pooling.MAX, Pooling.CLS, Pooling.WEIGHTED_MEAN]
    row = row_of(MANY_LENGTHS, prompts_for(MANY_LENGTHS))
    hidden = torch.randn(sum(MANY_LENGTHS), 24, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    found = segments.pool(hidden, row, modes)
    assert found.dtype is torch.float32
    expected = pooling.pool(hidden, row.texts, modes, row.prompt_lengths)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_row_is_divided_into_what_was_laid_out() -> None:
    row = row_of([3, 3, 5], ints([1, 0, 4]))
    assert row.ids.tolist() == some_ids([3, 3, 5]).tolist()
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4]
    assert row.texts.bounds.tolist() == [0, 3, 6, 11]
    assert (row.texts.longest, [group.texts for group in row.texts]) == (5, [2, 1])
    assert row.prompt_lengths is not None
    assert row.prompt_lengths.tolist() == [1, 0, 4]
    assert row.pooled_bounds.tolist() == [0, 1, 3, 3, 6, 10, 11]


@pytest.mark.parametrize(
    ("attend", "dtype"),
    [
        (varlen.by_group, torch.float32),  # the kernel takes 16 bits only
        *((attend, dtype) for attend in (varlen.by_group, BY_KERNEL) for dtype in (torch.bfloat16, torch.float16)),
    ],
)
@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("lengths", [MANY_LENGTHS, FEW_LENGTHS])
@pytest.mark.parametrize("prompted", [False, True])
def test_accelerated_path_gives_the_vectors_of_the_other_path(
    tmp_path: Path,
    *,
    prompted: bool,
    lengths: list[int],
    functional: bool,
    dtype: torch.dtype,
    attend: varlen.Attend,
) -> None:
    tiny = TinyBert(pooling={"pooling_mode": ["mean", "max", "cls"], "include_prompt": not prompted}, normalize=False)
    folder = tiny.write(tmp_path)
    prompts = prompts_for(lengths) if prompted else None
    expected = embedder_of(folder).model.forward(some_ids(lengths), ints(lengths), prompts)
    model = accelerated(folder, dtype, attend, functional=functional)
    found = model.forward(some_ids(lengths), ints(lengths), prompts)
    assert found.dtype == np.float32
    if dtype is torch.float32:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert cosines(found, expected).min() > {torch.float16: 0.99999, torch.bfloat16: 0.999}.get(dtype, 0.999999)


@pytest.mark.parametrize("attend", [varlen.by_group, BY_KERNEL], ids=["by group", "by kernel"])
def test_text_alone_equals_itself_among_others(tmp_path: Path, attend: varlen.Attend) -> None:
    model = accelerated(TinyBert(normalize=False).write(tmp_path), torch.bfloat16, attend)
    ids, ends = some_ids(MANY_LENGTHS), np.cumsum(MANY_LENGTHS)
    together = model.forward(ids, ints(MANY_LENGTHS), None)
    alone = [
        model.forward(ids[end - length : end], ints([length]), None)
        for end, length in zip(ends, MANY_LENGTHS, strict=True)
    ]
    assert cosines(together, np.concatenate(alone)).min() > 0.9999


def test_several_threads_may_be_in_the_forward_at_once(tmp_path: Path) -> None:
    model = accelerated(TinyBert().write(tmp_path), torch.float32, varlen.by_group)
    batches = [[length, length, length + 3] for length in range(1, 20)]
    expected = [model.forward(some_ids(lengths), ints(lengths), None) for lengths in batches]
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda lengths: model.forward(some_ids(lengths), ints(lengths), None), batches)
    for rows, alone in zip(found, expected, strict=True):
        np.testing.assert_allclose(rows, alone, atol=1e-6)


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    model = accelerated(TinyBert().write(tmp_path), torch.float32, varlen.by_group)
    assert model.forward(ints([]), ints([]), None).shape == (0, 32)


class Questions(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Operators that would make the host wait for the device, as they are called."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "item", "unique")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.asked: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::").split(".")[0]
        if name in self.WAITING or (name == "repeat_interleave" and not (kwargs or {}).get("output_size")):
            self.asked.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("lengths", [MANY_LENGTHS, FEW_LENGTHS])
def test_forward_asks_the_device_for_nothing(tmp_path: Path, lengths: list[int], functional: bool) -> None:
    modes = [mode.value for mode in Pooling]
    folder = TinyBert(pooling={"pooling_mode": modes, "include_prompt": False}).write(tmp_path)
    model = accelerated(folder, torch.float32, varlen.by_group, functional=functional)
    with Questions() as questions:
        fetch = model._queue(some_ids(lengths), ints(lengths), prompts_for(lengths))
    assert questions.asked == []
    assert fetch().shape == (len(lengths), 32 * len(modes))


def test_question_to_the_device_would_be_noticed() -> None:
    with Questions() as questions:
        torch.ones(3).sum().item()
    assert questions.asked == ["_local_scalar_dense"]


@pytest.mark.parametrize("sight", varlen.EVERY_WAY)
@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
def test_kernel_that_computes_the_same_is_taken(key_value_heads: int, sight: Sight) -> None:
    assert varlen.is_right(varlen_kernel.kernel, CPU, torch.bfloat16, varlen.Heads(4, key_value_heads, 8), sight)


def _sees_everything(*arguments: Any, **options: Any) -> torch.Tensor:
    return varlen_kernel.kernel(*arguments, **{**options, "window_size": (-1, -1)})


@pytest.mark.parametrize("sight", varlen.EVERY_WAY)
def test_kernel_that_knows_no_window_and_no_causality_is_taken_for_neither(sight: Sight) -> None:
    assert varlen.is_right(_sees_everything, CPU, torch.bfloat16, varlen.Heads(4, 2, 8), sight) == (sight == EVERYTHING)


def _wrong(*arguments: Any, **options: Any) -> torch.Tensor:
    return varlen_kernel.kernel(*arguments, **options) + 0.1


def _not_a_number(*arguments: Any, **options: Any) -> torch.Tensor:
    return varlen_kernel.kernel(*arguments, **options) * float("nan")


def _missing(*_: object, **__: object) -> torch.Tensor:
    raise NotImplementedError("not compiled for this device")


def _other_arguments(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return query + key + value


@pytest.mark.parametrize("kernel", [_wrong, _not_a_number, _missing, _other_arguments])
def test_kernel_that_fails_or_computes_something_else_is_not_taken(kernel: Callable[..., torch.Tensor]) -> None:
    assert not varlen.is_right(kernel, CPU, torch.bfloat16, HEADS, EVERYTHING)


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 8), (torch.bfloat16, 12)])
def test_kernel_is_not_taken_for_what_it_does_not_serve(dtype: torch.dtype, head_dim: int) -> None:
    assert not varlen.is_right(varlen_kernel.kernel, CPU, dtype, varlen.Heads(4, 4, head_dim), EVERYTHING)


def test_installed_kernel_is_tried_and_refused_without_a_gpu() -> None:
    kernel = varlen._kernel()
    assert kernel is not None, "this torch has no attention for rows of texts"
    assert not varlen.is_right(kernel, CPU, torch.bfloat16, HEADS, EVERYTHING)


def test_elsewhere_than_on_cuda_attention_goes_by_group() -> None:
    assert varlen.choose(CPU, torch.bfloat16, HEADS) is varlen.by_group
    assert varlen.choose(torch.device("mps"), torch.float16, HEADS) is varlen.by_group
    assert varlen.choose(torch.device("cuda", 0), torch.float32, HEADS) is varlen.by_group


def test_device_that_failed_for_good_is_told_from_a_failed_request(tmp_path: Path) -> None:
    model = accelerated(TinyBert().write(tmp_path), torch.float32, varlen.by_group)

    def lost(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    model._encode = lost
    with pytest.raises(DeviceLost, match="illegal memory access"):
        model.forward(ints([5]), ints([1]), None)


def test_array_may_be_read_only(tmp_path: Path) -> None:
    model = accelerated(TinyBert().write(tmp_path), torch.float32, varlen.by_group)
    ids = some_ids(FEW_LENGTHS)
    ids.flags.writeable = False
    assert model.forward(ids, ints(FEW_LENGTHS), None).shape == (4, 32)
