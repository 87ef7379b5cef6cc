"""Dense heads, fewer dimensions and precisions on tiny checkpoints, against sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embeddaemon.errors import CorruptModel
from embeddaemon.models.folder import read_card
from embeddaemon.models.heads import ACTIVATIONS
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.messages import Embed
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.engines.torch_engine.heads import Heads
from embeddaemon.workers.output import Outputs
from embeddaemon.workers.ranges import pooled_prose
from tests.support.checkpoints import TinyBert, TinyDense, write_json
from tests.support.embedding import Embedder, card_of, embedder_of
from tests.support.families.gte import PUBLISHED
from tests.support.family_checks import TEXTS, TOLERANCE, check_family, reference

SIZES = (16, 48, 128, 256, 384, 512)
S2P = "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "
PROMPTS = {"s2p_query": S2P, "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: "}
TANH = "torch.nn.modules.activation.Tanh"


def stella(folder: Path) -> Path:
    """Stella's layout with a BERT for a body: seven heads, no Normalize."""
    dense = (TinyDense(size=64, sized=True),)
    return TinyBert(dense=dense, other_sizes=SIZES, normalize=False, prompts=PROMPTS, positions=128).write(folder)


def with_default(folder: Path, size: int) -> Path:
    """The same folder, whose default is another of its heads: so the reference reads that."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["path"] = f"2_Dense_{size}"
    write_json(folder / "modules.json", modules)
    return folder


def pooled(embedder: Embedder, texts: tuple[str, ...] = TEXTS, task: str | None = None) -> Rows:
    """What the body gives, whatever is asked for."""
    (prompt,) = [embedder.card.prompts[task] if task else ""]
    rows = []
    for text in texts:
        (encoded,) = embedder.model.tokenize([text], prompt=prompt, max_tokens=embedder.card.max_tokens)
        prompts = None if embedder.card.include_prompt else np.array([encoded.prompt_tokens], dtype=np.int32)
        lengths = np.array([len(encoded.ids)], dtype=np.int32)
        rows.append(embedder.model.forward(np.asarray(encoded.ids, dtype=np.int32), lengths, prompts))
    return np.concatenate(rows)


def answer(embedder: Embedder, task: str | None = None, **options: Any) -> Rows:
    """As a worker answers."""

    def prose() -> Rows:
        return pooled_prose(embedder.model, embedder.card, lambda: None)

    numbers: Rows = (
        Outputs(embedder.model, embedder.card)
        .of(pooled(embedder, task=task), Embed(id=1, task=task, **options), prose)
        .numbers
    )
    return numbers


@pytest.fixture(scope="module")
def stella_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stella(tmp_path_factory.mktemp("stella"))


@pytest.mark.parametrize("task", [None, *PROMPTS])
@pytest.mark.parametrize("size", [64, *SIZES])
def test_every_head_of_a_stella_equals_the_reference(
    size: int, task: str | None, stella_folder: Path, tmp_path: Path
) -> None:
    embedder = embedder_of(stella_folder)
    ours = answer(embedder, task=task, dimensions=size, normalize=False)
    options = {"prompt_name": task} if task else {}
    expected = reference(with_default(stella(tmp_path), size), TEXTS, **options)
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)
    assert not np.allclose(np.linalg.norm(ours, axis=1), 1, atol=0.01)  # the reference's are not of unit length either
    unit = answer(embedder, task=task, dimensions=size)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=TOLERANCE)


def test_head_of_another_dimension_is_no_part_of_a_longer_vector(stella_folder: Path) -> None:
    """Guards Stella: its dimensions are heads, and a slice of a longer vector is something else."""
    embedder = embedder_of(stella_folder)
    short, long = (answer(embedder, dimensions=size, normalize=False) for size in (16, 48))
    assert np.abs(short - long[:, :16]).max() > 0.1


@pytest.mark.parametrize("name", ["stella_en_400M_v5"])
def test_published_stella_body_with_its_heads_gives_every_dimension(name: str, tmp_path: Path) -> None:
    tiny = PUBLISHED[name]
    tiny.dense, tiny.other_sizes = (TinyDense(size=64, sized=True),), SIZES
    try:
        folder = tiny.write(tmp_path)
    finally:
        tiny.dense, tiny.other_sizes = (), ()
    embedder = embedder_of(folder)
    rows = pooled(embedder)
    for size in (64, *SIZES):
        layer = torch.nn.Linear(tiny.hidden, size)
        from safetensors.torch import load_file

        weights = load_file(folder / f"2_Dense_{size}" / "model.safetensors")
        layer.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
        expected = layer(torch.from_numpy(rows)).detach().numpy()
        np.testing.assert_allclose(embedder.model.project(rows, size), expected, atol=1e-5)


@pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(TinyBert(dense=(TinyDense(size=24, activation=TANH),)), id="tanh"),
        pytest.param(TinyBert(dense=(TinyDense(size=24, activation=None),)), id="nothing said"),
        pytest.param(TinyBert(dense=(TinyDense(size=96, bias=False), TinyDense(size=32, bias=False))), id="gemma"),
        pytest.param(TinyBert(dense=(TinyDense(size=40), TinyDense(size=9, activation=TANH)), normalize=False), id="2"),
        pytest.param(TinyBert(dense=(TinyDense(size=24),), new_layout=True), id="new layout"),
        pytest.param(
            TinyBert(dense=(TinyDense(size=24),), pooling={"pooling_mode": ["cls", "weightedmean"]}), id="two poolings"
        ),
        pytest.param(
            TinyBert(
                dense=(TinyDense(size=24),),
                pooling={"pooling_mode": ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]},
            ),
            id="all poolings",
        ),
    ],
)
def test_dense_layers_behind_the_pooling_equal_the_reference(tiny: TinyBert, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path)
    check_family(embedder_of(folder), reference(folder, TEXTS))


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_prompt_left_out_of_the_pooling_goes_through_the_head_as_in_the_reference(mode: str, tmp_path: Path) -> None:
    tiny = TinyBert(
        dense=(TinyDense(size=24, activation=TANH),),
        pooling={"pooling_mode": [mode, "mean"], "include_prompt": False},
        prompts={"query": "search query: "},
    )
    folder = tiny.write(tmp_path)
    ours = embedder_of(folder).embed(TEXTS, task="query")
    np.testing.assert_allclose(ours, reference(folder, TEXTS, prompt_name="query"), atol=TOLERANCE)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_one_of_torch(name: str, tmp_path: Path) -> None:
    dense = (TinyDense(size=24, activation=f"torch.nn.{name}"),)
    card = card_of(TinyBert(dense=dense).write(tmp_path))
    rows = np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32)
    plain = Heads(card_of(TinyBert(dense=(TinyDense(size=24),)).write(tmp_path / "plain")), torch.device("cpu"))
    linear = torch.from_numpy(plain.project(rows, 24))
    expected = getattr(torch.nn, name)()(linear).numpy()
    np.testing.assert_allclose(Heads(card, torch.device("cpu")).project(rows, 24), expected, atol=1e-6)


def test_large_request_is_projected_in_parts_without_a_trace(stella_folder: Path) -> None:
    heads = Heads(card_of(stella_folder), torch.device("cpu"))
    rows = np.random.default_rng(3).standard_normal((600, 32)).astype(np.float32)
    alone = np.concatenate([heads.project(rows[place : place + 1], 128) for place in (0, 255, 256, 511, 512, 599)])
    np.testing.assert_allclose(heads.project(rows, 128)[[0, 255, 256, 511, 512, 599]], alone, atol=1e-5)
    assert heads.project(rows[:0], 128).shape == (0, 128)


def test_heads_are_float32_whatever_the_body_is_computed_in(stella_folder: Path) -> None:
    embedder = embedder_of(stella_folder, "bfloat16")
    heads = Heads(embedder.card, torch.device("cpu"))
    assert {tensor.dtype for tensor in heads.tensors} == {torch.float32}
    assert sum(tensor.numel() for tensor in heads.tensors) == embedder.card.head_parameters
    assert embedder.model.facts.weights_bytes >= 4 * embedder.card.head_parameters


def test_head_that_was_exchanged_after_its_card_was_read_is_corrupt(tmp_path: Path) -> None:
    folder = stella(tmp_path)
    card = card_of(folder)
    TinyDense(size=16, bias=False).write(folder / "2_Dense_16", takes=32, seed=0)
    with pytest.raises(CorruptModel, match="any more"):
        Heads(card, torch.device("cpu"))


@pytest.mark.parametrize("normalizes", [True, False], ids=["its folder normalises", "its folder does not"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked to normalise", "not asked"])
def test_folder_that_cuts_its_vectors_equals_the_reference(normalizes: bool, asked: bool, tmp_path: Path) -> None:
    """Guards the order: the model's own normalisation comes before the cut, the one that is asked for after it."""
    dense = (TinyDense(size=24),)
    folder = TinyBert(dense=dense, truncate_dim=10, normalize=normalizes).write(tmp_path)
    ours = answer(embedder_of(folder), normalize=asked)
    np.testing.assert_allclose(ours, reference(folder, TEXTS, normalize_embeddings=asked), atol=TOLERANCE)
    whole = answer(embedder_of(folder), normalize=asked, dimensions=24)
    expected = reference(folder, TEXTS, normalize_embeddings=asked, truncate_dim=24)
    np.testing.assert_allclose(whole, expected, atol=TOLERANCE)


