"""Real weights against what sentence-transformers 6.2 found with them: opt-in, for who has the files.

``EMBEDDAEMON_MODEL_DIR`` names a folder with the models' folders in it, called ``ORG/NAME`` or ``NAME``. The values are
those of sentence-transformers' own test of published models (in float32): cosines of a question and four sentences,
each behind the prompt that the model's folder has for it. The bundled model is always there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.embedding import Embedder, bundled, cosines, embedder_of

QUESTION = "Which planet is known as the Red Planet?"
SENTENCES = (
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
)
BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"
COSINES = {
    BUNDLED: (0.46469, 0.81146, 0.72792, 0.75019),
    "Alibaba-NLP/gte-base-en-v1.5": (0.52348, 0.78222, 0.52774, 0.63725),
    "Alibaba-NLP/gte-large-en-v1.5": (0.64130, 0.87381, 0.67332, 0.77191),
    "Alibaba-NLP/gte-multilingual-base": (0.63711, 0.92462, 0.78728, 0.75058),
    "BAAI/bge-base-en-v1.5": (0.56823, 0.85511, 0.73461, 0.69612),
    "BAAI/bge-large-en-v1.5": (0.53004, 0.81202, 0.68899, 0.70950),
    "BAAI/bge-m3": (0.40965, 0.71124, 0.64807, 0.65035),
    "BAAI/bge-small-en-v1.5": (0.60098, 0.82910, 0.77927, 0.70905),
    "google/embeddinggemma-300m": (0.30082, 0.63610, 0.49270, 0.48888),
    "ibm-granite/granite-embedding-english-r2": (0.79473, 0.92265, 0.86995, 0.90711),
    "ibm-granite/granite-embedding-small-english-r2": (0.80180, 0.92562, 0.89030, 0.88743),
    "intfloat/e5-base-v2": (0.79724, 0.90021, 0.84850, 0.86522),
    "intfloat/e5-large-v2": (0.77354, 0.85856, 0.83334, 0.84103),
    "intfloat/e5-small-v2": (0.81278, 0.91429, 0.86806, 0.87815),
    "intfloat/multilingual-e5-base": (0.79078, 0.87654, 0.85599, 0.86601),
    "intfloat/multilingual-e5-large": (0.76823, 0.87257, 0.82880, 0.83204),
    "intfloat/multilingual-e5-large-instruct": (0.79779, 0.89875, 0.85599, 0.85365),
    "intfloat/multilingual-e5-small": (0.81146, 0.90638, 0.87144, 0.85721),
    "jinaai/jina-embeddings-v2-base-de": (0.38487, 0.75500, 0.68292, 0.64220),
    "jinaai/jina-embeddings-v2-small-en": (0.76039, 0.91308, 0.88758, 0.85223),
    "mixedbread-ai/mxbai-embed-large-v1": (0.57955, 0.81607, 0.72447, 0.73377),
    "nomic-ai/modernbert-embed-base": (0.66453, 0.84490, 0.75102, 0.79015),
    "nomic-ai/nomic-embed-text-v1": (0.52990, 0.83191, 0.69565, 0.74845),
    "nomic-ai/nomic-embed-text-v1.5": (0.65113, 0.88814, 0.79888, 0.81393),
    "nomic-ai/nomic-embed-text-v2-moe": (0.32734, 0.75477, 0.59748, 0.69686),
    "NovaSearch/stella_en_400M_v5": (0.55998, 0.83601, 0.69783, 0.70312),
    "Qwen/Qwen3-Embedding-0.6B": (0.48113, 0.69014, 0.58377, 0.66434),
    "sentence-transformers/all-MiniLM-L12-v2": (0.44697, 0.73776, 0.67435, 0.63074),
    "sentence-transformers/all-mpnet-base-v2": (0.46544, 0.77830, 0.69194, 0.70103),
    "sentence-transformers/all-roberta-large-v1": (0.44306, 0.79517, 0.70153, 0.67590),
    "sentence-transformers/distilbert-base-nli-mean-tokens": (0.28534, 0.77129, 0.57375, 0.66694),
    "Snowflake/snowflake-arctic-embed-l-v2.0": (0.33782, 0.70994, 0.55318, 0.59920),
    "Snowflake/snowflake-arctic-embed-m": (0.29498, 0.46004, 0.37611, 0.37525),
    "thenlper/gte-base": (0.83165, 0.93071, 0.88769, 0.89534),
    "thenlper/gte-large": (0.81024, 0.93618, 0.88395, 0.89457),
    "thenlper/gte-small": (0.83949, 0.93082, 0.90772, 0.90319),
}


@pytest.mark.parametrize("name", COSINES)
def test_a_question_and_four_sentences_are_as_near_as_elsewhere(name: str) -> None:
    embedder = _embedder(name)
    prompts = _prompts(Path(embedder.card.folder))
    document = next((prompts[task] for task in ("document", "passage", "corpus") if task in prompts), "")
    question = embedder.embed([prompts.get("query", "") + QUESTION])
    sentences = embedder.embed([document + sentence for sentence in SENTENCES])
    np.testing.assert_allclose(cosines(question, sentences), COSINES[name], rtol=0.01)


def _embedder(name: str) -> Embedder:
    """In float32. Skips where the model is not here."""
    if name == BUNDLED:
        return bundled("float32")
    root = os.environ.get("EMBEDDAEMON_MODEL_DIR")
    if not root:
        pytest.skip("EMBEDDAEMON_MODEL_DIR names no folder with real weights")
    folders = [Path(root, name), Path(root, name.rpartition("/")[2])]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        pytest.skip(f"{root} has no {name}")
    return embedder_of(folder)


def _prompts(folder: Path) -> dict[str, str]:
    """Those of the folder, and not what our table adds to them: sentence-transformers had no others."""
    file = folder / "config_sentence_transformers.json"
    prompts: dict[str, str] = json.loads(file.read_text(encoding="utf-8")).get("prompts", {}) if file.exists() else {}
    return prompts
