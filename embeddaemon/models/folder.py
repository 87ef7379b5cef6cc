"""A model's folder to its ``ModelCard``: what is there, whether it is served, and what the operator declared on top.

Reads configurations and the header of the weights, never a weight. The pipeline's files are read in pipeline.py, the
transformer's own here. What a family needs to be computed is the engine's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from embeddaemon.errors import ConfigError, CorruptModel, ModelNotFound
from embeddaemon.models.body import read_body
from embeddaemon.models.card import ModelCard
from embeddaemon.models.conventions import conventions
from embeddaemon.models.fileset import FileSet, read_fileset
from embeddaemon.models.jsonfile import read_json
from embeddaemon.models.other_kinds import refuse_other_files
from embeddaemon.models.pipeline import Pipeline, read_pipeline
from embeddaemon.models.sources import Source, SourceKind, package_version, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import known, pinned_sha256
from embeddaemon.models.weights import find_weights, headers_digest, read_headers

_MOST_TOKENS_UNASKED = 8192
"""Where nothing but the table of positions bounds a text: what a model could take and was hardly ever tried with costs
memory for everybody. A spec's max_tokens goes beyond."""


def read_card(spec: ModelSpec, folder: Path) -> ModelCard:
    """The card of a model in ``folder``, as sentence-transformers 6.2 would read it, with the spec's overrides.

    Raises ModelNotFound (no folder), CorruptModel (incomplete, damaged), UnsafeModel (everybody may change it),
    UnsupportedModel (not served here) and ConfigError (the spec asks for what the model cannot do).
    """
    if not folder.is_dir():
        raise ModelNotFound(f"model {spec.name}: there is no folder {folder}")
    files = read_fileset(folder)  # before anything is read: a change from here on is noticed
    source = parse_source(spec.source)
    refuse_other_files(folder)
    pipeline = read_pipeline(folder)
    config = read_json(pipeline.transformer / "config.json")
    if not config.is_present:
        raise CorruptModel(f"model {spec.name}: {config.path} is missing; a model folder has one")
    weights_files = find_weights(pipeline.transformer)
    headers = read_headers(pipeline.transformer, weights_files)
    body = read_body(config, [entry for header in headers for entry in header.tensors])
    within = pipeline.transformer.relative_to(folder)
    weights_paths = tuple(str(within / name) for name in weights_files)
    pooling = pipeline.pooling if spec.pooling is None else spec.pooling
    habits = conventions(body, config, pipeline, pooling)
    dim = body.hidden * len(pooling)
    prompts, default_task = _tasks(spec, source, pipeline)
    return ModelCard(
        name=spec.name,
        folder=str(folder),
        revision=_revision(source, folder, pipeline.transformer, weights_files),
        family=body.family,
        dim=dim,
        max_tokens=_max_tokens(spec, body.positions, pipeline),
        vocabulary=body.vocabulary,
        pooling=pooling,
        normalize=habits.normalize if spec.normalize is None else spec.normalize,
        include_prompt=habits.include_prompt,
        closing_token=habits.closing_token,
        pools_last_prompt_token=habits.pools_last_prompt_token,
        prompts=prompts,
        default_task=default_task,
        dimensions=_dimensions(spec, dim),
        weights_files=weights_paths,
        weights_bytes=sum(header.file_bytes for header in headers),
        weights_digest=headers_digest(headers),
        parameters=sum(header.parameters for header in headers),
        is_causal=body.is_causal,
        hidden=body.hidden,
        layers=body.layers,
        attention_heads=body.attention_heads,
        key_value_heads=body.key_value_heads,
        intermediate=body.intermediate,
        gated=body.gated,
        source=str(source),
        licence=known(source).licence,
        files=replace(files, sha256=_sha256(spec, source, weights_paths, files), is_sealed=spec.weights == "sealed"),
    )


def _max_tokens(spec: ModelSpec, positions: int, pipeline: Pipeline) -> int:
    """The folder's limit as sentence-transformers takes it, at most the usable positions; the spec's goes first."""
    if spec.max_tokens is not None:
        if not 1 <= spec.max_tokens <= positions:
            raise ConfigError(f"model {spec.name}: max_tokens is {spec.max_tokens}, the model can do 1 to {positions}")
        return spec.max_tokens
    # New folders have no max_seq_length; there the limit is the tokenizer's.
    sentence = pipeline.sentence
    said = sentence.section("processor_kwargs").integer("model_max_length")
    said = said or sentence.section("tokenizer_args").integer("model_max_length")
    said = said or sentence.integer("max_seq_length")
    if not said:
        said = read_json(pipeline.transformer / "tokenizer_config.json").integer("model_max_length")
    return min(said or positions, positions, _MOST_TOKENS_UNASKED)


def _tasks(spec: ModelSpec, source: Source, pipeline: Pipeline) -> tuple[Mapping[str, str], str | None]:
    """Prompts and default task: the spec's, else the folder's, else the table's."""
    prompts, default_task = pipeline.prompts, pipeline.default_task
    if not any(prompts.values()) and known(source).prompts:
        prompts = known(source).prompts
    if spec.prompts is not None:
        prompts, default_task = spec.prompts, None
    if spec.default_task is not None:
        default_task = spec.default_task
    if default_task is not None and default_task not in prompts:
        raise ConfigError(
            f"model {spec.name}: default_task is {default_task!r}, the model's tasks are {', '.join(prompts) or 'none'}"
        )
    return dict(prompts), default_task


def _dimensions(spec: ModelSpec, dim: int) -> tuple[int, ...]:
    for wanted in spec.dimensions:
        if not 1 <= wanted <= dim:
            raise ConfigError(f"model {spec.name}: dimensions has {wanted}, the model can do 1 to {dim}")
    return tuple(sorted({dim, *spec.dimensions}, reverse=True))


def _sha256(
    spec: ModelSpec, source: Source, weights_files: tuple[str, ...], files: FileSet
) -> Mapping[str, str]:
    """The digest of each weights file, or of none; heads may have theirs. Raises ConfigError where one is missing."""
    said = spec.sha256 or pinned_sha256(source)
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
    if unknown := sorted(said.keys() - set(files.names)):
        raise ConfigError(
            f"model {spec.name}: sha256 names {', '.join(unknown)}; the weights are in {', '.join(weights_files)}"
        )
    return {name: digest.lower() for name, digest in said.items()}


def _revision(source: Source, folder: Path, transformer: Path, weights_files: tuple[str, ...]) -> str:
    """Hub commit or package version where there is one, else a short digest of the weights' sizes and times."""
    if source.kind is SourceKind.HUB and folder.parent.name == "snapshots":
        return folder.name
    if source.kind is SourceKind.PACKAGE and (version := package_version(source.name)):
        return version
    marks = [(transformer / name).stat() for name in weights_files]
    story = ",".join(f"{mark.st_size}:{mark.st_mtime_ns}" for mark in marks)
    return hashlib.sha256(story.encode()).hexdigest()[:16]
