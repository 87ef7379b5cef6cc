"""NomicBERT with experts against a plain forward of the published description: no library has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from tokenizers import Tokenizer
from torch.nn.functional import gelu, layer_norm, linear, normalize, softmax

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.workers.engines import Rows
from tests.support.checkpoints import save_weights
from tests.support.embedding import card_of, cosines, embedder_of
from tests.support.families.nomic import TinyNomicMoe
from tests.support.family_checks import TEXTS, check_family

TINY = {
    "as published": TinyNomicMoe(),
    "three of five": TinyNomicMoe(experts=5, chosen=3, layers=3, heads=2, hidden=48, intermediate=40, eps=1e-3),
}
each = pytest.mark.parametrize("name", TINY)


def published_forward(folder: Path, text: str, *, renormalised: bool = False) -> torch.Tensor:
    """Token by token, expert by expert: one text to its last hidden state (tokens, hidden)."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    w, ids = load_tensors(folder / "model.safetensors"), ids_of(folder, text)
    heads, inner, eps = config["n_head"], config["n_inner"], config["layer_norm_epsilon"]
    dim = config["n_embd"] // heads
    frequencies = config["rotary_emb_base"] ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.outer(torch.arange(len(ids)), frequencies).repeat(1, 2)  # (tokens, dim)

    def turned(x: torch.Tensor) -> torch.Tensor:  # (heads, tokens, dim)
        left, right = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

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
        mixed = (softmax(turned(q) @ turned(k).mT / dim**0.5, -1) @ v).transpose(0, 1).flatten(1)
        x = norm(x + dense(mixed, f"{layer}.attn.out_proj"), f"{layer}.norm1")
        if number % config["moe_every_n_layers"] == 1:
            x = norm(x + torch.stack([mixture(token, f"{layer}.mlp") for token in x]), f"{layer}.norm2")
        else:
            x = norm(x + dense(gelu(dense(x, f"{layer}.mlp.fc1")), f"{layer}.mlp.fc2"), f"{layer}.norm2")
    return x


def ids_of(folder: Path, text: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids: list[int] = tokenizer.encode(text).ids
    assert len(ids) <= 32, "longer than the folder allows"
    return ids


def published_vectors(folder: Path, *, renormalised: bool = False) -> Rows:
    """(texts, hidden), mean and of length one."""
    vectors: Rows = normalize(
        torch.stack([published_forward(folder, text, renormalised=renormalised).mean(0) for text in TEXTS])
    ).numpy()
    return vectors


@each
def test_vectors_equal_the_published_description(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == "nomic-moe"
    check_family(embedder, published_vectors(folder))


def test_weights_of_the_chosen_experts_do_not_add_up_to_one(tmp_path: Path) -> None:
    """Guards: probabilities made to add up over the chosen, as most mixtures do."""
    folder = TinyNomicMoe().write(tmp_path)
    assert np.abs(published_vectors(folder, renormalised=True) - published_vectors(folder)).max() > 1e-2


@pytest.mark.parametrize("part", ["experts.mlp.w1", "experts.mlp.w2", "router.layer.weight"])
def test_every_expert_matters(part: str, tmp_path: Path) -> None:
    """Guards: experts mixed up, which the shapes do not show."""
    folder = TinyNomicMoe().write(tmp_path)
    expected = embedder_of(folder).embed(TEXTS)
    tensors = load_file(folder / "model.safetensors")
    name = f"encoder.layers.1.mlp.{part}"
    tensors[name] = np.concatenate(np.split(tensors[name], 8)[::-1])
    save_weights(folder / "model.safetensors", tensors)
    assert np.abs(embedder_of(folder).embed(TEXTS) - expected).max() > 1e-2
    check_family(embedder_of(folder), published_vectors(folder))


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


@each
def test_card_has_the_sizes_that_memory_follows_from(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    embedder = embedder_of(tiny.write(tmp_path))
    card = embedder.card
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, False)
    assert (card.vocabulary, card.is_causal) == (tiny.words, False)
    assert embedder.model.facts.parameters == card.parameters


def test_texts_end_where_training_did(tmp_path: Path) -> None:
    tiny = replace(TinyNomicMoe(), positions=8192, sentence_config={"max_seq_length": 8192})
    assert card_of(tiny.write(tmp_path)).max_tokens == 2048


@each
def test_bfloat16_stays_near_float32(name: str, tmp_path: Path) -> None:
    folder = TINY[name].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
@pytest.mark.parametrize("part", ["attn.Wqkv.weight", "mlp.experts.mlp.w1", "mlp.experts.mlp.w2", "mlp.experts.bias"])
def test_tensor_that_does_not_fit_is_refused(part: str, change: str, tmp_path: Path) -> None:
    path = TinyNomicMoe().write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    name = f"encoder.layers.1.{part}"
    if change == "left over":
        tensors[f"encoder.layers.7.{part}"] = tensors[name]
    elif change == "of another shape":
        tensors[name] = tensors[name][1:].copy()
    else:
        del tensors[name]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match="layers"):
        embedder_of(tmp_path)
