"""From a model in float32 to one in 8 bits that is known to be accurate enough, or a refusal that gives the numbers.

Scales are read from their file where there is one, else found on prose of our own (or the user's file) and kept. All of
it runs at a load, in a process that forks afterwards: one thread.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from embeddaemon.errors import FailedLoad, UnsupportedModel
from embeddaemon.governor.formula import CALIBRATION_TOKENS
from embeddaemon.models.card import ModelCard
from embeddaemon.telemetry.logs import fields
from embeddaemon.workers import packing
from embeddaemon.workers.engines.torch_engine.attention import groups_of
from embeddaemon.workers.engines.torch_engine.encoder import BertLike, suits
from embeddaemon.workers.engines.torch_engine.families import bert
from embeddaemon.workers.engines.torch_engine.int8 import scales
from embeddaemon.workers.engines.torch_engine.int8.choosing import plan_from, worst_first
from embeddaemon.workers.engines.torch_engine.int8.encoder import Int8Encoder
from embeddaemon.workers.engines.torch_engine.int8.observing import observing
from embeddaemon.workers.engines.torch_engine.int8.plan import Accuracy, Plan
from embeddaemon.workers.engines.torch_engine.int8.scales import Calibration, Shape
from embeddaemon.workers.engines.torch_engine.model import Encode
from embeddaemon.workers.engines.torch_engine.pooling import pool
from embeddaemon.workers.engines.torch_engine.row import Positions
from embeddaemon.workers.tokenization import Tokenizer

_LOG = logging.getLogger(__name__)

LOWEST_COSINE = 0.99
MEAN_COSINE = 0.997
"""Below these, over texts that were not used to calibrate, int8 is refused: a worse vector is another vector."""

_GOOD_LOWEST = 0.994
_GOOD_MEAN = 0.998
"""What the calibration texts must reach before no more layers have their outliers quantised apart."""
_HELD_OUT_EVERY = 4
"""Of the user's texts; the others calibrate."""


@dataclass(frozen=True, slots=True)
class Prose:
    """What to calibrate on, and what to measure on."""

    name: str
    calibrate: tuple[str, ...]
    held_out: tuple[str, ...]


def own_prose() -> Prose:
    """The texts that come with the program."""
    folder = Path(__file__).parent
    found = (tuple((folder / name).read_text(encoding="utf-8").splitlines()) for name in _OWN)
    return Prose("own", *found)


_OWN = ("calibration.txt", "held_out.txt")


def prose_from(name: str, texts: Sequence[str]) -> Prose:
    """The user's texts, each once, every fourth of them held out together with our own: scales are for any text."""
    texts = list(dict.fromkeys(texts))
    held_out = (*texts[::_HELD_OUT_EVERY], *own_prose().held_out)
    return Prose(name, tuple(text for place, text in enumerate(texts) if place % _HELD_OUT_EVERY), held_out)


@dataclass(frozen=True, slots=True)
class Subject:
    """The model to calibrate: in float32, with what turns texts into its vectors."""

    module: nn.Module
    tokenizer: Tokenizer
    card: ModelCard
    positions: Positions

    def vectors(self, encode: Encode, texts: Sequence[str]) -> torch.Tensor:
        """(texts, pooled_dim) by that forward."""
        encoded = self.tokenizer.encode(texts, prompt="", max_tokens=self.card.max_tokens)
        rows = torch.empty(len(texts), self.card.pooled_dim)
        for batch in packing.plan([len(one.ids) for one in encoded], CALIBRATION_TOKENS):
            lengths = np.array([len(encoded[index].ids) for index in batch.indices], dtype=np.int32)
            ids = np.concatenate([np.array(encoded[index].ids, dtype=np.int32) for index in batch.indices])
            groups = groups_of(lengths.tolist())
            row, positions = (
                torch.from_numpy(values.astype(np.int64)) for values in (ids, self.positions(ids, lengths))
            )
            rows[list(batch.indices)] = pool(encode(row, positions, groups), groups, self.card.pooling, None)
        return rows

    def reference(self, texts: Sequence[str]) -> torch.Tensor:
        """(texts, pooled_dim) in float32 by the model's own class."""
        return self.vectors(lambda ids, positions, groups: bert.forward(self.model, ids, positions, groups), texts)

    @property
    def model(self) -> BertLike:
        """Raises UnsupportedModel for layouts that have no forward in 8 bits."""
        if suits(self.module):
            return self.module
        raise UnsupportedModel(
            f"{self.card.name}: precision int8 is served for models of BERT's layout with GELU, "
            f"not for this one ({self.card.family}); use auto, bfloat16 or float32"
        )

    @property
    def shape(self) -> Shape:
        config = self.model.config
        return Shape(config.num_hidden_layers, config.hidden_size, config.intermediate_size)


