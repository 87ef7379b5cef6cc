"""Weights from safetensors files to tensors in memory, and into a model, strictly.

A file is opened once: its owner, mode and header are checked, its bytes are read (never mapped) and hashed through the
same descriptor, and its size and time are the same after as before. So nothing that happens to the path or the file
later reaches a running worker: no SIGBUS, no silently different weights. What a header must look like is in
models/weights.py, how a sealed copy is made in sealing.py.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path

import torch
from torch import nn

from embeddaemon.errors import CorruptModel, ModelChanged, UnsupportedModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.opening import check_open, open_file
from embeddaemon.models.weights import TensorEntry, header_of
from embeddaemon.workers.sealing import sealed_copy

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

_HASH_CHUNK_BYTES = 8 * 1024 * 1024

_PIECE_BYTES = 1024 * 1024
"""What is read at once of a tensor that is converted: it stays in the processor's cache."""


def read_tensors(card: ModelCard, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every tensor of a card's weights by its name in the file, floats as ``dtype``, in memory of our own.

    Heads of other tasks are left out (``TensorEntry.is_left_out``). What is converted is converted while it is read, so
    the result is all that it takes; with sealed weights plus the largest file. Raises CorruptModel, UnsafeModel,
    ModelChanged and UnsupportedModel.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in card.weights_files:
        tensors |= read_weights(card, name, dtype)
    return tensors


def read_weights(card: ModelCard, name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of one weights file of a card, ``name`` being relative to its folder; as ``read_tensors``."""
    # A hub cache consists of links to blobs: the link is followed once, the descriptor is what counts from there.
    path = Path(card.folder, name)
    sha256 = card.files.sha256.get(name)
    try:
        with open_file(path) as file:
            before = check_open(file, str(path))
            if not card.files.is_sealed:
                tensors = _read_file(file, str(path), dtype, sha256)
                _check_unchanged(file, before, str(path))
                return tensors
            with sealed_copy(file, before.st_size, str(path)) as copy:
                _check_unchanged(file, before, str(path))
                _check_digest(copy, str(path), sha256)
                return _read_file(copy, str(path), dtype, None)
    except OSError as error:
        raise CorruptModel(f"{path} cannot be read: {error.strerror or error}") from error


def _check_unchanged(file: FileIO, before: os.stat_result, path: str) -> None:
    """What was read is one version of the file: it was not written meanwhile, as far as its size and time say."""
    after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ModelChanged(f"{path} changed while it was read")


def _check_digest(file: FileIO, path: str, sha256: str | None) -> None:
    """The whole file has this digest; it stands at its beginning again then."""
    if sha256 is None:
        return
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise _wrong_digest(path, found, sha256)
    file.seek(0)


def _wrong_digest(path: str, found: str, wanted: str) -> CorruptModel:
    return CorruptModel(f"{path} has the SHA-256 {found}, it must be {wanted}")


def _read_file(file: FileIO, path: str, dtype: torch.dtype, sha256: str | None) -> dict[str, torch.Tensor]:
    header = header_of(file, path)
    digest = None if sha256 is None else _digest_so_far(file)
    tensors: dict[str, torch.Tensor] = {}
    for entry in header.tensors:  # in the order of the file, so that reading on is all there is to do
        if not entry.is_left_out:
            tensors[entry.name] = _read_tensor(file, entry, path, dtype, digest)
        elif digest is None:
            file.seek(entry.end - entry.start, os.SEEK_CUR)
        else:
            for _ in _pieces(file, entry, path, digest):
                pass
    if digest is not None and sha256 is not None and digest.hexdigest() != sha256:
        raise _wrong_digest(path, digest.hexdigest(), sha256)
    return tensors


def _digest_so_far(file: FileIO) -> hashlib._Hash:
    digest = hashlib.sha256()
    left = file.tell()
    file.seek(0)
    while left:
        chunk = file.read(min(left, _HASH_CHUNK_BYTES))
        digest.update(chunk)
        left -= len(chunk)
        if not chunk:
            break
    return digest


def _read_tensor(
    file: FileIO, entry: TensorEntry, path: str, dtype: torch.dtype, digest: hashlib._Hash | None
) -> torch.Tensor:
    """One tensor, in memory that torch aligned; a float as ``dtype``."""
    stored = _DTYPES.get(entry.dtype)
    if stored is None:
        raise UnsupportedModel(f"{path}: tensor {entry.name!r} is {entry.dtype}, which is not served")
    result = torch.empty(entry.shape, dtype=dtype if entry.is_float else stored)
    if result.dtype == stored:
        raw = result.view(-1).view(torch.uint8)
        _fill(file, raw, path)
        if digest is not None:
            digest.update(raw.numpy().data)
        return result
    flat, done = result.view(-1), 0
    for piece in _pieces(file, entry, path, digest):
        values = piece.view(stored)
        flat[done : done + len(values)] = values
        done += len(values)
    return result


def _pieces(file: FileIO, entry: TensorEntry, path: str, digest: hashlib._Hash | None) -> Iterator[torch.Tensor]:
    """The bytes of one tensor, whole elements at a time. Each piece lies where the one before it lay."""
    left = entry.end - entry.start
    piece = torch.empty(min(left, _PIECE_BYTES), dtype=torch.uint8)
    while left:
        piece = piece[: min(left, len(piece))]
        _fill(file, piece, path)
        if digest is not None:
            digest.update(piece.numpy().data)
        yield piece
        left -= len(piece)


def _fill(file: FileIO, raw: torch.Tensor, path: str) -> None:
    view = raw.numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise CorruptModel(f"{path} became shorter while it was read")
        view = view[count:]


def assign(model: nn.Module, tensors: Mapping[str, torch.Tensor], card: ModelCard, *, prefixes: Iterable[str]) -> None:
    """Makes ``tensors`` the parameters of ``model``, which owns none of its own yet (it was built on ``meta``).

    ``prefixes`` are what head classes put before the names (``bert.``). Any tensor that is missing, left over, or of
    another shape raises CorruptModel that names it.
    """
    named = {our_name(name, prefixes): tensor for name, tensor in tensors.items()}
    wanted = model.state_dict()
    where = f"{card.folder}: {', '.join(card.weights_files)}"
    if missing := sorted(wanted.keys() - named.keys()):
        raise CorruptModel(f"{where} has no {_some(missing)}, which a {card.family} model needs")
    if left := sorted(named.keys() - wanted.keys()):
        raise CorruptModel(f"{where} has {_some(left)}, which a {card.family} model does not know")
    for name, parameter in wanted.items():
        if parameter.shape != named[name].shape:
            raise CorruptModel(
                f"{where}: {name} has the shape {tuple(named[name].shape)}, "
                f"config.json makes it {tuple(parameter.shape)}"
            )
        if not named[name].is_floating_point():
            raise CorruptModel(f"{where}: {name} is {named[name].dtype}, a weight is a floating-point number")
    model.load_state_dict({name: named[name] for name in wanted}, assign=True)


def our_name(name: str, prefixes: Iterable[str]) -> str:
    """A tensor's name without what head classes put before it, and as torch calls gains and biases."""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    if name.endswith("LayerNorm.gamma"):  # as TensorFlow called them
        return name.removesuffix("gamma") + "weight"
    if name.endswith("LayerNorm.beta"):
        return name.removesuffix("beta") + "bias"
    return name


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
