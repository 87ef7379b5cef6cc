"""Safetensors files, checked before anybody maps or reads them: only the header is read here, never a weight.

The rules are those of the format (safetensors, ``tensor.rs``): offsets start at 0, without holes or overlaps, sizes
equal shape times dtype, nothing behind the last tensor. Broken in any way means ``CorruptModel`` with the path and the
reason. Reading the tensors themselves is in workers/checkpoint.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from embeddaemon.errors import CorruptModel, ModelNotFound, UnsupportedModel
from embeddaemon.models.opening import check_open, checked_bytes, open_file, read_exactly, refuse_pointer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""The format allows 100 MB; published headers are far below one, and the supervisor reads them too."""

MAX_INDEX_BYTES = 16 * 1024 * 1024

_LENGTH_BYTES = 8
_POINTER_BEGINS, _POINTER_BYTES = b"version ", 64
"""Of what git-lfs leaves in a file's place; as a length it would be far beyond any file."""
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E5M2", "F8_E4M3"})
_PICKLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl)$")
# Heads of other tasks, and buffers that old files carry along: never read, never held.
_HEADS = (
    "pooler|cls|lm_head|classifier|vocab_transform|vocab_layer_norm|vocab_projector"
    "|discriminator_predictions|generator_predictions|generator_lm_head|lm_predictions|mask_predictions"
    r"|head\.dense|head\.norm"
)
_LEFT_OUT = re.compile(rf"(\w+\.)?({_HEADS})\..*|decoder\.(weight|bias)|(.*\.)?(position_ids|inv_freq)")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: ``start`` and ``end`` are bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return (self.end - self.start) // _DTYPE_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS

    @property
    def is_left_out(self) -> bool:
        """Whether no family that is served has a use for it."""
        return _LEFT_OUT.fullmatch(self.name) is not None


@dataclass(frozen=True, slots=True)
class WeightsHeader:
    """The checked header of one file; its tensors in the order in which they lie in the file."""

    path: str
    file_bytes: int
    tensors: tuple[TensorEntry, ...]

    @property
    def parameters(self) -> int:
        """Of the tensors that are read."""
        return sum(entry.elements for entry in self.tensors if entry.is_float and not entry.is_left_out)


def find_weights(folder: Path) -> tuple[str, ...]:
    """The names of the weights files in ``folder``.

    Raises CorruptModel where there is none, UnsupportedModel where there are only pickles.
    """
    if (folder / SINGLE_FILE).exists():
        return (SINGLE_FILE,)
    if (folder / INDEX_FILE).exists():
        return _shards(folder / INDEX_FILE)
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is not a folder")
    names = (path.name for path in folder.iterdir() if _PICKLE.match(path.name))
    pickles = sorted(names, key=lambda name: (not name.startswith("pytorch_model"), name))  # not a head, where both are
    if pickles:
        raise UnsupportedModel(
            f"{folder} has its weights only as a pickle ({pickles[0]}), which can run code when it is read and is not "
            f"loaded here; convert it to {SINGLE_FILE}"
        )
    raise CorruptModel(f"{folder} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE}")


def read_headers(folder: Path, names: tuple[str, ...]) -> tuple[WeightsHeader, ...]:
    """The headers of the named files, checked one by one and against the index where there are several."""
    headers = tuple(read_header(folder / name) for name in names)
    if len(headers) > 1:
        _check_index(folder / Path(names[0]).parent / INDEX_FILE, headers)
    return headers


def read_header(path: Path) -> WeightsHeader:
    """The header of one file, checked. Raises CorruptModel."""
    try:
        with open_file(path) as file:
            return header_of(file, str(path))
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror or error}") from error


def headers_digest(headers: tuple[WeightsHeader, ...]) -> str:
    """SHA-256, as hex, of the tensors' names, dtypes and shapes in their order, whatever their values are."""
    tensors = [[entry.name, entry.dtype, entry.shape] for header in headers for entry in header.tensors]
    return hashlib.sha256(json.dumps(tensors).encode()).hexdigest()


def header_of(file: BinaryIO, path: str) -> WeightsHeader:
    """The header of an open file, checked; ``path`` is for messages. Leaves the position behind the header."""
    file_bytes = check_open(file, path).st_size
    head = file.read(_LENGTH_BYTES)
    if head == _POINTER_BEGINS:
        refuse_pointer(head + file.read(_POINTER_BYTES), path)
    header_bytes = header_length(head, file_bytes, path)
    raw = read_exactly(file, header_bytes, path)
    return parse_header(raw, _LENGTH_BYTES + header_bytes, file_bytes, path)