@pytest.mark.parametrize("normalizes", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_fewer_dimensions_equal_the_reference(normalizes: bool, asked: bool, tmp_path: Path) -> None:
    folder = TinyBert(normalize=normalizes).write(tmp_path)
    card = read_card(ModelSpec(name="tiny", source=f"path:{folder}", dimensions=(12,)), folder)
    ours = answer(Embedder(card), dimensions=12, normalize=asked)
    expected = reference(folder, TEXTS, normalize_embeddings=asked, truncate_dim=12)
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_equal_the_reference(precision: str, stella_folder: Path) -> None:
    ours = answer(embedder_of(stella_folder), precision=precision, normalize=False)
    assert ours.dtype == (np.int8 if precision == "binary" else np.uint8)
    np.testing.assert_array_equal(ours, reference(stella_folder, TEXTS, precision=precision))


def test_8_bits_stay_near_the_vectors_they_stand_for(stella_folder: Path) -> None:
    from embeddaemon.protocol.numbers import read
    from embeddaemon.protocol.precisions import PRECISIONS

    embedder = embedder_of(stella_folder)

    def prose() -> Rows:
        return pooled_prose(embedder.model, embedder.card, lambda: None)

    output = Outputs(embedder.model, embedder.card).of(pooled(embedder), Embed(id=1, precision="int8"), prose)
    back = read(output.numbers, PRECISIONS["int8"], output.dim, output.ranges)
    exact = answer(embedder)
    cosines = (back * exact).sum(axis=1) / np.linalg.norm(back, axis=1)
    assert cosines.min() > 0.999
