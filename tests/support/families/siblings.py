"""Small folders of popular models of families that have other names: what each of them has that is its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.checkpoints import TinyBert
from tests.support.families.distilbert import TinyDistilbert
from tests.support.families.gte import PUBLISHED
from tests.support.roberta_checkpoints import TinyRoberta

_BGE = "Represent this sentence for searching relevant passages: "
_CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


@dataclass(kw_only=True)
class TinyMultilingualBert(TinyBert):
    """BERT's layout over XLM-R's tokenizer, whose padding token is another than the config's: multilingual-e5-small."""

    table_rows: int = 120

    def _write_tokenizer(self, folder: Path) -> None:
        TinyRoberta(family="xlm-roberta", positions=self.positions)._write_tokenizer(folder)


@dataclass(kw_only=True)
class TinyM3(TinyRoberta):
    """bge-m3: heads of other outputs lie beside the model as pickles."""

    def write(self, folder: Path) -> Path:
        """All files of the model."""
        super().write(folder)
        for name in ("sparse_linear.pt", "colbert_linear.pt"):
            (folder / name).write_bytes(b"\x80\x02never read")
        return folder


SIBLINGS: dict[str, TinyBert] = {
    "bge-base-en-v1.5": TinyBert(pooling=_CLS),
    "e5-base-v2": TinyBert(old_names=True, prompts={"query": "query: ", "document": "passage: "}),
    "gte-base": TinyBert(dtype="float16"),
    "mxbai-embed-large-v1": TinyBert(pooling=_CLS, dtype="float16", normalize=False, prompts={"query": _BGE}),
    "snowflake-arctic-embed-m-v1.5": TinyBert(
        pooling=_CLS, has_pooler=False, prompts={"query": _BGE}, sentence_config=None
    ),
    "a file of BertForMaskedLM": TinyBert(prefix="bert.", old_names=True),
    "msmarco-distilbert-base-v4": TinyDistilbert(prefix="distilbert.", has_head=True, normalize=False),
    "all-distilroberta-v1": TinyRoberta(family="roberta"),
    "multilingual-e5-small": TinyMultilingualBert(prompts={"query": "query: ", "document": "passage: "}),
    "multilingual-e5-large-instruct": TinyRoberta(
        family="xlm-roberta", dtype="float16", prompts={"query": "Instruct: find the planet\nQuery: "}
    ),
    "bge-m3": TinyM3(family="xlm-roberta", positions=8194, pooling=_CLS, sentence_config={"max_seq_length": 8192}),
    "snowflake-arctic-embed-l-v2.0": TinyRoberta(
        family="xlm-roberta", positions=8194, pooling=_CLS, prompts={"query": "query: "}, has_pooler=False
    ),
    "snowflake-arctic-embed-m-v2.0": PUBLISHED["arctic-embed-m-v2.0"],
}
