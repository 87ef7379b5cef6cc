"""Families by transformers' own classes: built without memory, filled from the checkpoint, called with one packed row.

What differs between families is a ``Native``: classes, how the published config and tensors' names become theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig

from embeddaemon.errors import CorruptModel
from embeddaemon.models.card import ModelCard
from embeddaemon.workers import checkpoint
from embeddaemon.workers.engines.torch_engine import attention

Tensors = dict[str, torch.Tensor]

NOT_BUILT = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,
)
"""What transformers and torch raise, in building, for a config that makes no sense to them."""


def _as_it_is(tensors: Tensors) -> Tensors:
    return tensors


def _same(config: Mapping[str, object]) -> dict[str, object]:
    return dict(config)


def _as_built(_: nn.Module) -> None:
    """Nothing to make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What makes one of transformers' classes of a published folder."""

    config_class: type[PreTrainedConfig]
    model_class: type[nn.Module]
    arguments: Mapping[str, object] | None = None
    """Of the model class, beside the config."""
    translate: Callable[[Mapping[str, object]], dict[str, object]] = _same
    """The published config.json to the values that the config class reads. Raises UnsupportedModel."""
    prefixes: tuple[str, ...] = ()
    """What stands before the names in a checkpoint of a class with a head."""
    rename: Callable[[Tensors], Tensors] = _as_it_is
    """Published tensors, without prefixes, to those that the class has: other names, packed ones divided."""

    finish: Callable[[nn.Module], None] = _as_built
    """Makes buffers that are of the family alone."""

    def build(self, config: Mapping[str, object], card: ModelCard, dtype: torch.dtype) -> nn.Module:
        """The model with the card's weights, on the CPU, ready for inference. Raises CorruptModel."""
        try:
            native_config: Any = self.config_class.from_dict(self.translate(config))  # each class has its own fields
            native_config.vocab_size = card.vocabulary  # some configs state a rounded number
            prepare(native_config)
            # On meta nothing is allocated and nothing initialised: the checkpoint's tensors become the parameters.
            with torch.device("meta"):
                model: Any = self.model_class(native_config, **(self.arguments or {}))
        except NOT_BUILT as error:
            raise not_built(error, config, card) from error
        tensors = checkpoint.read_tensors(card, dtype)
        named = {checkpoint.our_name(name, self.prefixes): tensors.pop(name) for name in list(tensors)}
        checkpoint.assign(model, self.rename(named), card, prefixes=())
        self.finish(model)
        make_buffers(model, native_config)
        model.requires_grad_(requires_grad=False)
        model.train(mode=False)
        built: nn.Module = model
        return built


def not_built(error: Exception, config: Mapping[str, object], card: ModelCard) -> CorruptModel:
    """The error of a config of which transformers makes no model."""
    return CorruptModel(f"{card.transformer_folder}/config.json makes no {card.family}: {_reason(error, config)}")


def _reason(error: Exception, config: Mapping[str, object]) -> str:
    """What an error in building says; of a word that no table has, by which key the config names it."""
    if not isinstance(error, KeyError) or not error.args:
        return str(error)
    keys = [key for key, value in config.items() if value == error.args[0]]
    return f"{' and '.join(keys) or 'something'} is {error.args[0]!r}, which is not known"


def prepare(config: PreTrainedConfig) -> None:
    """What goes for every class here, whatever a folder asks for: our attention, the last states and nothing else."""
    config._attn_implementation = attention.NAME  # noqa: SLF001 (where transformers looks for it)
    config.output_attentions = config.output_hidden_states = False
    config.return_dict = True


def make_buffers(model: nn.Module, config: PreTrainedConfig) -> None:
    """Buffers that no checkpoint has get memory and values: tables of rotations, and of what is passed anyway."""
    for name, module in list(model.named_modules()):
        if _has_meta_buffers(module) and not list(module.parameters()):
            again: Any = type(module)
            model.set_submodule(name, again(config))
    for name, buffer in list(model.named_buffers()):
        if not buffer.is_meta:
            continue
        parent, _, own_name = name.rpartition(".")
        values = _TABLES[own_name](buffer.shape)  # a KeyError: ``finish`` of the family has to make it
        setattr(model.get_submodule(parent), own_name, nn.Buffer(values, persistent=False))


_TABLES: dict[str, Callable[[torch.Size], torch.Tensor]] = {
    "position_ids": lambda shape: torch.arange(shape[-1]).expand(shape),
    "token_type_ids": lambda shape: torch.zeros(shape, dtype=torch.long),
}


def _has_meta_buffers(module: nn.Module) -> bool:
    return any(buffer.is_meta for buffer in module.buffers(recurse=False))


def forward(
    model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, groups: Sequence[attention.LengthGroup]
) -> torch.Tensor:
    """``ids`` and ``positions`` (tokens,) to the last hidden state (tokens, hidden)."""
    output = model(input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), groups=groups)
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden
