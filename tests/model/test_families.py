"""What holds for every family, each with small checkpoints of its own; what is one family's own is in its own file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pytest

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.body import FAMILIES
from embeddaemon.models.card import ModelCard
from embeddaemon.models.spec import Pooling
from embeddaemon.workers.engines.torch_engine.families import family_of
from tests.support.checkpoints import Tensors, TinyBert
from tests.support.embedding import Embedder, cosines, embedder_of
from tests.support.families import deberta, distilbert, eurobert, gte, jina_v2, jina_v3, modernbert, mpnet, nomic
from tests.support.families.decoders import (
    TinyDecoder,
    TinyGemma,
    TinyLlama,
    TinyMistral,
    TinyNvEmbed,
    TinyQwen2,
    TinyQwen3,
)
from tests.support.family_checks import TEXTS, Written, alter_weights, check_family, reference

LIBRARY_READS: dict[str, Mapping[str, TinyBert]] = {
    "deberta": deberta.PUBLISHED,
    "distilbert": distilbert.PUBLISHED,
    "eurobert": eurobert.PUBLISHED,
    "jina-v3": jina_v3.PUBLISHED,
    "modernbert": {name: tiny for name, tiny in modernbert.PUBLISHED.items() if tiny.local_theta},
    "mpnet": mpnet.PUBLISHED,
}
"""Families whose folders sentence-transformers reads as they are; it cannot read a ``local_rope_theta`` of null."""

OTHERS: dict[str, Mapping[str, TinyBert]] = {
    "modernbert": {name: tiny for name, tiny in modernbert.PUBLISHED.items() if not tiny.local_theta},
    "gte": gte.PUBLISHED,
    "jina-v2": jina_v2.PUBLISHED,
    "nomic": nomic.PUBLISHED,
    "nomic-moe": nomic.WITH_EXPERTS,
    "decoder": {
        "qwen2": TinyQwen2(),
        "qwen3": TinyQwen3(hidden=48, layers=3, heads=6, key_value_heads=3, intermediate=80, positions=96),
        "mistral": TinyMistral(),
        "llama": TinyLlama(),
        "gemma3": TinyGemma(intermediate=80, layers=3),
    },
}

KINDS: dict[str, TinyBert] = {
    f"{family}: {name}": tiny
    for table in (LIBRARY_READS, OTHERS)
    for family, tinies in table.items()
    for name, tiny in tinies.items()
}
NEARER = ("jina-v2", "mpnet")
"""Families whose vectors in bfloat16 are nearer to those in float32 than others' are."""

Damage = Literal["missing", "left over", "of another shape"]


@dataclass(frozen=True, slots=True)
class Strict:
    """A checkpoint to damage; ``words`` and ``stray_words`` are what the messages call the two tensors."""

    tiny: TinyBert
    tensor: str
    """Is taken away, or loses its first row."""
    words: str
    stray: str
    """Is there besides."""
    stray_words: str


def strict(tiny: TinyBert, tensor: str, stray: str, words: str = "", stray_words: str = "") -> Strict:
    """With names as after the prefix, which are the words where nothing else is said."""
    return Strict(tiny, tiny.prefix + tensor, words or tensor, tiny.prefix + stray, stray_words or stray)


def layer_too_many(tiny: TinyBert, tensor: str, words: str = "") -> Strict:
    """The tensor of layer 1 is damaged, or layer 7 has one."""
    stray = re.sub(r"(layers?)\.1\.", r"\1.7.", tensor)
    assert stray != tensor
    return strict(tiny, tensor, stray, words, "the last one number 7")


