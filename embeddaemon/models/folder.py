"""A model's folder to its ``ModelCard``: what is there, whether it is served, and what the operator declared on top.

Reads configurations and the header of the weights, never a weight. The pipeline's files are read in pipeline.py, the
transformer's own here. What a family needs to be computed is the engine's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from embeddaemon.errors import ConfigError, CorruptModel, ModelNotFound
from embeddaemon.models.agreement import refuse_broken_tokenizer, refuse_disagreement
from embeddaemon.models.body import Body, read_body
from embeddaemon.models.card import ModelCard
from embeddaemon.models.choices import (
    choose_length,
    choose_pooling,
    choose_tasks,
    choose_unit_length,
    is_of_family,
    trained_cuts,
)
from embeddaemon.models.conventions import conventions
from embeddaemon.models.dimensions import sizes_of
from embeddaemon.models.fileset import FileSet, read_fileset
from embeddaemon.models.jsonfile import JsonFile, read_json
from embeddaemon.models.licences import licence_of_folder
from embeddaemon.models.notes import family_notes, length_notes, licence_notes, prompt_notes, table_notes
from embeddaemon.models.options import refuse_options
from embeddaemon.models.other_kinds import refuse_other_files
from embeddaemon.models.pipeline import Pipeline, read_pipeline
from embeddaemon.models.published import Published
from embeddaemon.models.sources import Source, SourceKind, package_version, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import known, pinned_sha256
from embeddaemon.models.weights import WeightsHeader, find_weights, headers_digest, read_headers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What lies in a folder."""

    files: FileSet
    pipeline: Pipeline
    config: JsonFile
    weights_files: tuple[str, ...]
    """Within the folder."""
    headers: tuple[WeightsHeader, ...]
    body: Body


def read_card(spec: ModelSpec, folder: Path) -> ModelCard:
    """The card of a model in ``folder``, as sentence-transformers 6.2 would read it, with the spec's overrides.

    Raises ModelNotFound (no folder), CorruptModel (incomplete, damaged), UnsafeModel (everybody may change it),
    UnsupportedModel (not served here) and ConfigError (the spec asks for what the model cannot do).
    """
    if not folder.is_dir():
        raise ModelNotFound(f"model {spec.name}: there is no folder {folder}")
    seen, source = _look(spec, folder), parse_source(spec.source)
    found = known(source, spec.name)
    if found is None or is_of_family(found, seen.body.family):
        return _card(spec, folder, source, seen, found)
    card = _card(spec, folder, source, seen, None)
    return replace(card, notes=(*card.notes, *table_notes(found, card.family)))


def _look(spec: ModelSpec, folder: Path) -> _Seen:
    files = read_fileset(folder)  # before anything is read: a change from here on is noticed
    refuse_other_files(folder)
    pipeline = read_pipeline(folder)
    config = read_json(pipeline.transformer / "config.json")
    if not config.is_present:
        raise CorruptModel(f"model {spec.name}: {config.path} is missing; a model folder has one")
    names = find_weights(pipeline.transformer)
    headers = read_headers(pipeline.transformer, names)
    within = pipeline.transformer.relative_to(folder)
    tensors = [entry for header in headers for entry in header.tensors]
    body = read_body(config, tensors)
    refuse_options(config, body.family)
    refuse_disagreement(config, body, tensors)
    refuse_broken_tokenizer(pipeline.transformer)
    return _Seen(
        files=files,
        pipeline=pipeline,
        config=config,
        weights_files=tuple(str(within / name) for name in names),
        headers=headers,
        body=body,
    )


