"""Dense layers behind the pooling: the modules of a folder, checked, and the alternatives that lie beside one of them.

As sentence-transformers 6.2 reads them (its ``dense.py``), but for what it takes without saying so. Headers of the
weights only; the layers are computed in the engine.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embeddaemon.errors import CorruptModel, UnsupportedModel
from embeddaemon.models.card import Dense, Head
from embeddaemon.models.jsonfile import JsonFile, read_json
from embeddaemon.models.weights import SINGLE_FILE, WeightsHeader, find_weights, read_header

ACTIVATIONS = (
    *("Identity", "Tanh", "GELU", "ReLU", "SiLU", "Sigmoid", "Mish", "ELU", "SELU", "CELU", "ReLU6", "LeakyReLU"),
    *("Hardswish", "Hardsigmoid", "Hardtanh", "Softplus", "Softsign", "LogSigmoid", "Tanhshrink"),
)
"""Classes of torch.nn that make an activation without arguments."""

_ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.[a-z_]+\.)?([A-Za-z0-9]+)")
_UNSAID = "torch.nn.modules.activation.Tanh"
"""What sentence-transformers takes where the folder names no activation."""
_VECTOR = "sentence_embedding"
"""What the modules hand on to each other."""
_SIZED = re.compile(r"([0-9]+_Dense_)([1-9][0-9]*)")
"""A module's folder that is named after the dimensions that it gives."""


@dataclass(frozen=True, slots=True)
class FoundHeads:
    """What a folder has behind its pooling."""

    heads: tuple[Head, ...] = ()
    """The default one first, the others by their dimensions, descending."""
    headers: tuple[WeightsHeader, ...] = ()
    """Of their weights."""


def read_heads(folder: Path, modules: Sequence[Path]) -> FoundHeads:
    """The heads of a folder whose modules.json names these Dense modules, in their order.

    Raises CorruptModel and UnsupportedModel. Folders beside a single module, named like it with another size, are
    alternatives to it (Stella's published folders); one without weights that may be read is passed over.
    """
    if not modules:
        return FoundHeads()
    layers = [_read_layer(folder, module) for module in modules]
    for (before, _), (after, _) in itertools.pairwise(layers):
        if after.in_features != before.out_features:
            raise CorruptModel(
                f"{folder / after.file} takes {after.in_features} dimensions, the layer before gives "
                f"{before.out_features}"
            )
    default = Head(dim=layers[-1][0].out_features, layers=tuple(dense for dense, _ in layers))
    others = _alternatives(folder, modules[0], layers[0][0]) if len(modules) == 1 else []
    return FoundHeads(
        heads=(default, *(Head(dim=dense.out_features, layers=(dense,)) for dense, _ in others)),
        headers=(*(header for _, header in layers), *(header for _, header in others)),
    )


def _alternatives(folder: Path, module: Path, default: Dense) -> list[tuple[Dense, WeightsHeader]]:
    """Of another size, with as many dimensions going in; the largest first."""
    named = _SIZED.fullmatch(module.name)
    if named is None or int(named[2]) != default.out_features:
        return []
    found = []
    for path in sorted(module.parent.iterdir()):
        other = _SIZED.fullmatch(path.name)
        if other is None or other[1] != named[1] or path == module or not (path / SINGLE_FILE).exists():
            continue
        dense, header = _read_layer(folder, path)
        if dense.in_features == default.in_features and dense.out_features == int(other[2]):
            found.append((dense, header))
    return sorted(found, key=lambda each: each[0].out_features, reverse=True)


def _read_layer(folder: Path, module: Path) -> tuple[Dense, WeightsHeader]:
    config = read_json(module / "config.json")
    if not config.is_present:
        raise CorruptModel(f"{config.path} is missing; a dense layer has one")
    _refuse_options(config)
    if find_weights(module) != (SINGLE_FILE,):
        raise UnsupportedModel(f"{module} has a dense layer in several files, which is not served")
    dense = Dense(
        file=str((module / SINGLE_FILE).relative_to(folder)),
        in_features=config.size("in_features"),
        out_features=config.size("out_features"),
        has_bias=config.boolean("bias", default=True),
        activation=_activation(config),
    )
    header = read_header(module / SINGLE_FILE)
    _check_tensors(dense, header)
    return dense, header


def _refuse_options(config: JsonFile) -> None:
    """Raises UnsupportedModel for a layer that is not a plain one from vector to vector."""
    for key in ("module_input_name", "module_output_name"):
        if config.text(key) not in {None, _VECTOR}:
            raise UnsupportedModel(f"{config.path}: {key} {config.text(key)!r} is not served; served is {_VECTOR!r}")
    if config.boolean("use_residual", default=False):
        raise UnsupportedModel(f"{config.path}: use_residual is not served")


def _activation(config: JsonFile) -> str:
    """Its name in torch.nn. Where the folder names a class of its own, sentence-transformers takes Tanh with a warning.

    The vectors would be others then, so that is refused.
    """
    path = config.text("activation_function") if "activation_function" in config.values else _UNSAID
    named = _ACTIVATION.fullmatch(path or "")
    if named is None or named[1] not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{config.path}: activation_function {path!r} is not served; "
            f"served are, of torch.nn, {', '.join(ACTIVATIONS)}"
        )
    return named[1]


def _check_tensors(dense: Dense, header: WeightsHeader) -> None:
    wanted: dict[str, tuple[int, ...]] = {"linear.weight": (dense.out_features, dense.in_features)}
    if dense.has_bias:
        wanted["linear.bias"] = (dense.out_features,)
    found = {entry.name: entry.shape for entry in header.tensors}
    if found != wanted:
        raise CorruptModel(f"{header.path} has {_shapes(found)}; by its config.json it has {_shapes(wanted)}")
    if not all(entry.is_float for entry in header.tensors):
        raise CorruptModel(f"{header.path}: a weight is a floating-point number")


def _shapes(tensors: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name[:80]} {shape}" for name, shape in sorted(tensors.items())[:5]) or "no tensor"