LIN_1, DENSE = "transformer.layer.0.ffn.lin1", "encoder.layer.0.intermediate.dense"
QUERIES, GATE = "layers.1.self_attn.q_proj.weight", "layers.1.mlp.gate_proj.weight"
LATENTS = "latent_attention_model.cross_attend_blocks"
STRICT: dict[str, Strict] = {
    "deberta": strict(deberta.TinyDeberta(), "encoder.rel_embeddings.weight", "encoder.rel_embeddings_other.weight"),
    **{
        name: strict(tiny, f"{LIN_1}.weight", f"{LIN_1}.other", f"{DENSE}.weight", f"{DENSE}.other")
        for name, tiny in distilbert.PUBLISHED.items()
        if isinstance(tiny, distilbert.TinyDistilbert)
    },
    **{
        name: strict(tiny, f"{DENSE}.weight", f"{DENSE}.other")
        for name, tiny in distilbert.PUBLISHED.items()
        if isinstance(tiny, distilbert.TinyElectra)
    },
    "eurobert": strict(eurobert.TinyEuroBert(), "layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.bias"),
    "gte qkv": layer_too_many(gte.TinyGte(prefix="new."), "encoder.layer.1.attention.qkv_proj.weight", QUERIES),
    "gte gate": layer_too_many(gte.TinyGte(prefix="new."), "encoder.layer.1.mlp.up_gate_proj.weight", GATE),
    **{
        f"jina-v2 {name}": strict(tiny, wide, f"{wide}_other")
        for name, tiny in jina_v2.PUBLISHED.items()
        for wide in [f"encoder.layer.1.mlp.{'down_layer' if tiny.is_code else 'wo'}.weight"]
    },
    "jina-v3": layer_too_many(jina_v3.PUBLISHED["published names"], "encoder.layers.1.mixer.Wqkv.weight", QUERIES),
    "modernbert": layer_too_many(modernbert.TinyModernBert(prefix="model."), "layers.1.attn.Wqkv.weight"),
    "modernbert norm": strict(
        modernbert.TinyModernBert(prefix="model."), "layers.1.attn_norm.weight", "layers.0.attn_norm.weight"
    ),
    "mpnet": strict(
        mpnet.TinyMPNet(), "encoder.layer.1.attention.attn.o.weight", "encoder.layer.1.attention.attn.p.weight"
    ),
    "nomic qkv": layer_too_many(nomic.TinyNomic(), "encoder.layers.1.attn.Wqkv.weight", QUERIES),
    "nomic gate": layer_too_many(nomic.TinyNomic(), "encoder.layers.1.mlp.fc12.weight", GATE),
    **{
        f"nomic-moe {part}": layer_too_many(nomic.TinyNomicMoe(), f"encoder.layers.1.{part}", words)
        for part, words in {
            "attn.Wqkv.weight": "",
            "mlp.experts.mlp.w1": "encoder.layers.1.mlp.experts.0.up.weight",
            "mlp.experts.mlp.w2": "encoder.layers.1.mlp.experts.0.down.weight",
            "mlp.experts.bias": "",
        }.items()
    },
    **{
        tiny.kind: strict(tiny, "layers.1.self_attn.k_proj.weight", "layers.0.self_attn.sinks")
        for tiny in (TinyQwen2(), TinyQwen3(), TinyMistral(), TinyLlama())
    },
    "gemma3": strict(
        TinyGemma(),
        "layers.3.post_feedforward_layernorm.weight",
        "layers.4.input_layernorm.weight",
        stray_words="5, the last one number 4",
    ),
    "nv-embed": Strict(
        TinyNvEmbed(),
        tensor=f"{LATENTS}.0.norm_context.bias",
        words=f"{LATENTS}.0.norm_context.bias",
        stray=f"{LATENTS}.2.norm.bias",
        stray_words=f"{LATENTS}.2.norm.bias",
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def written(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Written[TinyBert]:
    return Written(KINDS[kind], tmp_path_factory.mktemp("written"))


@pytest.mark.parametrize(
    "kind", [f"{family}: {name}" for family, tinies in LIBRARY_READS.items() for name in tinies], indirect=True
)
def test_vectors_equal_the_reference(written: Written[TinyBert]) -> None:
    check_family(written.embedder, reference(written.folder, TEXTS))


def test_card_has_the_family_and_the_sizes_that_memory_follows_from(written: Written[TinyBert], kind: str) -> None:
    tiny, card = written.tiny, written.embedder.card
    keys = tiny.key_value_heads if isinstance(tiny, TinyDecoder) else tiny.heads
    is_gated = kind.split(":", maxsplit=1)[0] in {"decoder", "eurobert", "gte", "jina-v2", "modernbert", "nomic"}
    assert written.embedder.model.facts.family == card.family == family_name(kind)
    assert (card.hidden, card.layers, card.attention_heads) == (tiny.hidden, tiny.layers, tiny.heads)
    assert (card.key_value_heads, card.intermediate, card.gated) == (keys, tiny.intermediate, is_gated)
    assert (card.vocabulary, card.dim) == (tiny.words, tiny.hidden)
    assert card.is_causal == (card.family in {"qwen3", "mistral", "llama"})
    assert card.max_tokens == (tiny.sentence_config or {})["max_seq_length"]
    assert written.embedder.model.facts.parameters == card.parameters + parameters_besides(tiny)


def family_name(kind: str) -> str:
    """What the card of a kind calls its family."""
    family, name = kind.split(": ")
    if family in {"decoder", "distilbert"}:
        return name.removesuffix("-head")
    return "jina-v2-code" if family == "jina-v2" and name.startswith("code") else family


def parameters_besides(tiny: TinyBert) -> int:
    """How many more are held than the card counts, which counts what is in the file but for heads of other tasks."""
    if isinstance(tiny, distilbert.TinyDistilbert):
        return tiny.hidden  # as BERT it has one type of token
    if isinstance(tiny, deberta.TinyDeberta) and tiny.has_positions:
        return -tiny.positions * tiny.hidden  # a table that nothing uses
    return 0


def test_bfloat16_stays_near_float32(written: Written[TinyBert], kind: str) -> None:
    exact, short = written.embedder, Embedder(written.embedder.card, "bfloat16")
    assert exact.model.facts.precision == "float32"
    assert cosines(exact.embed(TEXTS), short.embed(TEXTS)).min() > (0.999 if kind.startswith(NEARER) else 0.99)


@pytest.mark.parametrize("damage", get_args(Damage))
@pytest.mark.parametrize("strict", STRICT.values(), ids=STRICT.keys())
def test_tensor_that_does_not_fit_is_refused(strict: Strict, damage: Damage, tmp_path: Path) -> None:
    """Guards: layers that are made up, or passed by, with no more than a warning."""
    folder = strict.tiny.write(tmp_path)
    words, stray_words = re.escape(strict.words), re.escape(strict.stray_words)
    complaints: dict[Damage, str] = {
        "missing": f"has no .*{words}",
        "left over": f"has .*{stray_words}",
        "of another shape": f"{words} has the shape|has no .*{words}",
    }

    def alter(tensors: Tensors) -> None:
        if damage == "left over":
            tensors[strict.stray] = tensors[strict.tensor]
        elif damage == "of another shape":
            tensors[strict.tensor] = tensors[strict.tensor][1:].copy()
        else:
            del tensors[strict.tensor]

    alter_weights(folder, alter)
    with pytest.raises(CorruptModel, match=complaints[damage]):
        embedder_of(folder)


def card(family: str) -> ModelCard:
    return ModelCard(
        name="tiny", folder="/nowhere", revision="1", family=family, dim=8, pooled_dim=8, max_tokens=8, vocabulary=8,
        pooling=(Pooling.MEAN,), normalize=False,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_family_that_is_told_is_computed(family: str) -> None:
    """What `models inspect` calls served must not be refused by the engine for its family."""
    found = family_of(card(family))
    assert callable(found.build)


def test_family_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="family t5 is not served"):
        family_of(card("t5"))
