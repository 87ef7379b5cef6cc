"""Who decides: what the operator declared goes first, then the folder's own word, then the table's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embeddaemon.errors import ConfigError
from embeddaemon.models.jsonfile import JsonFile
from embeddaemon.models.pipeline import Pipeline
from embeddaemon.models.published import Published
from embeddaemon.models.spec import ModelSpec, Pooling

MOST_TOKENS_UNASKED = 8192
"""Of one text: what a model could take and was hardly ever tried with costs memory for everybody. A spec's max_tokens
goes beyond."""

_ALWAYS = ("query", "document")
"""Tasks that every model has in sentence-transformers 6.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Task name to prompt, and the one that goes for texts for which none is named."""

    prompts: Mapping[str, str]
    default_task: str | None


def is_of_family(entry: Published, family: str) -> bool:
    """Whether an entry can be of a model of ``family``. Some languages of Jina v2 may have either variant."""
    return entry.family.removesuffix("-code") == family.removesuffix("-code")


def choose_pooling(
    spec: ModelSpec, pipeline: Pipeline, config: JsonFile, entry: Published | None
) -> tuple[Pooling, ...]:
    """The pooling; of a bare transformer the table's, else what sentence-transformers takes for one."""
    if spec.pooling is not None:
        return spec.pooling
    if not pipeline.is_bare:
        return pipeline.pooling
    if entry is not None and entry.pooling is not None:
        return (entry.pooling,)
    architectures = config.texts("architectures")
    is_writer = bool(architectures) and architectures[0].endswith("ForCausalLM")
    return (Pooling.LAST_TOKEN if is_writer and config.boolean("is_causal", default=True) else Pooling.MEAN,)


def choose_unit_length(spec: ModelSpec, pipeline: Pipeline, entry: Published | None, *, habit: bool) -> bool:
    """Whether the model's own pipeline ends with unit length; ``habit`` is the word of the folder and of its code."""
    if spec.normalize is not None:
        return spec.normalize
    return habit or (pipeline.is_bare and entry is not None and bool(entry.normalizes))


def choose_tasks(spec: ModelSpec, pipeline: Pipeline, entry: Published | None) -> Tasks:
    """The tasks. Raises ConfigError for a default that is none of them."""
    prompts, default_task = _with_table(pipeline.prompts, entry), pipeline.default_task
    if spec.prompts is not None:
        prompts, default_task = spec.prompts, None
    if spec.default_task is not None:
        default_task = spec.default_task
    if default_task is not None and default_task not in prompts:
        raise ConfigError(
            f"model {spec.name}: default_task is {default_task!r}, the model's tasks are {', '.join(prompts) or 'none'}"
        )
    return Tasks(prompts=dict(prompts), default_task=default_task)


def _with_table(own: Mapping[str, str], entry: Published | None) -> Mapping[str, str]:
    """The folder's prompts and, where it has none that says anything, the table's.

    sentence-transformers writes empty ones for ``query`` and ``document`` into every folder that it saves, so empty
    ones are nobody's word. In a folder with prompts of its own it takes both for empty where they are not there, and so
    ``encode_document`` puts nothing before a text though there is a ``passage`` (its ``_default_prompts``): here too.
    The table then gives further names only for what the folder says itself, and for no prompt at all.
    """
    if not any(own.values()):
        return own if entry is None else {**own, **entry.prompts}
    own = {**dict.fromkeys(_ALWAYS, ""), **own}
    if entry is None:
        return own
    said = {"", *own.values()}
    return {**{task: prompt for task, prompt in entry.prompts.items() if prompt in said}, **own}


def choose_length(spec: ModelSpec, positions: int, said: int | None, entry: Published | None) -> int:
    """Most tokens of a text; ``positions`` is what the model can do, ``said`` the folder's word, if it has one.

    Raises ConfigError for a spec beyond the model.
    """
    if spec.max_tokens is not None:
        if not 1 <= spec.max_tokens <= positions:
            raise ConfigError(f"model {spec.name}: max_tokens is {spec.max_tokens}, the model can do 1 to {positions}")
        return spec.max_tokens
    recommended = positions if entry is None else entry.max_tokens
    return min(said or recommended, positions, MOST_TOKENS_UNASKED)


def trained_cuts(entry: Published | None, whole_dim: int) -> tuple[int, ...]:
    """Dimensions to which a vector may be cut; none where the folder's vectors are not those of the entry."""
    return entry.cut_dimensions if entry is not None and entry.dim == whole_dim else ()