def _card(spec: ModelSpec, folder: Path, source: Source, seen: _Seen, entry: Published | None) -> ModelCard:
    """``entry`` is of the table. Raises what ``read_card`` raises."""
    pipeline, body, headers = seen.pipeline, seen.body, seen.headers
    pooling = choose_pooling(spec, pipeline, seen.config, entry)
    habits = conventions(body, seen.config, pipeline, pooling)
    pooled_dim = body.hidden * len(pooling)
    cuts = trained_cuts(entry, pipeline.dense.heads[0].dim if pipeline.dense.heads else pooled_dim)
    sizes = sizes_of(spec, pipeline, pooled_dim, cuts)
    heads_files = tuple(layer.file for head in pipeline.dense.heads for layer in head.layers)
    tasks, said = choose_tasks(spec, pipeline, entry), _stated_length(pipeline, body.positions)
    max_tokens = choose_length(spec, body.positions, said, entry)
    licence = licence_of_folder(folder) or (None if entry is None else entry.licence)
    return ModelCard(
        name=spec.name,
        folder=str(folder),
        revision=_revision(source, folder, (*seen.weights_files, *heads_files)),
        family=body.family,
        dim=sizes.dim,
        pooled_dim=sizes.pooled_dim,
        max_tokens=max_tokens,
        vocabulary=body.vocabulary,
        pooling=pooling,
        normalize=choose_unit_length(spec, pipeline, entry, habit=habits.normalize),
        include_prompt=habits.include_prompt,
        closing_token=habits.closing_token,
        pools_last_prompt_token=habits.pools_last_prompt_token,
        prompts=tasks.prompts,
        default_task=tasks.default_task,
        dimensions=sizes.dimensions,
        heads=pipeline.dense.heads,
        cut_after_layer_norm=bool(cuts) and entry is not None and entry.cut_after_layer_norm,
        weights_files=seen.weights_files,
        weights_bytes=sum(header.file_bytes for header in headers),
        weights_digest=headers_digest((*headers, *pipeline.dense.headers)),
        parameters=sum(header.parameters for header in headers),
        is_causal=body.is_causal,
        hidden=body.hidden,
        layers=body.layers,
        attention_heads=body.attention_heads,
        key_value_heads=body.key_value_heads,
        attention_width=body.attention_width,
        intermediate=body.intermediate,
        gated=body.gated,
        source=str(source),
        licence=licence,
        notes=(
            *licence_notes(licence),
            *family_notes(body.family),
            *prompt_notes(tasks.prompts, tasks.default_task, entry),
            *length_notes(max_tokens, body.positions, said),
        ),
        files=replace(seen.files, sha256=_sha256(spec, source, seen), is_sealed=spec.weights == "sealed"),
    )


def _stated_length(pipeline: Pipeline, positions: int) -> int | None:
    """The longest text in tokens by the folder's own word, as sentence-transformers reads it; None: it has none."""
    sentence = pipeline.sentence
    said = sentence.section("processor_kwargs").integer("model_max_length")
    said = said or sentence.section("tokenizer_args").integer("model_max_length")
    said = said or sentence.integer("max_seq_length")
    if said:
        return said
    # New folders have no max_seq_length; there the limit is the tokenizer's, where it is one.
    tokenizers = read_json(pipeline.transformer / "tokenizer_config.json").integer("model_max_length")
    return tokenizers if tokenizers and tokenizers < positions else None


def _sha256(spec: ModelSpec, source: Source, seen: _Seen) -> Mapping[str, str]:
    """The digest of each weights file, or of none; heads may have theirs. Raises ConfigError where one is missing."""
    said, weights_files = spec.sha256 or pinned_sha256(source), seen.weights_files
    if said is None:
        return {}
    if isinstance(said, str):
        if len(weights_files) > 1:
            raise ConfigError(
                f"model {spec.name}: sha256 is of one file, the weights are in {len(weights_files)}: "
                f"give a table with a digest for each of {', '.join(weights_files)}"
            )
        return {weights_files[0]: said.lower()}
    if missing := sorted(set(weights_files) - said.keys()):
        raise ConfigError(f"model {spec.name}: sha256 has no digest of {', '.join(missing)}")
    if unknown := sorted(said.keys() - set(seen.files.names)):
        raise ConfigError(
            f"model {spec.name}: sha256 names {', '.join(unknown)}; the weights are in {', '.join(weights_files)}"
        )
    return {name: digest.lower() for name, digest in said.items()}


def _revision(source: Source, folder: Path, weights_paths: tuple[str, ...]) -> str:
    """Hub commit or package version where there is one, else a short digest of the weights' sizes and times."""
    if source.kind is SourceKind.HUB and folder.parent.name == "snapshots":
        return folder.name
    if source.kind is SourceKind.PACKAGE and (version := package_version(source.name)):
        return version
    marks = [(folder / name).stat() for name in weights_paths]
    story = ",".join(f"{mark.st_size}:{mark.st_mtime_ns}" for mark in marks)
    return hashlib.sha256(story.encode()).hexdigest()[:16]