@torch.inference_mode()
def int8_encoder(subject: Subject, state_folder: str | None, *, accept_inaccurate: bool) -> Int8Encoder:
    """The model in 8 bits. Raises UnsupportedModel when it is less accurate than it must be."""
    digest = weights_digest(subject.model)
    path = None if state_folder is None else scales.path_of(Path(state_folder), digest)
    calibration = None if path is None else scales.read(path, digest, subject.shape)
    if calibration is None:
        calibration = calibrated(subject, own_prose())
        if path is not None:
            scales.write(path, digest, calibration)
    if not accept_inaccurate:
        check_accuracy(subject.card.name, calibration)
    return Int8Encoder(subject.model, calibration.plan)


def calibrate_for(subject: Subject, state_folder: str | None, prose: Prose) -> Calibration:
    """Calibrates anew and keeps the result, whatever it is worth. Raises FailedLoad when it cannot be kept."""
    calibration = calibrated(subject, prose)
    digest = weights_digest(subject.model)
    if state_folder is None or not scales.write(scales.path_of(Path(state_folder), digest), digest, calibration):
        raise FailedLoad(f"the scales cannot be kept in {state_folder}: the log says why")
    return calibration


def check_accuracy(name: str, calibration: Calibration) -> None:
    """Raises UnsupportedModel below the floor."""
    found = calibration.accuracy
    if found.lowest < LOWEST_COSINE or found.mean < MEAN_COSINE:
        raise UnsupportedModel(
            f"{name} in int8 is too far from float32: over {found.texts} texts that it was not calibrated on the "
            f"lowest cosine is {found.lowest:.4f} (at least {LOWEST_COSINE}) and the mean {found.mean:.4f} (at least "
            f"{MEAN_COSINE}); calibrate it on texts like yours (`embeddaemon models calibrate`), use another "
            "precision, or set accept_inaccurate = true for this model"
        )


@torch.inference_mode()
def calibrated(subject: Subject, prose: Prose) -> Calibration:
    """Observes, chooses, and measures on what was held out."""
    start = time.monotonic()
    with observing(subject.model) as observed:
        exact = subject.reference(prose.calibrate)
    plan = plan_from(subject.model, observed, ())
    candidates = worst_first(plan, subject.model, observed)
    apart = 0
    while not _is_good(_accuracy(subject, plan, prose.calibrate, exact)) and apart < len(candidates):
        apart += 1
        plan = plan_from(subject.model, observed, candidates[:apart])
    accuracy = _accuracy(subject, plan, prose.held_out, subject.reference(prose.held_out))
    _LOG.info(
        fields(
            "int8_calibrated",
            model=subject.card.name,
            texts=prose.name,
            lowest_cosine=f"{accuracy.lowest:.4f}",
            mean_cosine=f"{accuracy.mean:.4f}",
            layers_with_outliers_apart=apart,
            seconds=f"{time.monotonic() - start:.1f}",
        )
    )
    return Calibration(plan, accuracy, prose.name)


def _is_good(found: Accuracy) -> bool:
    return found.lowest >= _GOOD_LOWEST and found.mean >= _GOOD_MEAN


def _accuracy(subject: Subject, plan: Plan, texts: Sequence[str], exact: torch.Tensor) -> Accuracy:
    found = cosine_similarity(subject.vectors(Int8Encoder(subject.model, plan).forward, texts), exact)
    found = found.nan_to_num(nan=-1.0)
    return Accuracy(found.min().item(), found.mean().item(), len(texts))


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the parameters, in float32: what tells one model's scales from another's."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().contiguous().numpy().data)
    return digest.hexdigest()
