"""The real all-MiniLM-L6-v2: the reference values, in any batch and order, in both precisions."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from embeddaemon.workers.engines import Rows
from tests.support.embedding import Embedder, bundled, cosines

QUESTION = "Which planet is known as the Red Planet?"
ANSWERS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]
WORDS = "the a memory worker of loads model text vectors quickly in river planet known red why 42, (café) naïve"


def prose(count: int, longest: int = 120) -> list[str]:
    """Texts of mixed lengths, always the same."""
    chance = random.Random(7)
    return [" ".join(chance.choices(WORDS.split(), k=chance.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def exact() -> Embedder:
    return bundled("float32")


@pytest.fixture(scope="module")
def fast() -> Embedder:
    return bundled("auto")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [QUESTION, *ANSWERS, *prose(40)]


@pytest.fixture(scope="module")
def reference(exact: Embedder, texts: list[str]) -> Rows:
    """In float32, one text at a time."""
    return np.concatenate([exact.embed([text]) for text in texts])


def test_question_has_the_reference_values(exact: Embedder) -> None:
    expected = [0.050195, -0.025558, -0.095160, 0.064530, 0.011637, -0.033432]
    np.testing.assert_allclose(exact.embed([QUESTION])[0, :6], expected, atol=1e-5)


def test_empty_text_has_the_reference_values(exact: Embedder) -> None:
    expected = [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951, 0.010292]
    np.testing.assert_allclose(exact.embed([""])[0, :6], expected, atol=1e-5)


def test_four_sentences_have_the_reference_similarities(exact: Embedder) -> None:
    vectors = exact.embed([QUESTION, *ANSWERS])
    np.testing.assert_allclose(vectors[0] @ vectors[1:].T, [0.46469, 0.81146, 0.72792, 0.75019], atol=1e-5)


def test_four_sentences_are_within_a_hundredth_in_the_fast_precision(fast: Embedder) -> None:
    vectors = fast.embed([QUESTION, *ANSWERS])
    np.testing.assert_allclose(vectors[0] @ vectors[1:].T, [0.4637, 0.8120, 0.7283, 0.7505], rtol=0.01)


def test_packed_equals_one_by_one_in_float32(exact: Embedder, texts: list[str], reference: Rows) -> None:
    np.testing.assert_allclose(exact.embed(texts), reference, atol=1e-5)


def test_order_of_the_texts_does_not_matter(exact: Embedder, texts: list[str], reference: Rows) -> None:
    order = list(range(len(texts)))
    random.Random(3).shuffle(order)
    np.testing.assert_allclose(exact.embed([texts[index] for index in order]), reference[order], atol=1e-5)


def test_packed_equals_one_by_one_in_the_fast_precision(fast: Embedder, texts: list[str]) -> None:
    alone = np.concatenate([fast.embed([text]) for text in texts])
    assert cosines(fast.embed(texts), alone).min() >= 0.9999


def test_fast_precision_keeps_the_cosine(fast: Embedder, texts: list[str], reference: Rows) -> None:
    found = cosines(fast.embed(texts), reference)
    assert found.min() >= 0.9995
    assert found.mean() >= 0.9999


def test_bfloat16_keeps_the_cosine_where_the_processor_is_slow_with_it(texts: list[str], reference: Rows) -> None:
    assert cosines(bundled("bfloat16").embed(texts), reference).min() >= 0.9995


def test_text_is_cut_at_the_folders_limit(exact: Embedder) -> None:
    (encoded,) = exact.model.tokenize(["word " * 400], prompt="", max_tokens=exact.card.max_tokens)
    assert (len(encoded.ids), encoded.full_length) == (256, 402)
    assert encoded.ids[-1] == exact.model.tokenize([""], prompt="", max_tokens=8)[0].ids[-1]


def test_facts_tell_what_was_loaded(fast: Embedder, exact: Embedder) -> None:
    assert exact.model.facts.precision == "float32"
    assert exact.model.facts.parameters == 22_565_376
    assert exact.model.facts.weights_bytes == 4 * exact.model.facts.parameters
    assert fast.model.facts.dim == 384


def test_card_pins_the_published_digest(exact: Embedder) -> None:
    (digest,) = exact.card.files.sha256.values()
    assert len(digest) == len(hashlib.sha256().hexdigest())
