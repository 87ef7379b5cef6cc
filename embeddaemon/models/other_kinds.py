"""What a folder is that is no embedding model which is served: told apart, and refused by what it is.

Rerankers, sparse and late interaction models have the same bodies, so without this they would be loaded and give
vectors that mean nothing. By model cards, and by the modules of sentence-transformers 6.2 and PyLate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embeddaemon.errors import UnsupportedModel
from embeddaemon.models.jsonfile import JsonFile
from embeddaemon.models.weights import INDEX_FILE, SINGLE_FILE, TensorEntry

_LATE_INTERACTION = "a late interaction model (ColBERT): one vector per token"
_SPARSE = "a sparse model (SPLADE): one weight per word"

_OTHER_TASKS = {
    "ForSequenceClassification": "a classifier or reranker (cross-encoder): scores, not vectors",
    "ForQuestionAnswering": "a model that marks answers in texts: scores, not vectors",
    "ForMultipleChoice": "a model that chooses answers: scores, not vectors",
    "ForConditionalGeneration": "a model that writes texts",
}
"""By the end of an architecture's name."""

_OTHER_MODULES = {
    "SpladePooling": _SPARSE,
    "MLMTransformer": _SPARSE,
    "SparseAutoEncoder": "a sparse model (CSR)",
    "SparseStaticEmbedding": _SPARSE,
    "Router": "a model with one pipeline for queries and another for documents",
    "Asym": "a model with one pipeline for queries and another for documents",
    "StaticEmbedding": "a model of static word vectors, without a transformer",
    "WordEmbeddings": "a model of static word vectors, without a transformer",
    "BoW": "a bag of words, without a transformer",
    "CLIPModel": "a model of images and texts",
    "MultiVectorMask": _LATE_INTERACTION,
}
"""By the last dotted part of a module's type."""


def refuse_other_files(folder: Path) -> None:
    """Raises UnsupportedModel for a folder that is made for another program altogether."""
    if (folder / SINGLE_FILE).exists() or (folder / INDEX_FILE).exists():
        return
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        raise UnsupportedModel(
            f"{gguf[0]} is a GGUF model (llama.cpp), which is not served; take the repository with {SINGLE_FILE}"
        )


def refuse_other_task(config: JsonFile, tensors: Sequence[TensorEntry]) -> None:
    """Raises UnsupportedModel for a transformer that was trained for something else, by what config and tensors say."""
    architectures = config.texts("architectures")
    for architecture in architectures:
        for ending, what in _OTHER_TASKS.items():
            if architecture.endswith(ending):
                raise _refusal(config.path, architecture, what)
    # Some embedding models name a token classifier beside themselves; a real one has labels.
    if (
        config.mapping("id2label")
        and architectures
        and all(each.endswith("ForTokenClassification") for each in architectures)
    ):
        raise _refusal(config.path, architectures[0], "a model that labels words: scores, not vectors")
    names = {entry.name for entry in tensors}
    if "HF_ColBERT" in architectures or ("linear.weight" in names and any(name.startswith("bert.") for name in names)):
        raise _refusal(config.path, "HF_ColBERT", _LATE_INTERACTION)


def refuse_other_modules(kinds: Sequence[str], path: Path) -> None:
    """Raises UnsupportedModel for modules (their types' last parts, in order) of another kind of model."""
    for kind in kinds:
        if kind in _OTHER_MODULES:
            raise _refusal(path, f"the module {kind}", _OTHER_MODULES[kind])
    if list(kinds[:2]) == ["Transformer", "Dense"] and "Pooling" not in kinds:
        raise _refusal(path, "a Dense right behind the Transformer", _LATE_INTERACTION)


def _refusal(path: Path, mark: str, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{path} has {mark}: this is {what}; not served yet")
