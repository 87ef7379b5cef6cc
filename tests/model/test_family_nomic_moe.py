"""NomicBERT with experts against a plain forward of the published description: no library has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_tensors
from torch.nn.functional import gelu, layer_norm, linear, softmax

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import Tensors
from tests.support.embedding import card_of, embedder_of
from tests.support.families.nomic import WITH_EXPERTS, TinyNomicMoe
from tests.support.families.plain import angles_of, ids_of, pooled, turned
from tests.support.family_checks import TEXTS, alter_weights, check_family


def published_forward(folder: Path, text: str, *, renormalised: bool = False) -> torch.Tensor:
    """Token by token, expert by expert: one text to its last hidden state (tokens, hidden)."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    w, ids = load_tensors(folder / "model.safetensors"), ids_of(folder, text)
    heads, inner, eps = config["n_head"], config["n_inner"], config["layer_norm_epsilon"]
    dim = config["n_embd"] // heads
    frequencies = config["rotary_emb_base"] ** (-torch.arange(0, dim, 2) / dim)
    angles = angles_of(len(ids), frequencies)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def mixture(x: torch.Tensor, name: str) -> torch.Tensor:  # (hidden,), one token
        weights, chosen = softmax(w[f"{name}.router.layer.weight"] @ x, 0).topk(config["moe_top_k"])
        weights = weights / weights.sum() if renormalised else weights
        found = torch.zeros_like(x)
        for weight, expert in zip(weights, chosen.tolist(), strict=True):
            mine = slice(expert * inner, (expert + 1) * inner)
            found += weight * gelu(w[f"{name}.experts.mlp.w1"][mine] @ x) @ w[f"{name}.experts.mlp.w2"][mine]
        return found + w[f"{name}.experts.bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "emb_ln")
    for number in range(config["n_layer"]):
        layer = f"encoder.layers.{number}"
        q, k, v = dense(x, f"{layer}.attn.Wqkv").view(len(ids), 3, heads, dim).permute(1, 2, 0, 3)
        mixed = (softmax(turned(q, angles) @ turned(k, angles).mT / dim**0.5, -1) @ v).transpose(0, 1).flatten(1)
        x = norm(x + dense(mixed, f"{layer}.attn.out_proj"), f"{layer}.norm1")
        if number % config["moe_every_n_layers"] == 1:
            x = norm(x + torch.stack([mixture(token, f"{layer}.mlp") for token in x]), f"{layer}.norm2")
        else:
            x = norm(x + dense(gelu(dense(x, f"{layer}.mlp.fc1")), f"{layer}.mlp.fc2"), f"{layer}.norm2")
    return x


def published_vectors(folder: Path, *, renormalised: bool = False) -> Rows:
    """(texts, hidden), mean and of length one."""
    return pooled([published_forward(folder, text, renormalised=renormalised) for text in TEXTS], TinyNomicMoe())


@pytest.mark.parametrize("tiny", WITH_EXPERTS.values(), ids=WITH_EXPERTS.keys())
def test_vectors_equal_the_published_description(tiny: TinyNomicMoe, tmp_path: Path) -> None:
    check_family(embedder_of(tiny.write(tmp_path)), published_vectors(tmp_path))


def test_weights_of_the_chosen_experts_do_not_add_up_to_one(tmp_path: Path) -> None:
    """Guards: probabilities made to add up over the chosen, as most mixtures do."""
    folder = TinyNomicMoe().write(tmp_path)
    assert np.abs(published_vectors(folder, renormalised=True) - published_vectors(folder)).max() > 1e-2


@pytest.mark.parametrize("part", ["experts.mlp.w1", "experts.mlp.w2", "router.layer.weight"])
def test_every_expert_matters(part: str, tmp_path: Path) -> None:
    """Guards: experts mixed up, which the shapes do not show."""
    folder = TinyNomicMoe().write(tmp_path)
    expected = embedder_of(folder).embed(TEXTS)

    def turn(tensors: Tensors) -> None:
        name = f"encoder.layers.1.mlp.{part}"
        tensors[name] = np.concatenate(np.split(tensors[name], 8)[::-1])

    alter_weights(folder, turn)
    embedder = embedder_of(folder)
    assert np.abs(embedder.embed(TEXTS) - expected).max() > 1e-2
    check_family(embedder, published_vectors(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prenorm": True}, "prenorm is 'True'"),
        ({"activation_function": "swiglu"}, "activation_function is 'swiglu'"),
        ({"expert_choice_router": True}, "expert_choice_router is 'True'"),
        ({"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights is 'True'"),
        ({"num_shared_experts": 1}, "num_shared_experts is '1'"),
        ({"qkv_proj_bias": False}, "qkv_proj_bias is 'False'"),
    ],
)
def test_option_that_is_not_computed_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        embedder_of(TinyNomicMoe(config=config).write(tmp_path))


@pytest.mark.parametrize("config", [{"num_experts": None}, {"moe_top_k": 9}, {"moe_top_k": 0}, {"num_experts": 4}])
def test_experts_that_the_config_tells_wrong_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"num_experts|moe_top_k|experts"):
        embedder_of(TinyNomicMoe(config=config).write(tmp_path))


def test_heads_that_do_not_divide_the_dimensions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"hidden size 32 .* 3 heads"):
        embedder_of(TinyNomicMoe(config={"n_head": 3}).write(tmp_path))


def test_mixture_in_other_layers_than_the_config_tells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="fc1"):
        embedder_of(TinyNomicMoe(config={"moe_every_n_layers": 3}).write(tmp_path))


def test_texts_end_where_training_did(tmp_path: Path) -> None:
    tiny = replace(TinyNomicMoe(), positions=8192, sentence_config={"max_seq_length": 8192})
    assert card_of(tiny.write(tmp_path)).max_tokens == 2048
