"""DistilBERT and ELECTRA: BERT by other names, by transformers' own classes.

DistilBERT has no token types, ELECTRA may look its words up in a narrower table and widen what it found
(``embeddings_project``).
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import DistilBertConfig, ElectraConfig
from transformers.models.distilbert.modeling_distilbert import DistilBertModel
from transformers.models.electra.modeling_electra import ElectraModel

from embeddaemon.workers.engines.torch_engine.families import Family
from embeddaemon.workers.engines.torch_engine.families.native import Native, forward


def _in_one_piece(config: Mapping[str, object]) -> dict[str, object]:
    """Feed-forward layers can be told to work in pieces of so many tokens, which a packed row is no multiple of."""
    return {**config, "chunk_size_feed_forward": 0}


_FAMILIES = {
    "distilbert": Native(
        config_class=DistilBertConfig,
        model_class=DistilBertModel,
        translate=_in_one_piece,
        prefixes=("distilbert.",),
    ),
    "electra": Native(
        config_class=ElectraConfig, model_class=ElectraModel, translate=_in_one_piece, prefixes=("electra.",)
    ),
}


def family(name: str) -> Family:
    """See families/__init__.py."""
    return Family(build=_FAMILIES[name].build, forward=forward)
