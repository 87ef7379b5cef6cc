"""A model's folder to its ``ModelCard``: what is there, whether it is served, and what the operator declared on top.

Reads configurations and the header of the weights, never a weight. The pipeline's files are read in pipeline.py, the
transformer's own here. What a family needs to be computed is the engine's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from embeddaemon.errors import ConfigError, CorruptModel, ModelNotFound, UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.jsonfile import JsonFile, read_json
from embeddaemon.models.pipeline import Pipeline, read_pipeline
from embeddaemon.models.sources import Source, SourceKind, package_version, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.table import known, pinned_sha256
from embeddaemon.models.weights import WeightsHeader, find_weights, headers_digest, read_headers

_COUNT_FROM_PAD = ("roberta", "xlm-roberta", "camembert")
"""Families whose positions begin behind the padding token's id, which takes as many from what a text can have."""
_FAMILIES = ("bert", *_COUNT_FROM_PAD)
_PAD = 1
"""Id of those families' padding token where the folder does not say."""

_HEADS_OF_OTHER_TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def read_card(spec: ModelSpec, folder: Path) -> ModelCard:
    """The card of a model in ``folder``, as sentence-transformers 6.2 would read it, with the spec's overrides.

    Raises ModelNotFound (no folder), CorruptModel (incomplete, damaged, unsafe), UnsupportedModel (not served here) and
    ConfigError (the spec asks for what the model cannot do).
    """
    if not folder.is_dir():
        raise ModelNotFound(f"model {spec.name}: there is no folder {folder}")
    source = parse_source(spec.source)
    pipeline = read_pipeline(folder)
    config = read_json(pipeline.transformer / "config.json")
    if not config.is_present:
        raise CorruptModel(f"model {spec.name}: {config.path} is missing; a model folder has one")
    weights_files = find_weights(pipeline.transformer)
    headers = read_headers(pipeline.transformer, weights_files)
    family = _family(config, headers)
    within = pipeline.transformer.relative_to(folder)
    pooling = pipeline.pooling if spec.pooling is None else spec.pooling
    dim = config.size("hidden_size") * len(pooling)
    prompts, default_task = _tasks(spec, source, pipeline)
    return ModelCard(
        name=spec.name,
        folder=str(folder),
        revision=_revision(source, folder, pipeline.transformer, weights_files),
        family=family,
        dim=dim,
        max_tokens=_max_tokens(spec, config, pipeline),
        vocabulary=config.size("vocab_size"),
        pooling=pooling,
        normalize=pipeline.normalize if spec.normalize is None else spec.normalize,
        include_prompt=pipeline.include_prompt,
        prompts=prompts,
        default_task=default_task,
        dimensions=_dimensions(spec, dim),
        weights_files=tuple(str(within / name) for name in weights_files),
        weights_bytes=sum(header.file_bytes for header in headers),
        weights_digest=headers_digest(headers),
        parameters=sum(header.parameters for header in headers),
        hidden=config.size("hidden_size"),
        intermediate=config.size("intermediate_size"),
        gated=False,
        source=str(source),
        licence=known(source).licence,
        sha256=_sha256(spec, source, weights_files),
    )


def _family(config: JsonFile, headers: tuple[WeightsHeader, ...]) -> str:
    """One of ``_FAMILIES`` or UnsupportedModel: by the config, confirmed by the tensors' names, which do not lie."""
    family = config.text("model_type")
    if family not in _FAMILIES:
        raise UnsupportedModel(
            f"{config.path}: the family {family!r} is not served yet; served are {', '.join(_FAMILIES)}"
        )
    for architecture in config.texts("architectures"):
        if architecture.endswith(_HEADS_OF_OTHER_TASKS):
            raise UnsupportedModel(f"{config.path}: {architecture} gives scores, not embeddings, and is not served yet")
    if config.boolean("is_decoder", default=False):
        raise UnsupportedModel(f"{config.path}: a {family} that is a decoder is not served")
    if _is_jina(config, headers):
        raise UnsupportedModel(
            f"{config.path}: this is Jina v2, which calls itself bert and is another architecture; not served yet"
        )
    if (positions := config.text("position_embedding_type")) not in {None, "absolute"}:
        raise UnsupportedModel(
            f"{config.path}: position_embedding_type {positions!r} is not served; served is absolute"
        )
    return family


def _is_jina(config: JsonFile, headers: tuple[WeightsHeader, ...]) -> bool:
    if config.text("position_embedding_type") == "alibi" or (config.text("feed_forward_type") or "").endswith("glu"):
        return True
    mentions = f"{config.mapping('auto_map')} {config.text('_name_or_path')}"
    if "jina-bert-implementation" in mentions or "jina-bert-v2-qk-post-norm" in mentions:
        return True
    marks = (".mlp.gated_layers.weight", ".mlp.up_gated_layer.weight", ".attention.self.layer_norm_q.weight")
    return any(entry.name.endswith(marks) for header in headers for entry in header.tensors)


def _max_tokens(spec: ModelSpec, config: JsonFile, pipeline: Pipeline) -> int:
    """The folder's limit as sentence-transformers takes it, at most the usable positions; the spec's goes first."""
    positions = _positions(config)
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
    return min(said or positions, positions)


def _positions(config: JsonFile) -> int:
    """The most tokens that the position table has room for. Raises CorruptModel."""
    positions = config.size("max_position_embeddings")
    if config.text("model_type") not in _COUNT_FROM_PAD:
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


def _sha256(spec: ModelSpec, source: Source, weights_files: tuple[str, ...]) -> str | None:
    sha256 = spec.sha256 or pinned_sha256(source)
    if sha256 is not None and len(weights_files) > 1:
        raise ConfigError(f"model {spec.name}: sha256 is of one file, the weights are in {len(weights_files)}")
    return sha256.lower() if sha256 else None


def _revision(source: Source, folder: Path, transformer: Path, weights_files: tuple[str, ...]) -> str:
    """Hub commit or package version where there is one, else a short digest of the weights' sizes and times."""
    if source.kind is SourceKind.HUB and folder.parent.name == "snapshots":
        return folder.name
    if source.kind is SourceKind.PACKAGE and (version := package_version(source.name)):
        return version
    marks = [(transformer / name).stat() for name in weights_files]
    story = ",".join(f"{mark.st_size}:{mark.st_mtime_ns}" for mark in marks)
    return hashlib.sha256(story.encode()).hexdigest()[:16]
