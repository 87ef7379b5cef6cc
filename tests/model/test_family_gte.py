"""GTE's own architecture against a plain forward of the published description, and against sentence-transformers."""

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
from embeddaemon.workers.engines.torch_engine.families import gte
from tests.support.checkpoints import Tensors
from tests.support.embedding import card_of, embedder_of
from tests.support.families.gte import PUBLISHED, TinyGte
from tests.support.families.plain import angles_of, ids_of, pooled, turned
from tests.support.family_checks import TEXTS, Written, alter_weights, check_family, exchange_halves, reference


@pytest.fixture(scope="module", params=PUBLISHED)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written[TinyGte]:
    return Written(PUBLISHED[request.param], tmp_path_factory.mktemp("written"))


def published_forward(folder: Path, text: str) -> torch.Tensor:
    """The description of the published code word for word: one text to its last hidden state (tokens, hidden)."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    weights = {n.removeprefix("new."): t.float() for n, t in load_tensors(folder / "model.safetensors").items()}
    ids, heads, scaling = ids_of(folder, text), config["num_attention_heads"], config["rope_scaling"] or {}
    dim, s = config["hidden_size"] // heads, scaling.get("factor", 1.0)
    frequencies = (config["rope_theta"] * s) ** (-torch.arange(0, dim, 2) / dim) / s ** (2 / dim)
    angles = angles_of(len(ids), frequencies)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.token_type_embeddings.weight"][0] if config["type_vocab_size"] else x
    x = norm(x, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{number}." for number in range(config["num_hidden_layers"])):
        of = {name.removeprefix(layer): values for name, values in weights.items() if name.startswith(layer)}
        qkv = linear(x, of["attention.qkv_proj.weight"], of["attention.qkv_proj.bias"])
        q, k, v = qkv.view(len(ids), 3, heads, dim).permute(1, 2, 0, 3)
        mixed = (softmax(turned(q, angles) @ turned(k, angles).mT / dim**0.5, -1) @ v).transpose(0, 1).flatten(1)
        x = norm(x + linear(mixed, of["attention.o_proj.weight"], of["attention.o_proj.bias"]), f"{layer}attn_ln")
        up, gate = linear(x, of["mlp.up_gate_proj.weight"]).chunk(2, -1)
        gated = linear(gelu(gate) * up, of["mlp.down_proj.weight"], of["mlp.down_proj.bias"])
        x = norm(x + gated, f"{layer}mlp_ln")
    return x


def published_vectors(folder: Path, tiny: TinyGte) -> Rows:
    """(texts, hidden), pooled and normalised as the folder says."""
    return pooled([published_forward(folder, text) for text in TEXTS], tiny)


def test_vectors_equal_the_published_description(written: Written[TinyGte]) -> None:
    """Guards: ``ntk`` passed by, halves of the feed-forward part swapped, the row of the token type left out."""
    check_family(written.embedder, published_vectors(written.folder, written.tiny))


def test_vectors_equal_the_library_where_the_config_is_rewritten_for_it(
    written: Written[TinyGte], tmp_path: Path
) -> None:
    """The library knows no ``new`` and no ``ntk``: a copy of the folder says the same in its words."""
    tiny = written.tiny
    config = tiny._config()
    s, dim = (config["rope_scaling"] or {}).get("factor", 1.0), tiny.hidden // tiny.heads
    rope = {"rope_type": "linear", "rope_theta": tiny.theta * s, "factor": s ** (2 / dim)}
    del config["auto_map"], config["rope_scaling"], config["rope_theta"]
    theirs = tiny.write(tmp_path)
    rewritten = {**config, "model_type": "gte", "architectures": ["GteModel"], "rope_parameters": rope}
    (theirs / "config.json").write_text(json.dumps(rewritten))
    expected = reference(theirs, TEXTS)
    check_family(written.embedder, expected)
    check_family(embedder_of(theirs), expected)


def forget_token_types(tensors: Tensors) -> None:
    name = "new.embeddings.token_type_embeddings.weight"
    tensors[name] = np.zeros_like(tensors[name])


TRAPPED = TinyGte(prefix="new.")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Vectors of ``TRAPPED`` as it is."""
    return published_vectors(TRAPPED.write(tmp_path_factory.mktemp("right")), TRAPPED)


@pytest.mark.parametrize("change", ["ntk", "halves", "token type", "theta"])
def test_trap_would_be_noticed(change: str, right: Rows, tmp_path: Path) -> None:
    """What the three traps do to the vectors is far above the tolerance of the tests above."""
    others = {"ntk": replace(TRAPPED, scaling=None), "theta": replace(TRAPPED, theta=10000.0)}
    folder = others.get(change, TRAPPED).write(tmp_path)
    if change == "halves":
        exchange_halves(folder, "up_gate")
    if change == "token type":
        alter_weights(folder, forget_token_types)
    assert np.abs(published_vectors(folder, TRAPPED) - right).max() > 1e-2


@pytest.mark.parametrize(("heads", "factor"), [(4, 2.0), (2, 8.0), (1, 3.5)])
def test_angles_are_those_of_the_published_formula(heads: int, factor: float, tmp_path: Path) -> None:
    """``ntk`` of factor s over theta b: (b s)^(-2i/d) / s^(2/d), at all lengths."""
    tiny = TinyGte(heads=heads, theta=20000.0, scaling={"type": "ntk", "factor": factor, "mixed_b": None})
    card = card_of(tiny.write(tmp_path))
    module: Any = gte.family("gte").build(tiny._config(), card, torch.float32)
    dim = 32 // heads
    expected = [(20000.0 * factor) ** (-2 * i / dim) / factor ** (2 / dim) for i in range(dim // 2)]
    np.testing.assert_allclose(module.rotary_emb.inv_freq.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"logn_attention_scale": True}, "logn_attention_scale is 'True'"),
        ({"logn_attention_clip1": True}, "logn_attention_clip1 is 'True'"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type is 'rms_norm'"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.type is 'dynamic'"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}, "rope_scaling.mixed_b is '0.6'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type is 'yarn'"),
    ],
)
def test_option_that_is_not_computed_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        embedder_of(TinyGte(config=config).write(tmp_path))


@pytest.mark.parametrize(
    "config", [{"rope_theta": None}, {"rope_theta": "many"}, {"rope_scaling": [2]}, {"rope_scaling": {"type": "ntk"}}]
)
def test_angles_that_the_config_does_not_tell_are_not_assumed(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"rope|factor"):
        embedder_of(TinyGte(config=config).write(tmp_path))
