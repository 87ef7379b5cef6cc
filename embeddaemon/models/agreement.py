"""Whether a folder's files agree with each other: what does not would be found only when the model is loaded.

As far as config.json, names and shapes of tensors, and both ends of the tokenizer's file show it.
Not here: what an option means (options.py), whether every tensor is there (the engine, at the load).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from embeddaemon.errors import CorruptModel
from embeddaemon.models.body import Body
from embeddaemon.models.jsonfile import JsonFile, read_json
from embeddaemon.models.opening import both_ends
from embeddaemon.models.weights import TensorEntry

_LAYER = re.compile(r"(?:^|\.)layers?\.([0-9]{1,9})\.")
_STATED_ROWS = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})
"""Families whose ``vocab_size`` is taken by its word; elsewhere some are rounded, and the rows of the table count."""
_END_BYTES = 512
"""Of each end of a tokenizer's file, which has up to tens of megabytes: what stands there shows whether it is whole."""
_INDENTED_END = re.compile(rb"\n[ \t]+\}$")
"""Of an object within the file's own: behind it something is missing."""
_SPACE = b" \t\r\n"


def refuse_disagreement(config: JsonFile, body: Body, tensors: Sequence[TensorEntry]) -> None:
    """Raises CorruptModel where sizes of ``config`` contradict each other or the tensors."""
    sizes = config.section("text_config") if body.family == "nv-embed" else config
    _check_heads(sizes, body)
    _check_layers(sizes, body, tensors)
    _check_tables(sizes, body, tensors)


def _check_heads(sizes: JsonFile, body: Body) -> None:
    if not sizes.integer("head_dim") and body.hidden % body.attention_heads:
        raise CorruptModel(
            f"{sizes.path}: the hidden size {body.hidden} does not divide into {body.attention_heads} heads"
        )
    if body.attention_heads % body.key_value_heads:
        raise CorruptModel(
            f"{sizes.path}: {body.attention_heads} heads do not divide into num_key_value_heads {body.key_value_heads}"
        )


def _check_layers(sizes: JsonFile, body: Body, tensors: Sequence[TensorEntry]) -> None:
    found = (_LAYER.search(entry.name) for entry in tensors if not entry.is_left_out)
    numbers = {int(each[1]) for each in found if each is not None}
    if len(numbers) != body.layers or max(numbers, default=0) != body.layers - 1:
        named = f"{len(numbers)}, the last one number {max(numbers)}" if numbers else "none"
        raise CorruptModel(f"{sizes.path} has {body.layers} layers, the names of the tensors have {named}")


def _check_tables(sizes: JsonFile, body: Body, tensors: Sequence[TensorEntry]) -> None:
    stated = sizes.integer("vocab_size")
    if body.family in _STATED_ROWS and stated != body.vocabulary:
        raise CorruptModel(f"{sizes.path}: vocab_size is {stated}, the table of words has {body.vocabulary} rows")
    positions = sizes.integer("max_position_embeddings")
    for entry in tensors:
        if entry.name.endswith("embeddings.position_embeddings.weight") and entry.shape[:1] != (positions,):
            raise CorruptModel(
                f"{sizes.path}: max_position_embeddings is {positions}, the table of positions has the shape "
                f"{entry.shape}"
            )


def refuse_broken_tokenizer(folder: Path) -> None:
    """Raises CorruptModel where ``folder`` has no tokenizer, or one that cannot be whole: by both ends of its file."""
    read_json(folder / "tokenizer_config.json")
    path = folder / "tokenizer.json"
    ends = both_ends(path, _END_BYTES)
    if ends is not None:
        first, last = ends[0].lstrip(_SPACE), ends[1].rstrip(_SPACE)
        if not first.startswith(b"{") or not last.endswith(b"}") or _INDENTED_END.search(last):
            raise CorruptModel(
                f"{path} is not a tokenizer or is cut short: it is no JSON object from its begin to its end"
            )
        return
    words = folder / "vocab.txt"
    ends = both_ends(words, _END_BYTES)
    if ends is None:
        raise CorruptModel(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.txt")
    if not ends[0].strip(_SPACE):
        raise CorruptModel(f"{words} is empty")
