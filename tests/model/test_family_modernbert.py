"""ModernBERT against sentence-transformers with transformers' class, and against a plain forward of the description."""

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
from tests.support.embedding import embedder_of
from tests.support.families.modernbert import PUBLISHED, TinyModernBert
from tests.support.families.plain import angles_of, ids_of, pooled, turned
from tests.support.family_checks import TEXTS, check_family, exchange_halves


def published_forward(folder: Path, text: str) -> torch.Tensor:
    """The published description: one text to its last hidden state (tokens, hidden)."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    weights = {n.removeprefix("model."): t.float() for n, t in load_tensors(folder / "model.safetensors").items()}
    ids, heads = ids_of(folder, text), config["num_attention_heads"]
    dim, places = config["hidden_size"] // heads, torch.arange(len(ids))
    thetas = config["global_rope_theta"], config["local_rope_theta"] or config["global_rope_theta"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], None, config["norm_eps"])

    x = norm(weights["embeddings.tok_embeddings.weight"][ids], "embeddings.norm")
    for number in range(config["num_hidden_layers"]):
        layer, is_near = f"layers.{number}", number % config["global_attn_every_n_layers"] != 0
        angles = angles_of(len(ids), thetas[is_near] ** (-torch.arange(0, dim, 2) / dim))
        qkv = linear(norm(x, f"{layer}.attn_norm") if number else x, weights[f"{layer}.attn.Wqkv.weight"])
        q, k, v = qkv.view(len(ids), 3, heads, dim).permute(1, 2, 0, 3)
        scores = turned(q, angles) @ turned(k, angles).mT / dim**0.5
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
    return pooled([published_forward(folder, text) for text in TEXTS], tiny)


@pytest.mark.parametrize("tiny", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_vectors_equal_the_published_description(tiny: TinyModernBert, tmp_path: Path) -> None:
    """Guards: the window left out or counted twice, one theta for both kinds of layers, halves swapped."""
    check_family(embedder_of(tiny.write(tmp_path)), published_vectors(tmp_path, tiny))


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


TRAPPED = TinyModernBert(prefix="model.")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Vectors of ``TRAPPED`` as it is."""
    return published_vectors(TRAPPED.write(tmp_path_factory.mktemp("right")), TRAPPED)


@pytest.mark.parametrize("change", [*CHANGES, "halves"])
def test_trap_would_be_noticed(change: str, right: Rows, tmp_path: Path) -> None:
    """What the traps do to the vectors is far above the tolerance of the tests above."""
    folder = replace(TRAPPED, **CHANGES.get(change, {})).write(tmp_path)
    if change == "halves":
        exchange_halves(folder, "mlp.Wi.weight")
    assert np.abs(published_vectors(folder, TRAPPED) - right).max() > 1e-2


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
