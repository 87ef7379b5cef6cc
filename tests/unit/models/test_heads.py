"""Dense layers and dimensions: what a folder's heads make of a card, and what of them is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import ConfigError, CorruptModel, EmbedDaemonError, UnknownDimensions, UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.offers import check_dimensions
from embeddaemon.models.order import LoadOrder, order_from_map
from embeddaemon.models.spec import ModelSpec, Pooling
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import Embed
from tests.support.checkpoints import TinyBert, TinyDense, save_weights, write_json

STELLA_SIZES = (256, 768, 2048, 4096, 6144, 8192)


def card(folder: Path, **spec: Any) -> ModelCard:
    return read_card(ModelSpec(name="tiny", **{"source": f"path:{folder}", **spec}), folder)


def stella(folder: Path) -> Path:
    """Stella's layout, with a small body."""
    return TinyBert(dense=(TinyDense(size=1024, sized=True),), other_sizes=STELLA_SIZES, normalize=False).write(folder)


def test_folders_beside_the_default_head_are_further_dimensions(tmp_path: Path) -> None:
    read = card(stella(tmp_path))
    assert (read.dim, read.pooled_dim, read.normalize) == (1024, 32, False)
    assert read.dimensions == (8192, 6144, 4096, 2048, 1024, 768, 256)
    assert [head.dim for head in read.heads] == [1024, 8192, 6144, 4096, 2048, 768, 256]
    assert read.heads[0].layers[0].file == "2_Dense_1024/model.safetensors"
    assert read.head_parameters == sum(33 * dim for dim in read.dimensions)
    with pytest.raises(UnknownDimensions, match="8192, 6144, 4096, 2048, 1024, 768, 256") as caught:
        check_dimensions(Embed(id=1, dimensions=512), read)
    assert caught.value.details["offered"] == list(read.dimensions)
    for dim in read.dimensions:
        check_dimensions(Embed(id=1, dimensions=dim), read)
        assert read.whole_dim(dim) == dim


def test_card_with_heads_survives_its_travel(tmp_path: Path) -> None:
    read = card(stella(tmp_path))
    order = LoadOrder(card=read, device="cpu", precision="auto", token_budget=8, limits=Limits())
    values = order.as_map()
    for key in ("dimensions", "weights_files", "notes"):  # as msgpack hands them over
        values["card"][key] = list(values["card"][key])
    values["card"]["files"]["names"] = list(values["card"]["files"]["names"])
    assert order_from_map(values) == order


def test_only_complete_folders_of_the_same_name_and_input_are_alternatives(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=64, sized=True),), other_sizes=(16,)).write(tmp_path)
    TinyDense(size=24).write(folder / "2_Dense_24", takes=48, seed=0)  # of another body
    TinyDense(size=20).write(folder / "2_Dense_40", takes=32, seed=0)  # called after another size
    TinyDense(size=80).write(folder / "3_Dense_80", takes=32, seed=0)
    TinyDense(size=96).write(folder / "2_Dense_old", takes=32, seed=0)
    write_json(folder / "2_Dense_128" / "config.json", {})
    (folder / "2_Dense_128" / "pytorch_model.bin").write_bytes(b"x")
    assert card(folder).dimensions == (64, 16)


def test_dense_layers_in_a_row_are_one_head_without_alternatives(tmp_path: Path) -> None:
    layers = (TinyDense(size=96, bias=False), TinyDense(size=24, activation="torch.nn.modules.activation.Tanh"))
    folder = TinyBert(dense=layers).write(tmp_path)
    TinyDense(size=8).write(folder / "2_Dense_8", takes=32, seed=0)
    (head,) = card(folder).heads
    assert [(layer.in_features, layer.out_features, layer.has_bias) for layer in head.layers] == [
        (32, 96, False),
        (96, 24, True),
    ]
    assert [layer.activation for layer in head.layers] == ["Identity", "Tanh"]
    assert (card(folder).dim, card(folder).dimensions, card(folder).normalize) == (24, (24,), True)


def test_activation_that_is_not_named_is_that_of_the_reference(tmp_path: Path) -> None:
    (head,) = card(TinyBert(dense=(TinyDense(size=8, activation=None),)).write(tmp_path)).heads
    assert head.layers[0].activation == "Tanh"


@pytest.mark.parametrize(
    "path", ["torch.nn.GELU", "torch.nn.modules.activation.GELU", "torch.nn.modules.linear.Identity", "torch.nn.SiLU"]
)
def test_activation_is_the_last_part_of_its_path(path: str, tmp_path: Path) -> None:
    (head,) = card(TinyBert(dense=(TinyDense(size=8, activation=path),)).write(tmp_path)).heads
    assert head.layers[0].activation == path.rpartition(".")[2]


