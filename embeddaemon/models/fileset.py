"""Which files a model consists of, what they must hash to, and marks by which a change of any of them is noticed.

Names and ``os.stat`` only; who may write the files is in ownership.py, what is in them is read elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from embeddaemon.errors import CorruptModel, ModelChanged, UnsupportedModel
from embeddaemon.models.jsonfile import read_bytes
from embeddaemon.models.ownership import Ways
from embeddaemon.models.weights import INDEX_FILE, SINGLE_FILE, find_weights, json_value

_OF_FOLDER = ("modules.json", "config_sentence_transformers.json")
_OF_MODULE = ("config.json", SINGLE_FILE)
_OF_TRANSFORMER = (
    *_OF_MODULE,
    INDEX_FILE,
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model"),
    *(
        f"sentence_{family}_config.json"
        for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
_MODULE_FOLDERS = "[0-9]*_*"
"""What sentence-transformers calls the folders of modules; those of further heads stand in no list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """The files of a model as they were when its card was read."""

    names: tuple[str, ...] = ()
    """Within the model's folder: all that is read of it, whether or not it is there."""
    marks: str = ""
    """Stands for device, number, size and time of each; another one as soon as one of them is changed or replaced."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Digest that a weights file must have, by its name within the folder; empty: not known."""
    is_sealed: bool = False
    """Whether weights are copied into sealed memory before anything of them is believed."""


def file_names(folder: Path) -> tuple[str, ...]:
    """All that may be read of a model in ``folder``, sorted.

    A damaged list of files counts as none: it is read again, and refused, by whoever needs it.
    """
    names = set(_OF_FOLDER)
    for place in {PurePosixPath(), *_module_places(folder)}:
        is_transformers = place == PurePosixPath() or place.name.endswith("Transformer")
        names |= {str(place / name) for name in (_OF_TRANSFORMER if is_transformers else _OF_MODULE)}
        if is_transformers:
            names |= {str(place / name) for name in _weights(folder / place)}
    return tuple(sorted(names))


def _module_places(folder: Path) -> set[PurePosixPath]:
    places = {PurePosixPath(path.name) for path in folder.glob(_MODULE_FOLDERS) if path.is_dir()}
    try:
        raw = read_bytes(folder / "modules.json")
        modules = None if raw is None else json_value(raw, "modules.json")
    except CorruptModel:
        return places
    for module in modules if isinstance(modules, list) else ():
        path = str(module.get("path") or "") if isinstance(module, dict) else ""
        if leads_within(path):
            places.add(PurePosixPath(path))
    return places


def leads_within(path: str) -> bool:
    """Whether a path from a file of the model is one that the system could have, and stays in the model's folder."""
    place = PurePosixPath(path)
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return not place.is_absolute() and ".." not in place.parts and "\0" not in path


def _weights(folder: Path) -> tuple[str, ...]:
    try:
        return find_weights(folder)
    except (CorruptModel, UnsupportedModel, OSError):
        return ()


def marks_of(folder: Path, names: tuple[str, ...]) -> str:
    """A digest of device, number, size and time of each file. Raises OSError where one can be neither seen nor missed.

    Asks the file system once for each name, which takes as long as it takes: seconds or for ever on a network.
    """
    digest = hashlib.sha256()
    for name in names:
        try:
            found = os.stat(folder / name)  # noqa: PTH116 - the descriptor-less form that follows links once, like open()
            mark = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
        except (FileNotFoundError, NotADirectoryError):
            mark = "absent"
        digest.update(f"{name}\0{mark}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def read_fileset(folder: Path) -> FileSet:
    """The files of a model, with their marks, before anything of them is believed.

    Raises UnsafeModel when others may change one of them, CorruptModel when the file system does not answer.
    """
    ways = Ways()
    ways.check(folder)
    try:
        names = file_names(folder)
        for name in names:
            ways.check(folder / name)
        return FileSet(names=names, marks=marks_of(folder, names))
    except OSError as error:
        raise CorruptModel(f"{folder} cannot be read: {error.strerror or error}") from error


def check_unchanged(folder: Path, files: FileSet) -> None:
    """Raises ModelChanged when a file is not the one any more that the card was read from."""
    if not files.names:
        return
    try:
        marks = marks_of(folder, files.names)
    except OSError as error:
        raise CorruptModel(f"{folder} cannot be read: {error.strerror or error}") from error
    if marks != files.marks:
        raise ModelChanged(f"the files of {folder} changed while the model was being loaded")
