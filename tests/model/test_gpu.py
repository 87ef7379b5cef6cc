"""On a CUDA device: the vectors of the CPU, by the kernel that was meant, without waiting before the end.

``pytest -m gpu`` runs these alone. What the same path computes is tested without a device in test_accelerated.py.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from embeddaemon import Client
from embeddaemon.workers.engines import Ids, Rows
from embeddaemon.workers.engines.torch_engine import varlen
from embeddaemon.workers.engines.torch_engine.accelerated import AcceleratedModel
from tests.support.checkpoints import TinyBert
from tests.support.daemon import running_daemon
from tests.support.embedding import Embedder, bundled, card_of, cosines
from tests.support.sockets import short_folder
from tests.support.waiting import seconds

DEVICES = torch.cuda.device_count() if torch.cuda.is_available() else 0
IS_AMPERE = DEVICES > 0 and torch.cuda.get_device_capability(0)[0] >= 8

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not DEVICES, reason="torch sees no CUDA device here")]

needs_the_kernel = pytest.mark.skipif(not IS_AMPERE, reason="FlashAttention needs Ampere or later")

TEXTS = [
    "the red planet",
    "a",
    "What moon was known, and why?",
    "Water of the old river: small stars in the night sky, a new day!",
    "the cat and the dog " * 12,
    "sun light " * 5,
    "red blue green",
]
LENGTHS = [1, 2, 2, 3, 5, 8, 13, 13, 13, 21, 32]


def tiny(folder: Path, precision: str, device: str = "cuda:0") -> Embedder:
    card = card_of(TinyBert(pooling={"pooling_mode": ["mean", "max", "cls"]}, normalize=False).write(folder))
    return Embedder(card, precision, device)


def model_of(embedder: Embedder) -> AcceleratedModel:
    assert isinstance(embedder.model, AcceleratedModel)
    return embedder.model


def ints(values: list[int]) -> Ids:
    return np.array(values, dtype=np.int32)


def some_ids(lengths: list[int], seed: int = 7) -> Ids:
    return np.arange(sum(lengths), dtype=np.int32) * seed % 60


@needs_the_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [8, 32, 64, 128])
def test_kernel_is_right_and_taken(dtype: torch.dtype, head_dim: int) -> None:
    assert (
        varlen.choose(torch.device("cuda", 0), dtype, varlen.Heads(4, 2, head_dim), varlen.EVERY_WAY)
        is not varlen.by_group
    )


@needs_the_kernel
def test_kernel_is_not_taken_for_heads_that_it_does_not_serve() -> None:
    assert varlen.choose(torch.device("cuda", 0), torch.bfloat16, varlen.Heads(4, 4, 12)) is varlen.by_group


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999999), ("float16", 0.9999), ("bfloat16", 0.999)])
def test_tiny_model_gives_the_vectors_of_the_cpu(tmp_path: Path, precision: str, least: float) -> None:
    if precision == "bfloat16" and not IS_AMPERE:
        pytest.skip("bfloat16 needs Ampere or later")
    embedder = tiny(tmp_path, precision)
    found = embedder.embed(TEXTS)
    expected = Embedder(embedder.card).embed(TEXTS)
    assert cosines(found, expected).min() > least
    if precision == "float32":
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_minilm_in_precision_auto_stays_near_float32() -> None:
    exact = bundled("float32")
    found = Embedder(exact.card, "auto", "cuda:0", token_budget=8192).embed(TEXTS)
    assert cosines(found, exact.embed(TEXTS)).min() > 0.9995


def test_minilm_equals_sentence_transformers_on_the_same_device() -> None:
    card = bundled("float32").card
    theirs: Rows = SentenceTransformer(card.folder, device="cuda:0", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(Embedder(card, "float32", "cuda:0").embed(TEXTS), theirs, atol=1e-4)


def test_text_alone_equals_itself_among_others(tmp_path: Path) -> None:
    embedder = tiny(tmp_path, "auto")
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert cosines(embedder.embed(TEXTS), alone).min() > 0.9999


@pytest.mark.parametrize("lengths", [LENGTHS, [7, 7, 7]])
def test_nothing_waits_for_the_device_before_the_rows_are_wanted(tmp_path: Path, lengths: list[int]) -> None:
    model = model_of(tiny(tmp_path, "auto"))
    model.forward(some_ids(lengths), ints(lengths), None)  # what is made once is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        fetch = model._queue(some_ids(lengths), ints(lengths), None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert fetch().shape == (len(lengths), 96)


def test_many_micro_batches_under_way_do_not_meet(tmp_path: Path) -> None:
    """Memory of a copy that has not ended must not be used again."""
    model = model_of(tiny(tmp_path, "auto"))
    seeds = range(1, 60)
    expected = [model.forward(some_ids(LENGTHS, seed), ints(LENGTHS), None) for seed in seeds]
    under_way = [model._queue(some_ids(LENGTHS, seed), ints(LENGTHS), None) for seed in seeds]
    for fetch, rows in zip(under_way, expected, strict=True):
        np.testing.assert_array_equal(fetch(), rows)


def test_two_threads_in_the_forward_do_not_disturb_each_other(tmp_path: Path) -> None:
    model = model_of(tiny(tmp_path, "auto"))
    seeds = list(range(1, 60))
    expected = [model.forward(some_ids(LENGTHS, seed), ints(LENGTHS), None) for seed in seeds]
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda seed: model.forward(some_ids(LENGTHS, seed), ints(LENGTHS), None), seeds)
    for rows, alone in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, alone)


def test_another_thread_computes_on_the_model_s_device(tmp_path: Path) -> None:
    """A new thread's current device is the first one, wherever the model lies."""
    embedder = tiny(tmp_path, "float32", f"cuda:{DEVICES - 1}")
    expected, found = embedder.embed(TEXTS), []
    thread = threading.Thread(target=lambda: found.append(embedder.embed(TEXTS)))
    thread.start()
    thread.join(seconds(30))
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_memory_of_the_device_does_not_grow_with_requests(tmp_path: Path) -> None:
    embedder = tiny(tmp_path, "auto")
    embedder.embed(TEXTS)
    before = torch.cuda.memory_allocated(0)
    for _ in range(20):
        embedder.embed(TEXTS)
    assert torch.cuda.memory_allocated(0) == before


def test_daemon_serves_from_the_device(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    models = [{"name": "tiny", "source": f"path:{folder}", "device": "cuda:0", "precision": "float32"}]
    with short_folder() as where, running_daemon(where, models=models, engine="torch") as running:
        with Client(running.endpoint, timeout=seconds(120)) as client:
            found = np.stack([client.embed(text, model="tiny") for text in TEXTS])
            (model,) = client.models()
        assert not running.named("ed-template"), "a device's state does not survive a fork"
    assert (model.device, model.family) == ("cuda:0", "bert")
    np.testing.assert_allclose(found, Embedder(card_of(folder)).embed(TEXTS), atol=1e-4)