@pytest.mark.parametrize(
    ("config", "error", "named"),
    [
        ({"activation_function": "my.own.Swish"}, UnsupportedModel, "my.own.Swish"),
        ({"activation_function": "torch.nn.modules.activation.Swosh"}, UnsupportedModel, "Swosh"),
        ({"activation_function": "torch.nn.modules.linear.Linear"}, UnsupportedModel, "Linear"),
        ({"activation_function": "torch.load"}, UnsupportedModel, "torch.load"),
        ({"activation_function": None}, UnsupportedModel, "None"),
        ({"use_residual": True}, UnsupportedModel, "use_residual"),
        ({"module_input_name": "token_embeddings"}, UnsupportedModel, "token_embeddings"),
        ({"module_output_name": "other"}, UnsupportedModel, "other"),
        ({"out_features": 9}, CorruptModel, "linear.weight"),
        ({"in_features": 0}, CorruptModel, "in_features"),
        ({"in_features": 31}, CorruptModel, "linear.weight"),
        ({"bias": False}, CorruptModel, "linear.bias"),
    ],
)
def test_dense_layer_that_is_something_else_is_refused(
    config: dict[str, Any], error: type[EmbedDaemonError], named: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=named):
        card(TinyBert(dense=(TinyDense(size=8, config=config),)).write(tmp_path))


def test_usual_values_of_newer_folders_are_served(tmp_path: Path) -> None:
    names = {"module_input_name": "sentence_embedding", "module_output_name": None, "use_residual": False}
    assert card(TinyBert(dense=(TinyDense(size=8, config=names),), new_layout=True).write(tmp_path)).dim == 8


@pytest.mark.parametrize(
    "tensors",
    [
        {"linear.weight": np.zeros((8, 32), np.int64), "linear.bias": np.zeros(8, np.int64)},
        {"linear.weight": np.zeros((8, 32), np.float32)},
        {"linear.weight": np.zeros((8, 32), np.float32), "linear.bias": np.zeros(8, np.float32), "more": np.zeros(1)},
        {"linear.weight": np.zeros((32, 8), np.float32), "linear.bias": np.zeros(8, np.float32)},
    ],
    ids=["whole numbers", "no bias", "left over", "turned"],
)
def test_weights_that_are_no_dense_layers_are_corrupt(tensors: dict[str, Any], tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=8),)).write(tmp_path)
    save_weights(folder / "2_Dense" / "model.safetensors", tensors)
    with pytest.raises(CorruptModel, match="2_Dense"):
        card(folder)


def test_head_that_is_only_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=8),)).write(tmp_path)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="pickle"):
        card(folder)


def test_damaged_alternative_is_corrupt(tmp_path: Path) -> None:
    folder = stella(tmp_path)
    path = folder / "2_Dense_256" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptModel, match="2_Dense_256"):
        card(folder)


def test_layers_that_do_not_fit_each_other_are_corrupt(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=8), TinyDense(size=4))).write(tmp_path)
    TinyDense(size=4).write(folder / "3_Dense", takes=9, seed=0)
    with pytest.raises(CorruptModel, match="takes 9 dimensions"):
        card(folder)


def test_head_that_does_not_fit_the_pooling_is_refused_and_says_whose_fault_it_is(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=8),)).write(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"models\.tiny\.pooling .* gives 64 dimensions, .* takes 32"):
        card(folder, pooling=(Pooling.CLS, Pooling.MEAN))
    TinyDense(size=8).write(folder / "2_Dense", takes=16, seed=0)
    with pytest.raises(CorruptModel, match="takes 16 dimensions, the pooling gives 32"):
        card(folder)


def test_dense_before_or_after_its_place_is_refused(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=8),)).write(tmp_path)
    for kinds in (["Transformer", "Pooling", "Normalize", "Dense"], ["Transformer", "Dense", "Pooling"]):
        modules = [{"idx": place, "path": "2_Dense", "type": f"x.{kind}"} for place, kind in enumerate(kinds)]
        write_json(folder / "modules.json", modules)
        with pytest.raises(UnsupportedModel, match=r"order|late interaction"):
            card(folder)


def test_folder_that_cuts_its_vectors_has_fewer_dimensions_by_itself(tmp_path: Path) -> None:
    read = card(TinyBert(truncate_dim=16).write(tmp_path))
    assert (read.dim, read.pooled_dim, read.dimensions) == (16, 32, (32, 16))
    assert read.whole_dim(16) == 32
    longer = card(TinyBert(truncate_dim=64).write(tmp_path / "longer"))
    assert (longer.dim, longer.dimensions) == (32, (32,))


def test_dimensions_of_a_spec_are_cut_from_the_default_head(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=64, sized=True),), other_sizes=(16,)).write(tmp_path)
    read = card(folder, dimensions=(40,))
    assert (read.dimensions, read.whole_dim(40), read.whole_dim(16)) == ((64, 40, 16), 64, 16)
    with pytest.raises(ConfigError, match="1 to 64"):
        card(folder, dimensions=(65,))


def test_size_that_is_a_heads_and_a_cut_as_well_is_refused(tmp_path: Path) -> None:
    dense = (TinyDense(size=64, sized=True),)
    with pytest.raises(UnsupportedModel, match="16 dimensions are those of a head"):
        card(TinyBert(dense=dense, other_sizes=(16,), truncate_dim=16).write(tmp_path))


def test_changed_head_is_another_revision_and_other_heads_are_other_memory(tmp_path: Path) -> None:
    folder = TinyBert(dense=(TinyDense(size=64, sized=True),)).write(tmp_path)
    before = card(folder)
    TinyDense(size=16).write(folder / "2_Dense_16", takes=32, seed=0)
    after = card(folder)
    assert before.revision != after.revision
    assert before.weights_digest != after.weights_digest
