"""The pipeline around the transformer, as sentence-transformers 6.2 reads it from a folder.

modules.json, pooling, normalise and prompts; dense layers are read in heads.py. Module types are matched by their last
dotted part, since their packages were renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.fileset import leads_within
from embeddaemon.models.heads import FoundHeads, read_heads
from embeddaemon.models.jsonfile import JsonFile, read_bytes, read_json
from embeddaemon.models.other_kinds import refuse_other_modules
from embeddaemon.models.spec import Pooling
from embeddaemon.models.weights import json_value

# The booleans of old folders, in the order in which sentence-transformers concatenates.
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
}

# The first that is not empty wins.
_SENTENCE_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

_BEGIN = ["Transformer", "Pooling"]
_SERVED = frozenset({*_BEGIN, "Dense", "Normalize"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What happens around the transformer, by the folder's own word."""

    transformer: Path
    """The folder with the transformer's config, weights and tokenizer."""
    sentence: JsonFile
    """``sentence_bert_config.json``: limits and switches of the tokenizer."""
    pooling: tuple[Pooling, ...] = (Pooling.MEAN,)
    include_prompt: bool = True
    dense: FoundHeads = field(default_factory=FoundHeads)
    normalize: bool = False
    truncate_dim: int | None = None
    """Dimensions to which vectors are cut where nobody asks for others."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_task: str | None = None
    is_bare: bool = False
    """No modules.json: what is here is what is taken then, not the folder's word."""


@dataclass(frozen=True, slots=True)
class _Module:
    kind: str
    folder: Path


def read_pipeline(folder: Path) -> Pipeline:
    """The pipeline of a folder. Raises CorruptModel and, for modules that are not served, UnsupportedModel."""
    modules = _modules(folder)
    if modules is None:  # a bare transformer: sentence-transformers reads no file of its own then
        sentence = JsonFile(folder / _SENTENCE_CONFIGS[0], {}, is_present=False)
        return Pipeline(transformer=folder, sentence=sentence, is_bare=True)
    settings = read_json(folder / "config_sentence_transformers.json")
    prompts, default_task = _prompts(settings)
    kinds = [module.kind for module in modules]
    refuse_other_modules(kinds, folder / "modules.json")
    dense = [module.folder for module in modules if module.kind == "Dense"]
    if kinds not in [[*_BEGIN, *["Dense"] * len(dense)], [*_BEGIN, *["Dense"] * len(dense), "Normalize"]]:
        unknown = [kind for kind in kinds if kind not in _SERVED]
        named = f"the module {', '.join(unknown)}" if unknown else f"modules in the order {', '.join(kinds)}"
        raise UnsupportedModel(
            f"{folder / 'modules.json'} has {named}; served are Transformer, Pooling, any number of Dense, Normalize"
        )
    pooling = read_json(modules[1].folder / "config.json")
    return Pipeline(
        transformer=modules[0].folder,
        sentence=_sentence_config(modules[0].folder),
        pooling=_pooling(pooling),
        include_prompt=pooling.boolean("include_prompt", default=True),
        dense=read_heads(folder, dense),
        normalize="Normalize" in kinds,
        truncate_dim=settings.integer("truncate_dim") or None,
        prompts=prompts,
        default_task=default_task,
    )


def _sentence_config(transformer: Path) -> JsonFile:
    """``sentence_bert_config.json``, or what it was called for other families; empty where there is none."""
    for name in _SENTENCE_CONFIGS:
        config = read_json(transformer / name)
        if config.values:
            return config
    return JsonFile(transformer / _SENTENCE_CONFIGS[0], {}, is_present=False)


def _modules(folder: Path) -> list[_Module] | None:
    path = folder / "modules.json"
    raw = read_bytes(path)
    if raw is None:
        return None
    modules = json_value(raw, str(path))
    if not isinstance(modules, list) or not modules:
        raise CorruptModel(f"{path} is not a list of modules")
    return [_module(folder, path, module) for module in modules]


def _module(folder: Path, path: Path, module: object) -> _Module:
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise CorruptModel(f"{path} has a module without a type")
    where = module.get("path", "")
    if not isinstance(where, str) or not leads_within(where):
        raise CorruptModel(f"{path}: the module path {where!r} does not lead into the folder")
    return _Module(kind=str(module["type"]).rpartition(".")[2], folder=folder / where)


def _pooling(config: JsonFile) -> tuple[Pooling, ...]:
    if not config.is_present:
        raise CorruptModel(f"{config.path} is missing; modules.json announces it")
    names = config.texts("pooling_mode")
    if not names:
        old = tuple(mode for key, mode in _OLD_POOLING_KEYS.items() if config.boolean(key, default=False))
        return old or (Pooling.MEAN,)
    try:
        return tuple(Pooling(name) for name in names)
    except ValueError as error:
        allowed = ", ".join(mode.value for mode in Pooling)
        raise UnsupportedModel(f"{config.path} has the pooling {', '.join(names)}; served are {allowed}") from error


def _prompts(config: JsonFile) -> tuple[dict[str, str], str | None]:
    kind = config.text("model_type") or "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise UnsupportedModel(f"{config.path} says that this is a {kind}; served are SentenceTransformer models")
    prompts: dict[str, str] = {}
    for task, prompt in config.mapping("prompts").items():
        if prompt is not None and not isinstance(prompt, str):
            raise CorruptModel(f"{config.path}: the prompt {task!r} is not text")
        prompts[task] = prompt or ""
    default = config.text("default_prompt_name")
    if default is not None and default not in prompts:
        raise CorruptModel(f"{config.path}: default_prompt_name is {default!r}, its prompts are {', '.join(prompts)}")
    return prompts, default
