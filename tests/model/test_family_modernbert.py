"""ModernBERT against sentence-transformers with transformers' class, and against a plain forward of the description."""

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
from tests.support.embedding import cosines, embedder_of
from tests.support.families.modernbert import PUBLISHED, TinyModernBert
from tests.support.family_checks import TEXTS, check_family, reference

each = pytest.mark.parametrize("name", PUBLISHED)


def published_forward(folder: Path, text: str) -> torch.Tensor:
    """The published description: one text to its last hidden state (tokens, hidden)."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    weights = {n.removeprefix("model."): t.float() for n, t in load_tensors(folder / "model.safetensors").items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids, heads = tokenizer.encode(text).ids, config["num_attention_heads"]
    dim, places = config["hidden_size"] // heads, torch.arange(len(ids))
    thetas = config["global_rope_theta"], config["local_rope_theta"] or config["global_rope_theta"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], None, config["norm_eps"])

    x = norm(weights["embeddings.tok_embeddings.weight"][ids], "embeddings.norm")
    for number in range(config["num_hidden_layers"]):
        layer, is_near = f"layers.{number}", number % config["global_attn_every_n_layers"] != 0
        angles = torch.outer(places, thetas[is_near] ** (-torch.arange(0, dim, 2) / dim)).repeat(1, 2)

        def turned(x: torch.Tensor, angles: torch.Tensor = angles) -> torch.Tensor:  # (heads, tokens, dim)
            left, right = x.chunk(2, -1)
            return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

        qkv = linear(norm(x, f"{layer}.attn_norm") if number else x, weights[f"{layer}.attn.Wqkv.weight"])
        q, k, v = qkv.view(len(ids), 3, heads, dim).permute(1, 2, 0, 3)
        scores = turned(q) @ turned(k).mT / dim**0.5
        if is_near:
            far = (places - places[:, None]).abs() > config["local_attention"] // 2
            scores = scores.masked_fill(far, float("-inf"))
        mixed = (softmax(scores, -1) @ v).transpose(0, 1).flatten(1)
        x = x + linear(mixed, weights[f"{layer}.attn.Wo.weight"])
        active, gate = linear(norm(x, f"{layer}.mlp_norm"), weights[f"{layer}.mlp.Wi.weight"]).chunk(2, -1)
        x = x + linear(gelu(active) * gate, weights[f"{layer}.mlp.Wo.weight"])
    return norm(x, "final_norm")


def published_vectors(folder: Path, tiny: TinyModernBert) -> Rows:
    """(texts, hidden), pooled and normalised as the folder says."""
    states = [published_forward(folder, text) for text in TEXTS]
    is_cls = "pooling_mode_cls_token" in (tiny.pooling or {})
    rows = torch.stack([state[0] if is_cls else state.mean(0) for state in states])
    vectors: Rows = (normalize(rows) if tiny.normalize else rows).numpy()
    return vectors


@each
def test_vectors_equal_the_published_description(name: str, tmp_path: Path) -> None:
    """Guards: the window left out or counted twice, one theta for both kinds of layers, halves swapped."""
    tiny = PUBLISHED[name]
    folder = tiny.write(tmp_path)
    embedder = embedder_of(folder)
    assert embedder.model.facts.family == "modernbert"
    check_family(embedder, published_vectors(folder, tiny))


@pytest.mark.parametrize("name", [name for name, tiny in PUBLISHED.items() if tiny.local_theta])
def test_vectors_equal_the_library(name: str, tmp_path: Path) -> None:
    """The library as it is cannot read a ``local_rope_theta`` of null."""
    folder = PUBLISHED[name].write(tmp_path)
    check_family(embedder_of(folder), reference(folder, TEXTS))


def test_newer_config_is_the_same_model(tmp_path: Path) -> None:
    """As transformers 5 writes it: kinds of layers by name, and a rotation for each."""
    tiny = TinyModernBert(local_theta=5000.0)
    published = tiny.write(tmp_path / "published")
    config = tiny._config()
    kinds = ["sliding_attention" if number % 3 else "full_attention" for number in range(tiny.layers)]
    del config["global_attn_every_n_layers"], config["global_rope_theta"], config["local_rope_theta"]
    rotations = {
        "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    }
    newer = tiny.write(tmp_path / "newer")
    (newer / "config.json").write_text(json.dumps({**config, "layer_types": kinds, "rope_parameters": rotations}))
    check_family(embedder_of(newer), published_vectors(published, tiny))


CHANGES: dict[str, dict[str, Any]] = {
    "a window twice as wide": {"local": 12},
    "a window half as wide": {"local": 3},
    "no window": {"local": 200},
    "other layers see everything": {"every": 2},
    "the local theta": {"local_theta": 160000.0},
    "the global theta": {"global_theta": 10000.0},
}


@pytest.mark.parametrize("change", [*CHANGES, "halves"])
def test_trap_would_be_noticed(change: str, tmp_path: Path) -> None:
    """What the traps do to the vectors is far above the tolerance of the tests above."""
    tiny = TinyModernBert(prefix="model.")
    folder = tiny.write(tmp_path / "right")
    expected = published_vectors(folder, tiny)
    if change == "halves":
        tensors = load_file(folder / "model.safetensors")
        for name, values in tensors.items():
            if name.endswith("mlp.Wi.weight"):
                tensors[name] = np.concatenate(np.split(values, 2)[::-1])
        save_weights(folder / "model.safetensors", tensors)
        wrong = published_vectors(folder, tiny)
    else:
        wrong = published_vectors(replace(tiny, **CHANGES[change]).write(tmp_path / "wrong"), tiny)
    assert np.abs(wrong - expected).max() > 1e-2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"is_causal": True}, "is_causal is 'True'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is "),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "rope_theta": 1e4}}},
            "rope_type is 'dynamic'",
        ),
    ],
)
def test_option_that_is_not_computed_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        embedder_of(TinyModernBert(config=config).write(tmp_path))


@pytest.mark.parametrize(
    "config",
    [{"local_attention": 0}, {"global_attn_every_n_layers": "3"}, {"rope_parameters": {"rope_theta": 1e4}}],
)
def test_config_that_makes_no_model_is_corrupt(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"local_attention|global_attn|rope_theta"):
        embedder_of(TinyModernBert(config=config).write(tmp_path))


@each
def test_card_has_the_sizes_that_memory_follows_from(name: str, tmp_path: Path) -> None:
    tiny = PUBLISHED[name]
    embedder = embedder_of(tiny.write(tmp_path))
    card = embedder.card
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (tiny.heads, tiny.intermediate, True)
    assert (card.vocabulary, card.is_causal) == (tiny.words, False)
    assert embedder.model.facts.parameters == card.parameters


@each
def test_bfloat16_stays_near_float32(name: str, tmp_path: Path) -> None:
    folder = PUBLISHED[name].write(tmp_path)
    assert cosines(embedder_of(folder).embed(TEXTS), embedder_of(folder, "bfloat16").embed(TEXTS)).min() > 0.99


@pytest.mark.parametrize("change", ["missing", "left over", "first norm"])
def test_tensor_that_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    path = TinyModernBert(prefix="model.").write(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["model.layers.1.attn_norm.weight"]
    elif change == "left over":
        tensors["model.layers.7.attn.Wqkv.weight"] = tensors["model.layers.1.attn.Wqkv.weight"]
    else:
        tensors["model.layers.0.attn_norm.weight"] = tensors["model.layers.1.attn_norm.weight"]
    save_weights(path, tensors)
    with pytest.raises(CorruptModel, match=r"layers\.\d|last one number 7"):
        embedder_of(tmp_path)
