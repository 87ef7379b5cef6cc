"""NomicBERT against sentence-transformers with transformers' class, the config rewritten for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embeddaemon.errors import ConfigError, CorruptModel, UnsupportedModel
from embeddaemon.models.folder import read_card
from embeddaemon.models.spec import ModelSpec
from embeddaemon.workers.engines import Rows
from embeddaemon.workers.engines.torch_engine.families import nomic
from tests.support.checkpoints import Tensors
from tests.support.embedding import card_of, embedder_of
from tests.support.families.nomic import PUBLISHED, TinyNomic
from tests.support.family_checks import TEXTS, alter_weights, check_family, reference


def library_vectors(tiny: TinyNomic, folder: Path) -> Rows:
    """What the library gives for the same weights, where the config has the keys that its class reads."""
    replace(tiny, prefix="", has_head=False).write(folder)
    config = {
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "hidden_size": tiny.hidden,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "intermediate_size": tiny.intermediate,
        "layer_norm_eps": tiny.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": tiny.theta},
        "max_position_embeddings": 2048,
        "vocab_size": tiny.words,
        "type_vocab_size": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return reference(folder, TEXTS)


@pytest.mark.parametrize("tiny", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_vectors_equal_the_reference(tiny: TinyNomic, tmp_path: Path) -> None:
    """Guards: GPT-2's keys passed by, with theta, eps or sizes of the class's own in their place."""
    expected = library_vectors(tiny, tmp_path / "theirs")
    check_family(embedder_of(tiny.write(tmp_path / "ours")), expected)
    check_family(embedder_of(tmp_path / "theirs"), expected)


def exchange_gates(tensors: Tensors) -> None:
    for name in [name for name in tensors if "fc11" in name]:
        other = name.replace("fc11", "fc12")
        tensors[name], tensors[other] = tensors[other], tensors[name]


TRAPPED = TinyNomic(theta=8000.0, eps=0.1)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Vectors of ``TRAPPED`` as it is."""
    return library_vectors(TRAPPED, tmp_path_factory.mktemp("right"))


@pytest.mark.parametrize("change", ["theta", "eps", "halves"])
def test_trap_would_be_noticed(change: str, right: Rows, tmp_path: Path) -> None:
    """What each silent mistake does to the vectors is far above the tolerance of the test above."""
    others = {"theta": replace(TRAPPED, theta=1000.0), "eps": replace(TRAPPED, eps=1e-12)}
    folder = others.get(change, TRAPPED).write(tmp_path)
    if change == "halves":
        alter_weights(folder, exchange_gates)
    assert np.abs(embedder_of(folder).embed(TEXTS) - right).max() > 1e-2


def test_sizes_and_angles_come_from_the_published_keys_alone(tmp_path: Path) -> None:
    """The class takes 768 dimensions, 12 layers and theta 1000 where nobody tells it otherwise."""
    tiny = TinyNomic(theta=8000.0, eps=1e-6, layers=3)
    config = json.loads((tiny.write(tmp_path) / "config.json").read_text())
    module: Any = nomic.family("nomic").build(config, card_of(tmp_path), torch.float32)
    assert (module.config.hidden_size, module.config.num_hidden_layers, len(module.layers)) == (32, 3, 3)
    assert module.layers[0].post_mlp_layernorm.eps == 1e-6
    dim = tiny.hidden // tiny.heads
    np.testing.assert_allclose(
        module.rotary_emb.inv_freq, [8000.0 ** (-2 * i / dim) for i in range(dim // 2)], rtol=1e-5
    )


def test_published_keys_go_before_the_others_that_a_config_also_has(tmp_path: Path) -> None:
    """Newer files carry both sets."""
    both = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    tiny = TinyNomic(config={**both, "max_position_embeddings": 2048, "layer_norm_eps": 1e-12, "hidden_act": "silu"})
    expected = library_vectors(tiny, tmp_path / "theirs")
    check_family(embedder_of(tiny.write(tmp_path / "ours")), expected)
    other_heads = replace(tiny, config={**tiny.config, "num_attention_heads": 8})
    check_family(embedder_of(other_heads.write(tmp_path / "other")), expected)


@pytest.mark.parametrize(
    ("trained", "positions", "limit"), [(2048, 8192, 2048), (None, 8192, 2048), (512, 8192, 512), (2048, 1024, 1024)]
)
def test_texts_end_where_training_did(trained: int | None, positions: int, limit: int, tmp_path: Path) -> None:
    """Guards: beyond it the published code turns by other angles, which the class does not have."""
    tiny = TinyNomic(
        trained=trained, positions=positions, sentence_config={"max_seq_length": 8192},
        tokenizer_config={"model_max_length": 8192},
    )  # fmt: skip
    folder = tiny.write(tmp_path)
    assert card_of(folder).max_tokens == limit
    with pytest.raises(ConfigError, match="max_tokens"):
        read_card(ModelSpec(name="long", source=f"path:{folder}", max_tokens=limit + 1), folder)


def test_longest_text_is_computed_as_the_reference_does(tmp_path: Path) -> None:
    tiny = TinyNomic(trained=64, sentence_config=None, tokenizer_config={"model_max_length": 8192})
    texts = ["the red planet " * 60, "the red planet " * 20]
    embedder = embedder_of(tiny.write(tmp_path / "ours"))
    encoded = embedder.model.tokenize(texts, prompt="", max_tokens=embedder.card.max_tokens)
    assert [len(text.ids) for text in encoded] == [64, 62]
    replace(tiny, tokenizer_config={"model_max_length": 64}).write(tmp_path / "theirs")
    library_vectors(replace(tiny, tokenizer_config={"model_max_length": 64}), tmp_path / "theirs")
    np.testing.assert_allclose(embedder.embed(texts), reference(tmp_path / "theirs", texts), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prenorm": True}, "prenorm is 'True'"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction is '0.5'"),
        ({"rotary_emb_interleaved": True}, "rotary_emb_interleaved is 'True'"),
        ({"rotary_emb_scale_base": 512}, "rotary_emb_scale_base is '512'"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"causal": True}, "causal is 'True'"),
        ({"use_rms_norm": True}, "use_rms_norm is 'True'"),
        ({"qkv_proj_bias": True}, "qkv_proj_bias is 'True'"),
        ({"mlp_fc1_bias": True}, "mlp_fc1_bias is 'True'"),
    ],
)
def test_option_that_is_not_computed_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        embedder_of(TinyNomic(config=config).write(tmp_path))


@pytest.mark.parametrize("key", ["rotary_emb_base", "layer_norm_epsilon", "type_vocab_size"])
def test_value_that_the_config_does_not_tell_is_not_assumed(key: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=key):
        embedder_of(TinyNomic(config={key: None}).write(tmp_path))
