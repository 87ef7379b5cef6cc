"""``LoadOrder``: what a template (or a worker that loads for itself) is told to load. Travels as a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embeddaemon.models.card import Dense, Head, ModelCard
from embeddaemon.models.fileset import FileSet
from embeddaemon.models.spec import Pooling
from embeddaemon.protocol.fields import Fields
from embeddaemon.protocol.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOrder:
    """One model key to load, everything decided: card, device, precision as declared, limits to enforce."""

    card: ModelCard
    device: str
    precision: str
    token_budget: int
    limits: Limits
    stream_tokens: int = 2048
    """Most tokens in the micro-batch of one thread on a CPU: what a worker's lease was computed for. A longer text goes
    alone."""
    state_folder: str | None = None
    """Where what a load found out is kept for the next one; None: nowhere."""
    accept_inaccurate: bool = False
    """Whether int8 is served below the floor of its accuracy too."""

    def as_map(self) -> dict[str, Any]:
        values = asdict(self)
        values["card"]["pooling"] = [pooling.value for pooling in self.card.pooling]
        values["card"]["prompts"] = dict(self.card.prompts)
        values["card"]["files"]["sha256"] = dict(self.card.files.sha256)
        values["card"]["heads"] = [
            {"dim": head.dim, "layers": [asdict(layer) for layer in head.layers]} for head in self.card.heads
        ]
        return values


def order_from_map(values: Mapping[str, Any]) -> LoadOrder:
    """What ``as_map`` made, checked. Raises ProtocolError."""
    fields = Fields(values, "load order")
    order = LoadOrder(
        card=card_from_map(fields.mapping("card")),
        device=fields.text("device"),
        precision=fields.text("precision"),
        token_budget=fields.integer("token_budget", low=1),
        limits=Limits(**{key: int(value) for key, value in fields.mapping("limits").items()}),
        stream_tokens=fields.integer("stream_tokens", low=1),
        state_folder=fields.text_or_none("state_folder"),
        accept_inaccurate=fields.boolean("accept_inaccurate"),
    )
    fields.end()
    return order


def card_from_map(values: Mapping[str, Any]) -> ModelCard:
    """A card that travelled as a map, checked. Raises ProtocolError."""
    fields = Fields(values, "model card")
    card = ModelCard(
        name=fields.text("name"),
        folder=fields.text("folder"),
        revision=fields.text("revision"),
        family=fields.text("family"),
        dim=fields.integer("dim", low=1),
        pooled_dim=fields.integer("pooled_dim", low=1),
        max_tokens=fields.integer("max_tokens", low=1),
        vocabulary=fields.integer("vocabulary", low=1),
        pooling=tuple(Pooling(mode) for mode in fields.texts("pooling")),
        normalize=fields.boolean("normalize"),
        include_prompt=fields.boolean("include_prompt"),
        prompts={str(task): str(prompt) for task, prompt in fields.mapping("prompts").items()},
        default_task=fields.text_or_none("default_task"),
        dimensions=fields.integers("dimensions"),
        heads=tuple(_head(head) for head in fields.maps("heads")),
        cut_after_layer_norm=fields.boolean("cut_after_layer_norm"),
        is_causal=fields.boolean("is_causal"),
        closing_token=fields.text_or_none("closing_token"),
        pools_last_prompt_token=fields.boolean("pools_last_prompt_token"),
        weights_files=fields.texts("weights_files"),
        weights_bytes=fields.integer("weights_bytes"),
        weights_digest=fields.text("weights_digest"),
        parameters=fields.integer("parameters"),
        hidden=fields.integer("hidden"),
        layers=fields.integer("layers"),
        attention_heads=fields.integer("attention_heads"),
        key_value_heads=fields.integer("key_value_heads"),
        attention_width=fields.integer("attention_width"),
        intermediate=fields.integer("intermediate"),
        gated=fields.boolean("gated"),
        source=fields.text("source"),
        licence=fields.text_or_none("licence"),
        notes=fields.texts("notes"),
        files=_files(fields.mapping("files")),
    )
    fields.end()
    return card


def _files(values: Mapping[str, Any]) -> FileSet:
    fields = Fields(values, "files")
    files = FileSet(
        names=fields.texts("names"),
        marks=fields.text("marks"),
        sha256={str(name): str(digest) for name, digest in fields.mapping("sha256").items()},
        is_sealed=fields.boolean("is_sealed"),
    )
    fields.end()
    return files


def _head(values: Mapping[str, Any]) -> Head:
    fields = Fields(values, "head")
    head = Head(dim=fields.integer("dim", low=1), layers=tuple(_dense(dense) for dense in fields.maps("layers")))
    fields.end()
    return head


def _dense(values: Mapping[str, Any]) -> Dense:
    fields = Fields(values, "dense layer")
    dense = Dense(
        file=fields.text("file"),
        in_features=fields.integer("in_features", low=1),
        out_features=fields.integer("out_features", low=1),
        has_bias=fields.boolean("has_bias"),
        activation=fields.text("activation"),
    )
    fields.end()
    return dense