def header_length(head: bytes, file_bytes: int, path: str) -> int:
    """The length of the JSON header from a file's first eight bytes, within bounds."""
    if len(head) < _LENGTH_BYTES:
        raise CorruptModel(f"{path} has only {file_bytes} bytes, too few for a safetensors file")
    length = int.from_bytes(head, "little")
    if length > file_bytes - _LENGTH_BYTES:
        raise CorruptModel(
            f"{path} is not a safetensors file or is cut short: it announces a header of {length} bytes, "
            f"the whole file has {file_bytes}"
        )
    if length > MAX_HEADER_BYTES:
        raise CorruptModel(f"{path} has a header of {length} bytes, the limit is {MAX_HEADER_BYTES}")
    return length


def parse_header(raw: bytes, data_start: int, file_bytes: int, path: str) -> WeightsHeader:
    """The JSON header checked against the file's size. ``data_start``: where the first tensor's bytes begin."""
    values = json_object(raw, path, "header")
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptModel(f"{path}: the header's __metadata__ is not a map of text")
    entries = sorted(
        (_entry(name, value, data_start, path) for name, value in values.items()),
        key=lambda entry: (entry.start, entry.end),
    )
    position = data_start
    for entry in entries:
        if entry.start != position:
            kind = "a hole before" if entry.start > position else "an overlap at"
            raise CorruptModel(f"{path}: {kind} the bytes of tensor {entry.name!r}")
        position = entry.end
    if position != file_bytes:
        raise CorruptModel(
            f"{path} is {'cut short' if position > file_bytes else 'followed by bytes of no tensor'}: "
            f"its header describes {position} bytes, the file has {file_bytes}"
        )
    return WeightsHeader(path=path, file_bytes=file_bytes, tensors=tuple(entries))


def _entry(name: str, value: object, data_start: int, path: str) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CorruptModel(f"{path}: the header's entry {name[:200]!r} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise CorruptModel(f"{path}: tensor {name[:200]!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise CorruptModel(f"{path}: tensor {name[:200]!r} has a shape or offsets that are not sizes")
    wanted = _DTYPE_BYTES[dtype]
    for size in shape:
        wanted *= size
        if wanted >= 2**63:
            raise CorruptModel(f"{path}: tensor {name[:200]!r} is too large: shape {shape}")
    start, end = offsets
    if end - start != wanted:
        raise CorruptModel(
            f"{path}: tensor {name[:200]!r} of dtype {dtype} and shape {shape} takes {wanted} bytes, "
            f"its offsets say {end - start}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def json_value(raw: bytes, path: str, what: str = "file") -> object:
    """Any JSON whose keys are unique, or CorruptModel, whatever the bytes are."""
    refuse_pointer(raw, path)
    try:
        value: object = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{path}: the {what} is not valid JSON: {str(error)[:200]}") from error
    return value


def json_object(raw: bytes, path: str, what: str = "file") -> dict[str, object]:
    """A JSON object whose keys are unique, or CorruptModel, whatever the bytes are."""
    value = json_value(raw, path, what)
    if not isinstance(value, dict):
        raise CorruptModel(f"{path}: the {what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _weight_map(path: Path) -> Mapping[str, str]:
    try:
        raw = checked_bytes(path, MAX_INDEX_BYTES)
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror or error}") from error
    names = json_object(raw, str(path)).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CorruptModel(f"{path} has no weight_map")
    for tensor, name in names.items():
        # A name with a folder in it could lead anywhere on the machine.
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise CorruptModel(
                f"{path}: tensor {tensor[:200]!r} is said to be in {str(name)[:200]!r}, no plain file name"
            )
    return names


def _shards(index: Path) -> tuple[str, ...]:
    return tuple(sorted(set(_weight_map(index).values())))


def _check_index(index: Path, headers: tuple[WeightsHeader, ...]) -> None:
    said = dict(_weight_map(index))
    for header in headers:
        name = Path(header.path).name
        for entry in header.tensors:
            if said.pop(entry.name, None) != name:
                raise CorruptModel(f"{index} and {name} disagree about tensor {entry.name[:200]!r}")
    if said:
        raise CorruptModel(f"{index} names tensors that no file has: {', '.join(sorted(said)[:5])}")
