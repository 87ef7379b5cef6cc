"""What is known of published models: data, from their model cards and from public registries of their sizes.

Prompts are the cards' exact strings. Where nobody says, a field is None and the model's folder decides, which goes
before this table anyhow. Who looks things up here is table.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from embeddaemon.models import card_prompts
from embeddaemon.models.published import Published, Shape
from embeddaemon.models.spec import Pooling

_MINI_6 = Shape(384, 6, 12, 12, 1536, 30522)
_MINI = Shape(384, 12, 12, 12, 1536, 30522)
_BASE = Shape(768, 12, 12, 12, 3072, 30522)
_LARGE = Shape(1024, 24, 16, 16, 4096, 30522)
_BASE_PADDED = Shape(768, 12, 12, 12, 3072, 30528)
_LARGE_PADDED = Shape(1024, 24, 16, 16, 4096, 30528)
_BASE_TWO_LANGUAGES = Shape(768, 12, 12, 12, 3072, 61056)
_MULTILINGUAL_BASE = Shape(768, 12, 12, 12, 3072, 250_002)
_MULTILINGUAL_BASE_PADDED = Shape(768, 12, 12, 12, 3072, 250_048)
_MULTILINGUAL_LARGE = Shape(1024, 24, 16, 16, 4096, 250_002)
_MODERN_BASE = Shape(768, 22, 12, 12, 1152, 50368)
_MISTRAL_7B = Shape(4096, 32, 32, 8, 14336, 32000)
_QWEN2_1_5B = Shape(1536, 28, 12, 2, 8960, 151_646)

_ANY = (4096, 2560, 2048, 1536, 1024, 768, 512, 384, 256, 128, 64, 32)
"""Of models that were trained to be cut anywhere: what people ask for."""

_STELLA_HEADS = (8192, 6144, 4096, 2048, 1024, 768, 256)

_ST = ("sentence-transformers",)
_ARCTIC = ("Snowflake",)
_ALIBABA = ("Alibaba-NLP",)
_JINA = ("jinaai",)


def _plain_berts() -> tuple[Published, ...]:
    """BERT in its four usual sizes."""
    mini, small, base, large = (_MINI_6, 22_713_216), (_MINI, 33_360_000), (_BASE, 109_482_240), (_LARGE, 335_141_888)
    found = [
        Published(
            name=name, organisations=_ST, family="bert", shape=shape, dim=384, max_tokens=256, licence="apache-2.0",
            parameters=parameters, pooling=Pooling.MEAN, normalizes=True,
        )
        for name, (shape, parameters) in (("all-MiniLM-L6-v2", mini), ("all-MiniLM-L12-v2", small))
    ]  # fmt: skip
    for size, (shape, parameters) in (("small", small), ("base", base), ("large", large)):
        found += [
            Published(
                name=f"bge-{size}-en-v1.5", organisations=("BAAI",), family="bert", shape=shape, dim=shape.hidden,
                max_tokens=512, licence="mit", parameters=parameters, pooling=Pooling.CLS, normalizes=True,
                prompts=card_prompts.BGE,
            ),
            Published(
                name=f"e5-{size}-v2", organisations=("intfloat",), family="bert", shape=shape, dim=shape.hidden,
                max_tokens=512, licence="mit", parameters=parameters, pooling=Pooling.MEAN, normalizes=True,
                prompts=card_prompts.E5, needs_prompt=True,
            ),
            Published(
                name=f"gte-{size}", organisations=("thenlper",), family="bert", shape=shape, dim=shape.hidden,
                max_tokens=512, licence="mit", parameters=parameters, pooling=Pooling.MEAN, normalizes=True,
            ),
        ]  # fmt: skip
    arctic = (("xs", mini), ("s", small), ("m", base), ("m-v1.5", base), ("l", large))
    found += [
        Published(
            name=f"snowflake-arctic-embed-{size}", organisations=_ARCTIC, family="bert", shape=shape, dim=shape.hidden,
            max_tokens=512, licence="apache-2.0", parameters=parameters, pooling=Pooling.CLS, normalizes=True,
            prompts=card_prompts.BGE, cut_dimensions=(256,) if size == "m-v1.5" else (),
        )
        for size, (shape, parameters) in arctic
    ]  # fmt: skip
    return tuple(found)


def _instructed(
    name: str, organisation: str, family: str, shape: Shape, parameters: int, *,
    licence: str = "apache-2.0", max_tokens: int = 8192, prompts: Mapping[str, str] = card_prompts.INSTRUCT,
    pooling: Pooling = Pooling.LAST_TOKEN, is_cut_anywhere: bool = False,
) -> Published:  # fmt: skip
    """A large language model that gives unit vectors and takes an instruction before a query."""
    return Published(
        name=name, organisations=(organisation,), family=family, shape=shape, dim=shape.hidden,
        max_tokens=max_tokens, licence=licence, parameters=parameters, pooling=pooling, normalizes=True,
        prompts=prompts, cut_dimensions=tuple(size for size in _ANY if size < shape.hidden) if is_cut_anywhere else (),
    )  # fmt: skip


def _stella(name: str, family: str, shape: Shape, parameters: int) -> Published:
    return Published(
        name=name, organisations=("NovaSearch", "dunzhang", "infgrad"), family=family, shape=shape, dim=1024,
        max_tokens=512, licence="mit", parameters=parameters, pooling=Pooling.MEAN, normalizes=False,
        prompts=card_prompts.STELLA, head_dimensions=_STELLA_HEADS,
    )  # fmt: skip


def _jina_v2(name: str, shape: Shape, parameters: int, family: str = "jina-v2") -> Published:
    return Published(
        name=f"jina-embeddings-v2-{name}", organisations=_JINA, family=family, shape=shape, dim=shape.hidden,
        max_tokens=8192, licence="apache-2.0", parameters=parameters, pooling=Pooling.MEAN, normalizes=False,
    )  # fmt: skip


def _multilingual_e5(size: str, family: str, shape: Shape, parameters: int) -> Published:
    return Published(
        name=f"multilingual-e5-{size}", organisations=("intfloat",), family=family, shape=shape, dim=shape.hidden,
        max_tokens=512, licence="mit", parameters=parameters, pooling=Pooling.MEAN, normalizes=True,
        prompts=card_prompts.E5, needs_prompt=True,
    )  # fmt: skip


def _nomic(name: str, *, cut_dimensions: tuple[int, ...] = ()) -> Published:
    return Published(
        name=name, organisations=("nomic-ai",), family="nomic", shape=_BASE_PADDED, dim=768, max_tokens=2048,
        licence="apache-2.0", parameters=136_731_648, pooling=Pooling.MEAN, prompts=card_prompts.NOMIC,
        needs_prompt=True, cut_dimensions=cut_dimensions, cut_after_layer_norm=bool(cut_dimensions),
    )  # fmt: skip


def _long(
    name: str, organisations: tuple[str, ...], family: str, shape: Shape, parameters: int, *,
    max_tokens: int = 8192, normalizes: bool | None = None, prompts: Mapping[str, str] | None = None,
    cut_dimensions: tuple[int, ...] = (),
) -> Published:  # fmt: skip
    """An encoder of long texts that pools the first token."""
    return Published(
        name=name, organisations=organisations, family=family, shape=shape, dim=shape.hidden, max_tokens=max_tokens,
        licence="mit" if organisations == ("BAAI",) else "apache-2.0", parameters=parameters, pooling=Pooling.CLS,
        normalizes=normalizes, prompts=prompts or {}, cut_dimensions=cut_dimensions,
    )  # fmt: skip


_OTHERS = (
    Published(
        name="mxbai-embed-large-v1", organisations=("mixedbread-ai",), family="bert", shape=_LARGE, dim=1024,
        max_tokens=512, licence="apache-2.0", parameters=335_141_888, pooling=Pooling.CLS, normalizes=False,
        prompts=card_prompts.BGE, cut_dimensions=(512, 256),
    ),
    Published(
        name="all-distilroberta-v1", organisations=_ST, family="roberta", shape=Shape(768, 6, 12, 12, 3072, 50265),
        dim=768, max_tokens=512, licence="apache-2.0", parameters=82_118_400, pooling=Pooling.MEAN, normalizes=True,
    ),
    Published(
        name="all-mpnet-base-v2", organisations=_ST, family="mpnet", shape=Shape(768, 12, 12, 12, 3072, 30527),
        dim=768, max_tokens=384, licence="apache-2.0", parameters=109_486_464, pooling=Pooling.MEAN, normalizes=True,
    ),
    Published(
        name="CodeRankEmbed", organisations=("nomic-ai",), family="nomic", shape=_BASE_PADDED, dim=768,
        max_tokens=2048, licence="mit", parameters=136_731_648, prompts=card_prompts.CODE,
    ),
    Published(
        name="nomic-embed-text-v2-moe", organisations=("nomic-ai",), family="nomic-moe",
        shape=_MULTILINGUAL_BASE_PADDED, dim=768, max_tokens=512, licence="apache-2.0", parameters=475_292_928,
        pooling=Pooling.MEAN, prompts=card_prompts.NOMIC,
        needs_prompt=True, cut_dimensions=(256,),
    ),
    Published(
        name="modernbert-embed-base", organisations=("nomic-ai",), family="modernbert", shape=_MODERN_BASE, dim=768,
        max_tokens=8192, licence="apache-2.0", parameters=149_014_272, pooling=Pooling.MEAN, needs_prompt=True,
        cut_dimensions=(256,),
        prompts={key: prompt for key, prompt in card_prompts.NOMIC.items() if prompt.startswith("search_")},
    ),
    Published(
        name="embeddinggemma-300m", organisations=("google",), family="gemma3",
        shape=Shape(768, 24, 3, 1, 1152, 262_144, 256), dim=768, max_tokens=2048, licence="gemma",
        parameters=307_581_696,
        pooling=Pooling.MEAN, normalizes=True, prompts=card_prompts.EMBEDDING_GEMMA, cut_dimensions=(512, 256, 128),
    ),
    *(
        Published(
            name=name, organisations=_JINA, family="jina-v3", shape=_MULTILINGUAL_LARGE, dim=1024, max_tokens=8192,
            licence="cc-by-nc-4.0", parameters=572_310_396, pooling=Pooling.MEAN, prompts=card_prompts.JINA_V3,
            cut_dimensions=(768, 512, 256, 128, 64, 32),
            served_as=None if name.endswith("-hf") else "jinaai/jina-embeddings-v3-hf",
        )
        for name in ("jina-embeddings-v3-hf", "jina-embeddings-v3")
    ),
)  # fmt: skip

PUBLISHED: tuple[Published, ...] = (
    *_plain_berts(),
    *_OTHERS,
    _multilingual_e5("small", "bert", Shape(384, 12, 12, 12, 1536, 250_037), 117_653_760),
    _multilingual_e5("base", "xlm-roberta", _MULTILINGUAL_BASE, 278_043_648),
    _multilingual_e5("large", "xlm-roberta", _MULTILINGUAL_LARGE, 559_890_432),
    _instructed(
        "multilingual-e5-large-instruct", "intfloat", "xlm-roberta", _MULTILINGUAL_LARGE, 559_890_432,
        licence="mit", max_tokens=512, pooling=Pooling.MEAN,
    ),
    _instructed(
        "e5-mistral-7b-instruct", "intfloat", "mistral", _MISTRAL_7B, 7_110_660_096, licence="mit", max_tokens=4096,
    ),
    _instructed("gte-Qwen2-1.5B-instruct", "Alibaba-NLP", "qwen2", _QWEN2_1_5B, 1_543_268_864),
    _instructed("gte-Qwen2-7B-instruct", "Alibaba-NLP", "qwen2", Shape(3584, 28, 28, 4, 18944, 151_646), 7_069_121_024),
    _instructed(
        "Qwen3-Embedding-0.6B", "Qwen", "qwen3", Shape(1024, 28, 16, 8, 3072, 151_669, 128), 595_776_512,
        prompts=card_prompts.QWEN3, is_cut_anywhere=True
    ),
    _instructed(
        "Qwen3-Embedding-4B", "Qwen", "qwen3", Shape(2560, 36, 32, 8, 9728, 151_665, 128), 4_021_774_336,
        prompts=card_prompts.QWEN3, is_cut_anywhere=True
    ),
    _instructed(
        "Qwen3-Embedding-8B", "Qwen", "qwen3", Shape(4096, 36, 32, 8, 12288, 151_665), 7_567_295_488,
        prompts=card_prompts.QWEN3, is_cut_anywhere=True
    ),
    _instructed(
        "NV-Embed-v2", "nvidia", "nv-embed", _MISTRAL_7B, 7_851_000_000, licence="cc-by-nc-4.0", max_tokens=4096,
        prompts=card_prompts.NV_EMBED, pooling=Pooling.MEAN,
    ),
    _stella("stella_en_400M_v5", "gte", _LARGE_PADDED, 434_139_136),
    _stella("stella_en_1.5B_v5", "qwen2", _QWEN2_1_5B, 1_543_268_864),
    _long("bge-m3", ("BAAI",), "xlm-roberta", _MULTILINGUAL_LARGE, 567_754_752, normalizes=True),
    _long(
        "snowflake-arctic-embed-l-v2.0", _ARCTIC, "xlm-roberta", _MULTILINGUAL_LARGE, 567_754_752,
        prompts=card_prompts.QUERY, cut_dimensions=(256,),
    ),
    _long(
        "snowflake-arctic-embed-m-v2.0", _ARCTIC, "gte", _MULTILINGUAL_BASE_PADDED, 305_368_320,
        prompts=card_prompts.QUERY, cut_dimensions=(256,),
    ),
    _long(
        "snowflake-arctic-embed-m-long", _ARCTIC, "nomic", _BASE_PADDED, 136_731_648, max_tokens=2048,
        prompts=card_prompts.BGE,
    ),
    _long("gte-base-en-v1.5", _ALIBABA, "gte", _BASE_PADDED, 136_776_192, normalizes=False),
    _long("gte-large-en-v1.5", _ALIBABA, "gte", _LARGE_PADDED, 434_139_136, normalizes=False),
    _long(
        "gte-multilingual-base", _ALIBABA, "gte", _MULTILINGUAL_BASE_PADDED, 305_368_320,
        normalizes=False, cut_dimensions=(512, 384, 256, 128),
    ),
    _long("gte-modernbert-base", _ALIBABA, "modernbert", _MODERN_BASE, 149_014_272, normalizes=False),
    _long("granite-embedding-english-r2", ("ibm-granite",), "modernbert", _MODERN_BASE, 149_014_272),
    _long(
        "granite-embedding-small-english-r2", ("ibm-granite",), "modernbert", Shape(384, 12, 12, 12, 1536, 50368),
        47_662_464,
    ),
    _jina_v2("small-en", Shape(512, 4, 8, 8, 2048, 30528), 32_690_688),
    _jina_v2("base-en", _BASE_PADDED, 137_368_320),
    _jina_v2("base-de", _BASE_TWO_LANGUAGES, 160_800_000),
    _jina_v2("base-es", _BASE_TWO_LANGUAGES, 160_800_000),
    _jina_v2("base-zh", _BASE_TWO_LANGUAGES, 160_800_000),
    _jina_v2("base-code", _BASE_TWO_LANGUAGES, 160_900_000, family="jina-v2-code"),
    _nomic("nomic-embed-text-v1"),
    _nomic("nomic-embed-text-v1.5", cut_dimensions=(512, 256, 128, 64)),
)  # fmt: skip
