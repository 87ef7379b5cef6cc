"""What a transformer is by its config.json and its tensors' names: the family, and the sizes that memory follows from.

The order of the tests and what each family's config calls its sizes: model cards, and the classes of transformers 5.
Tensors' names do not lie where a config was rewritten. What is no embedding model is refused here, an option that is
not served in options.py; how a family is computed is the engine's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.jsonfile import JsonFile
from embeddaemon.models.other_kinds import refuse_other_task
from embeddaemon.models.weights import TensorEntry

_COUNT_FROM_PAD = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
"""Families whose positions begin behind the padding token's id, which takes as many from what a text can have."""
_PAD = 1
"""Id of those families' padding token where the folder does not say."""

_NATIVE = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "xlm-roberta",
    "camembert": "camembert",
    "distilbert": "distilbert",
    "electra": "electra",
    "mpnet": "mpnet",
    "deberta-v2": "deberta",
    "modernbert": "modernbert",
    "eurobert": "eurobert",
    "jina_embeddings_v3": "jina-v3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "mistral": "mistral",
    "llama": "llama",
    "gemma3_text": "gemma3",
}
"""By model_type, where that says it all."""

FAMILIES = (*_NATIVE.values(), "gte", "nomic", "nomic-moe", "jina-v2", "jina-v2-code", "nv-embed")

_DECODERS = frozenset({"qwen2", "qwen3", "mistral", "llama", "gemma3"})
_GATED = frozenset({"gte", "nomic", "jina-v2", "jina-v2-code", "modernbert", "eurobert", "nv-embed", *_DECODERS})

_GTE_CLASSES = frozenset({"NewModel", "NewForMaskedLM", "NewForTokenClassification"})

_DISTILBERT_KEYS = {
    "hidden": "dim",
    "layers": "n_layers",
    "attention_heads": "n_heads",
    "intermediate": "hidden_dim",
    "positions": "max_position_embeddings",
}
_NOMIC_KEYS = {
    "hidden": "n_embd",
    "layers": "n_layer",
    "attention_heads": "n_head",
    "intermediate": "n_inner",
    "positions": "n_positions",
}
_KEYS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "attention_heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A transformer, as far as others than the engine need to know it."""

    family: str
    hidden: int
    layers: int
    attention_heads: int
    key_value_heads: int
    attention_width: int
    """Of all heads' queries together, which some configs state by the width of a head."""
    intermediate: int
    vocabulary: int
    """Rows of the table of words: some configs state a rounded number."""
    positions: int
    """The most tokens that a text can have."""
    gated: bool
    is_causal: bool


def read_body(config: JsonFile, tensors: Sequence[TensorEntry]) -> Body:
    """What the transformer is. Raises CorruptModel and UnsupportedModel."""
    refuse_other_task(config, tensors)
    family = _family(config, tensors)
    sizes = config.section("text_config") if family == "nv-embed" else config
    hidden = _size(sizes, family, "hidden")
    heads, stated_words = _size(sizes, family, "attention_heads"), sizes.size("vocab_size")
    return Body(
        family=family,
        hidden=hidden,
        layers=_size(sizes, family, "layers"),
        attention_heads=heads,
        key_value_heads=sizes.integer("num_key_value_heads") or heads,
        attention_width=heads * (sizes.integer("head_dim") or hidden // heads),
        intermediate=_size(sizes, family, "intermediate"),
        vocabulary=_words(tensors) or stated_words,
        positions=_positions(sizes, family),
        gated=is_gated(family),
        is_causal=family in _DECODERS and not _is_bidirectional(config),
    )


def is_gated(family: str) -> bool:
    """Whether the feed-forward layers of a family have a gate (GLU)."""
    return family in _GATED


def _size(config: JsonFile, family: str, what: str) -> int:
    """A size by the family's own key, else by the usual one, as newer folders have it."""
    own = {"distilbert": _DISTILBERT_KEYS, "nomic": _NOMIC_KEYS, "nomic-moe": _NOMIC_KEYS}.get(family, _KEYS)[what]
    return config.size(own) if config.integer(own) else config.size(_KEYS[what])


def _family(config: JsonFile, tensors: Sequence[TensorEntry]) -> str:
    """One of ``FAMILIES``. The first test that holds decides, so their order matters."""
    kind = config.text("model_type")
    if kind == "nvembed" or _any_begins(tensors, "latent_attention_model."):
        return "nv-embed"
    if kind in {"new", "gte"} or _is_gte(config, tensors):
        return "gte"
    if kind == "bert" and _is_jina(config, tensors):
        is_code = _any_ends(tensors, ".mlp.up_gated_layer.weight", ".attention.self.layer_norm_q.weight")
        return "jina-v2-code" if is_code else "jina-v2"
    if kind == "nomic_bert":
        has_experts = bool(config.integer("moe_every_n_layers")) or _any_ends(tensors, ".mlp.router.layer.weight")
        return "nomic-moe" if has_experts else "nomic"
    if kind in {"llama_bidirec", "bidirectional_pplx_qwen3"}:
        return "llama" if kind == "llama_bidirec" else "qwen3"
    if kind not in _NATIVE:
        raise UnsupportedModel(
            f"{config.path}: the family {kind!r} is not served; served are {', '.join(sorted(FAMILIES))}"
        )
    return _NATIVE[kind]


def _any_ends(tensors: Sequence[TensorEntry], *marks: str) -> bool:
    return any(entry.name.endswith(marks) for entry in tensors)


def _any_begins(tensors: Sequence[TensorEntry], mark: str) -> bool:
    return any(entry.name.startswith(mark) for entry in tensors)


def _is_gte(config: JsonFile, tensors: Sequence[TensorEntry]) -> bool:
    """By the class, or by both packed tensors: other families pack one of the two."""
    if _GTE_CLASSES.intersection(config.texts("architectures")):
        return True
    return _any_ends(tensors, ".attention.qkv_proj.weight") and _any_ends(tensors, ".mlp.up_gate_proj.weight")


def _is_jina(config: JsonFile, tensors: Sequence[TensorEntry]) -> bool:
    if config.text("position_embedding_type") == "alibi" or (config.text("feed_forward_type") or "").endswith("glu"):
        return True
    mentions = f"{config.mapping('auto_map')} {config.text('_name_or_path')}"
    if "jina-bert-implementation" in mentions or "jina-bert-v2-qk-post-norm" in mentions:
        return True
    marks = (".mlp.gated_layers.weight", ".mlp.up_gated_layer.weight", ".attention.self.layer_norm_q.weight")
    return _any_ends(tensors, *marks)


def _is_bidirectional(config: JsonFile) -> bool:
    """Whether a decoder's tokens see all others: some say so, some only by the code that came with them."""
    if not config.boolean("is_causal", default=True) or config.boolean("use_bidirectional_attention", default=False):
        return True
    if config.text("model_type") in {"llama_bidirec", "bidirectional_pplx_qwen3"}:
        return True
    return has_bidirectional_code(config)


def has_bidirectional_code(config: JsonFile) -> bool:
    """Whether a Qwen2 came with gte-Qwen2's class, which computes without a mask whatever the config says."""
    return "modeling_qwen.Qwen2Model" in str(config.mapping("auto_map"))


def _words(tensors: Sequence[TensorEntry]) -> int:
    """Rows of the table of words; 0 where no tensor has its name."""
    for entry in tensors:
        if entry.name.endswith(("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight")):
            return entry.shape[0] if len(entry.shape) == 2 else 0
    return 0


def _positions(config: JsonFile, family: str) -> int:
    """The most tokens that a text can have. Raises CorruptModel."""
    if family in {"nomic", "nomic-moe"}:
        # What lies beyond was never trained, and needs a scaling of positions that the published code has.
        trained = config.integer("max_trained_positions")
        return min(trained or 2048, _size(config, family, "positions"))
    positions = _size(config, family, "positions")
    if family not in _COUNT_FROM_PAD:
        return positions
    usable = positions - _pad(config) - 1
    if usable < 1:
        raise CorruptModel(
            f"{config.path}: max_position_embeddings is {positions}, which leaves none behind pad_token_id"
        )
    return usable


def _pad(config: JsonFile) -> int:
    pad = config.integer("pad_token_id")
    if pad is None and "pad_token_id" in config.values:
        raise CorruptModel(f"{config.path}: pad_token_id is null; the positions of this family begin behind it")
    return _PAD if pad is None else pad
