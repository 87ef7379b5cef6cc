"""Config and tensors' names to the family and its sizes, or to what it is refused as. Tables; no file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embeddaemon.errors import CorruptModel, EmbedDaemonError, UnsupportedModel
from embeddaemon.models.body import FAMILIES, Body, read_body
from embeddaemon.models.jsonfile import JsonFile
from embeddaemon.models.weights import TensorEntry

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
DISTILBERT = {
    "model_type": "distilbert",
    "dim": 24,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 40,
    "vocab_size": 100,
    "max_position_embeddings": 32,
}
NOMIC = {
    "model_type": "nomic_bert",
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 2,
    "n_inner": 40,
    "vocab_size": 100,
    "n_positions": 8192,
}
NV_EMBED = {
    "model_type": "nvembed",
    "architectures": ["NVEmbedModel"],
    "text_config": SIZES | {"model_type": "bidir_mistral", "num_key_value_heads": 2},
}
JINA_CODE = ("encoder.layer.0.mlp.up_gated_layer.weight", "encoder.layer.0.attention.self.layer_norm_q.weight")
GTE = ("new.encoder.layer.0.attention.qkv_proj.weight", "new.encoder.layer.0.mlp.up_gate_proj.weight")


def tensor(name: str, *shape: int) -> TensorEntry:
    return TensorEntry(name, "F32", shape, 0, 4)


def body(config: dict[str, Any], *names: str) -> Body:
    return read_body(JsonFile(Path("config.json"), config), [tensor(name, 4) for name in names])


def of(model_type: str, **more: Any) -> dict[str, Any]:
    return SIZES | {"model_type": model_type} | more


@pytest.mark.parametrize(
    ("config", "names", "family"),
    [
        (of("bert"), (), "bert"),
        (of("bert", architectures=["BertForMaskedLM"]), ("bert.embeddings.word_embeddings.weight",), "bert"),
        (of("bert", position_embedding_type="absolute"), (), "bert"),
        (of("roberta"), (), "roberta"),
        (of("xlm-roberta"), (), "xlm-roberta"),
        (of("camembert"), (), "camembert"),
        (of("electra"), (), "electra"),
        (of("mpnet"), (), "mpnet"),
        (of("deberta-v2"), (), "deberta"),
        (of("modernbert"), (), "modernbert"),
        (of("eurobert"), (), "eurobert"),
        (of("jina_embeddings_v3"), (), "jina-v3"),
        (DISTILBERT, (), "distilbert"),
        (of("new", architectures=["NewModel"]), (), "gte"),
        (of("gte"), (), "gte"),
        (of("anything", architectures=["NewForMaskedLM"]), (), "gte"),
        (of("bert"), GTE, "gte"),
        (of("bert"), GTE[:1], "bert"),
        (of("bert", position_embedding_type="alibi"), (), "jina-v2"),
        (of("bert", feed_forward_type="geglu"), (), "jina-v2"),
        (of("bert", feed_forward_type="original"), (), "bert"),
        (of("bert", _name_or_path="jinaai/jina-bert-implementation"), (), "jina-v2"),
        (
            of("bert", auto_map={"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"}),
            (),
            "jina-v2",
        ),
        (of("bert"), ("bert.encoder.layer.0.mlp.gated_layers.weight",), "jina-v2"),
        (of("bert", position_embedding_type="alibi"), JINA_CODE[:1], "jina-v2-code"),
        (of("bert"), JINA_CODE[1:], "jina-v2-code"),
        (of("bert", auto_map={"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--m.B"}), JINA_CODE, "jina-v2-code"),
        (NOMIC, (), "nomic"),
        (NOMIC | {"moe_every_n_layers": 0}, (), "nomic"),
        (NOMIC | {"moe_every_n_layers": 2}, (), "nomic-moe"),
        (NOMIC, ("encoder.layers.1.mlp.router.layer.weight",), "nomic-moe"),
        (of("qwen2"), (), "qwen2"),
        (of("qwen3"), (), "qwen3"),
        (of("bidirectional_pplx_qwen3"), (), "qwen3"),
        (of("mistral"), (), "mistral"),
        (of("llama"), (), "llama"),
        (of("llama_bidirec"), (), "llama"),
        (of("gemma3_text", use_bidirectional_attention=True), (), "gemma3"),
        (of("gemma3_text"), (), "gemma3"),
        (NV_EMBED, (), "nv-embed"),
        ({**NV_EMBED, "model_type": "mistral"}, ("latent_attention_model.latents",), "nv-embed"),
    ],
)
def test_family_is_told_by_config_and_tensors(config: dict[str, Any], names: tuple[str, ...], family: str) -> None:
    assert body(config, *names).family == family
    assert family in FAMILIES


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({}, UnsupportedModel, "None is not served; served are bert"),
        (of("t5"), UnsupportedModel, "'t5' is not served"),
        (of("bert", hidden_size=0), CorruptModel, "'hidden_size' is missing or 0"),
        (of("bert", num_hidden_layers="many"), CorruptModel, "'num_hidden_layers' must be a whole number"),
        (of("bert", vocab_size=None), CorruptModel, "'vocab_size' is missing"),
        ({"model_type": "nvembed"}, CorruptModel, "is missing"),
        ({"model_type": "nvembed", "text_config": 3}, CorruptModel, "'text_config' must be a map"),
        ({"model_type": 3}, CorruptModel, "'model_type' must be text"),
        (of("roberta", max_position_embeddings=2), CorruptModel, "leaves none"),
        (of("roberta", pad_token_id=None), CorruptModel, "pad_token_id is null"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(
    config: dict[str, Any], error: type[EmbedDaemonError], said: str
) -> None:
    with pytest.raises(error, match=said):
        body(config)


@pytest.mark.parametrize(
    ("config", "is_causal"),
    [
        (of("qwen3"), True),
        (of("qwen2"), True),
        (of("mistral"), True),
        (of("llama"), True),
        (of("qwen3", is_causal=True), True),
        (of("mistral", is_causal=False), False),
        (of("llama", use_bidirectional_attention=True), False),
        (of("llama_bidirec"), False),
        (of("bidirectional_pplx_qwen3"), False),
        (of("qwen2", auto_map={"AutoModel": "modeling_qwen.Qwen2Model"}), False),
        (of("qwen2", is_causal=True, auto_map={"AutoModel": "modeling_qwen.Qwen2Model"}), False),
        (of("qwen2", auto_map={"AutoModel": "Alibaba-NLP/gte--modeling_qwen.Qwen2Model"}), False),
        (of("qwen2", auto_map={"AutoConfig": "configuration_qwen.Qwen2Config"}), True),
        (of("bert"), False),
        (of("gemma3_text"), True),
        (of("gemma3_text", use_bidirectional_attention=True), False),
        (NV_EMBED, False),
    ],
)
def test_decoder_is_causal_unless_it_says_or_its_code_means_otherwise(
    config: dict[str, Any], *, is_causal: bool
) -> None:
    """Guards: gte-Qwen2 and Stella 1.5B, of which snapshots say ``is_causal`` true, or nothing, and mean false."""
    assert body(config).is_causal is is_causal


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (of("bert"), 64),
        (of("roberta"), 62),
        (of("xlm-roberta", pad_token_id=1), 62),
        (of("camembert", pad_token_id=0), 63),
        (of("mpnet", pad_token_id=1), 62),
        (of("xlm-roberta", max_position_embeddings=8194), 8192),
        (of("electra"), 64),
        (DISTILBERT, 32),
        (NOMIC, 2048),
        (NOMIC | {"max_trained_positions": 1024}, 1024),
        (NOMIC | {"n_positions": 512}, 512),
        (NV_EMBED, 64),
    ],
)
def test_longest_text_is_what_the_positions_leave(config: dict[str, Any], positions: int) -> None:
    """Guards: a RoBERTa-like has two positions fewer than its table; NomicBERT was trained on 2,048 of its 8,192."""
    assert body(config).positions == positions


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (of("bert"), (48, 2, 4, 4, 96)),
        (of("qwen3", num_key_value_heads=2), (48, 2, 4, 2, 96)),
        (DISTILBERT, (24, 3, 2, 2, 40)),
        (NOMIC, (24, 3, 2, 2, 40)),
        # Newer ones carry both sets of keys; the older one is what the published class reads.
        (SIZES | NOMIC, (24, 3, 2, 2, 40)),
        (of("nomic_bert"), (48, 2, 4, 4, 96)),
        (NV_EMBED, (48, 2, 4, 2, 96)),
    ],
)
def test_sizes_are_read_by_the_familys_own_keys(config: dict[str, Any], sizes: tuple[int, ...]) -> None:
    found = body(config)
    assert (
        found.hidden, found.layers, found.attention_heads, found.key_value_heads, found.intermediate
    ) == sizes  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "embedding_model.embed_tokens.weight",
        "model.embeddings.tok_embeddings.weight",
    ],
)
def test_words_are_counted_in_their_table_whatever_the_config_says(name: str) -> None:
    """Guards: Qwen3 and GTE state a vocabulary that is not the tensor's."""
    tensors = [tensor("other.weight", 7, 7), tensor(name, 104, 48)]
    assert read_body(JsonFile(Path("config.json"), of("qwen3")), tensors).vocabulary == 104
    assert body(of("qwen3")).vocabulary == 100
