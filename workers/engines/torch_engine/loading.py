"""From a load order to a model in memory: device, precision, weights, tokenizer, warm-up.

Runs in a process that forks afterwards (a template), so nothing here starts a thread, given that the process set torch
to one thread first. CUDA is touched only when the order's device is a CUDA device or ``auto``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from embeddaemon.models.jsonfile import read_json
from embeddaemon.models.order import LoadOrder
from embeddaemon.workers.device import resolve_device, resolve_precision
from embeddaemon.workers.engines import EngineFacts, LoadedModel
from embeddaemon.workers.engines.torch_engine import attention, encoder, varlen
from embeddaemon.workers.engines.torch_engine.accelerated import AcceleratedModel
from embeddaemon.workers.engines.torch_engine.device_encoder import DeviceEncoder
from embeddaemon.workers.engines.torch_engine.families import Family, family_of
from embeddaemon.workers.engines.torch_engine.heads import Heads
from embeddaemon.workers.engines.torch_engine.int8.calibration import Prose, Subject, calibrate_for, int8_encoder
from embeddaemon.workers.engines.torch_engine.int8.scales import Calibration
from embeddaemon.workers.engines.torch_engine.model import Encode, TorchModel
from embeddaemon.workers.engines.torch_engine.packing import pack
from embeddaemon.workers.tokenization import load_tokenizer

_NEEDED = (
    "torch",
    "transformers.models.bert.modeling_bert",
    "embeddaemon.workers.engines.torch_engine.families.bert",
    "tokenizers",
    "numpy",
)

# One text, several of one length, several lengths: each compiles or chooses kernels of its own.
_WARM_UP_LENGTHS = ((8,), (16, 16, 16), (12, 40, 40, 120))


def preload() -> None:
    """Proof for the fork server that all which a load needs is imported, and that CUDA was not touched."""
    missing = [name for name in _NEEDED if name not in sys.modules]
    assert not missing, f"not imported by the torch engine: {missing}"
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch gives it no types
    assert not initialized, "CUDA does not survive a fork"


def load(order: LoadOrder) -> LoadedModel:
    """The order's model, warm. Raises FailedLoad's children: CorruptModel, UnsupportedModel."""
    attention.register()
    card = order.card
    device = resolve_device(order.device)
    dtype = resolve_precision(order.precision, device)
    config = read_json(Path(card.transformer_folder, "config.json"))
    tokenizer = load_tokenizer(card)
    family = family_of(card)
    module = family.build(config.values, card, torch.float32 if dtype is torch.int8 else dtype).to(device)
    positions = family.positions(module)
    heads = Heads(card, device)
    parameters, weights_bytes = _sizes([*module.parameters(), *heads.tensors])
    facts = EngineFacts(
        engine="torch",
        family=card.family,
        precision=str(dtype).removeprefix("torch."),
        device=str(device),
        dim=card.dim,
        parameters=parameters,
        weights_bytes=weights_bytes,
    )
    if dtype is torch.int8:
        model: LoadedModel = _int8(order, Subject(module, tokenizer, card, positions), facts, heads)
    elif device.type == "cpu":
        model = TorchModel(_encode(family, module), positions, tokenizer, card, facts, heads=heads)
    else:
        there = _encode_there(family, module, device, dtype)
        model = AcceleratedModel(there, positions, tokenizer, card, facts, heads=heads)
    del module  # where a functional form holds its own weights, these go before activations come
    warm_up(model, card.max_tokens, card.vocabulary)
    if device.type != "cpu":  # its memory has its full size before the first request
        full = [min(card.max_tokens, order.token_budget)] * max(1, order.token_budget // card.max_tokens)
        forward_any(model, full, card.vocabulary)
    return model


def _sizes(tensors: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Elements and bytes."""
    return sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)


def _int8(order: LoadOrder, subject: Subject, facts: EngineFacts, heads: Heads) -> TorchModel:
    """Raises UnsupportedModel for another layout, and when too much accuracy is lost."""
    encode = int8_encoder(subject, order.state_folder, accept_inaccurate=order.accept_inaccurate)
    weights_bytes = encode.weights_bytes + _sizes(heads.tensors)[1]
    facts = replace(facts, weights_bytes=weights_bytes, calibration=encode.calibration)
    return TorchModel(encode.forward, subject.positions, subject.tokenizer, subject.card, facts, heads=heads)


def calibrate(order: LoadOrder, texts: Prose) -> Calibration:
    """Scales for the order's model from these texts, kept in its state folder. Raises FailedLoad's children."""
    attention.register()
    resolve_precision("int8", resolve_device(order.device))
    card = order.card
    family = family_of(card)
    module = family.build(read_json(Path(card.transformer_folder, "config.json")).values, card, torch.float32)
    return calibrate_for(
        Subject(module, load_tokenizer(card), card, family.positions(module)), order.state_folder, texts
    )


def _encode(family: Family, module: nn.Module) -> Encode:
    """The fastest forward there is for this module here. The functional one holds its own weights: the module goes."""
    if family.functional is not None:
        return family.functional(module)
    if encoder.suits(module):
        return encoder.Encoder(module).forward
    pack(module)
    return partial(family.forward, module)


def _encode_there(family: Family, module: nn.Module, device: torch.device, dtype: torch.dtype) -> Encode:
    """The same for another device, with the attention that is fastest there."""
    if family.functional is not None:
        return family.functional(module)
    config: Any = module.config  # transformers': each family has its own class
    count = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or count
    heads = varlen.Heads(count, keys, getattr(config, "head_dim", None) or config.hidden_size // count)
    if encoder.suits(module):
        return DeviceEncoder(module, varlen.choose(device, dtype, heads)).forward
    attend = varlen.choose(device, dtype, heads, varlen.EVERY_WAY)
    varlen.install(module, attend)
    return partial(family.forward, module)


def warm_up(model: LoadedModel, max_tokens: int, vocabulary: int) -> None:
    """A few short forwards, so that no request pays for what is compiled or allocated only once."""
    for lengths in _WARM_UP_LENGTHS:
        forward_any(model, [min(length, max_tokens) for length in lengths], vocabulary)


def forward_any(model: LoadedModel, lengths: Sequence[int], vocabulary: int) -> None:
    """A forward of texts of these lengths, whatever they say."""
    model.forward(np.arange(sum(lengths), dtype=np.int32) % vocabulary, np.array(lengths, dtype=np.int32), None)
