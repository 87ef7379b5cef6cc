"""What stands for a loaded model: its files, its settings, and how it is computed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from embeddaemon.models.card import ModelCard

_DIGEST_BYTES = 16
_SHORT_DIGITS = 16


def fingerprint(card: ModelCard, facts: Mapping[str, object]) -> bytes:
    """What stands for a model's weights and everything else that its vectors follow from.

    ``facts`` are those of the engine that loaded it.
    """
    return hashlib.blake2b(repr((card, sorted(facts.items()))).encode(), digest_size=_DIGEST_BYTES).digest()


def weights_id(card: ModelCard, facts: Mapping[str, object]) -> str:
    """The same as a short word, for answers: those with the same one are of the same weights."""
    return fingerprint(card, facts).hex()[:_SHORT_DIGITS]
