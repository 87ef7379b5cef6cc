"""What one request may ask of a model, and the ids that come of it."""

import pytest

from embeddaemon.errors import (
    Invalid,
    InvalidInput,
    ProtocolError,
    TextTooLong,
    UnknownDimensions,
    UnknownTask,
)
from embeddaemon.models.card import ModelCard
from embeddaemon.protocol import codec
from embeddaemon.protocol.messages import Embed, Hello, Texts, TokenIds, Tokenize
from embeddaemon.protocol.precisions import PRECISIONS
from embeddaemon.workers.requests import Tokenized, read_request, tokenize
from tests.support.stub_engine import END, START, StubModel, stub_card, stub_order
from tests.support.unwatched import UNWATCHED

CARD = stub_card()


def run(request: Embed | Tokenize, *texts: str, card: ModelCard = CARD) -> Tokenized:
    return tokenize(request, Texts(texts), StubModel(stub_order(card)), card, lambda: None, watch=UNWATCHED)


def run_ids(request: Embed | Tokenize, *ids: tuple[int, ...], card: ModelCard = CARD) -> Tokenized:
    return tokenize(request, TokenIds(ids), StubModel(stub_order(card)), card, lambda: None, watch=UNWATCHED)


def test_ids_are_those_of_the_tokenizer() -> None:
    tokenized = run(Embed(id=1), "one", "two words")
    assert [len(ids) for ids in tokenized.ids] == [3, 4]
    assert tokenized.ids[0][0] == START
    assert tokenized.ids[0][-1] == END
    assert (tokenized.count, tokenized.tokens, tokenized.positions, tokenized.truncated) == (2, 7, None, ())


def test_identical_texts_are_computed_once() -> None:
    tokenized = run(Embed(id=1), "a", "b", "a", "a")
    assert len(tokenized.ids) == 2
    assert tokenized.positions == [0, 1, 0, 0]
    assert (tokenized.count, tokenized.tokens) == (4, 6)


@pytest.mark.parametrize(
    ("request_", "card", "prompt"),
    [
        (Embed(id=1), CARD, ""),
        (Embed(id=1, task="query"), CARD, "find this: "),
        (Embed(id=1, task="document"), CARD, ""),
        (Embed(id=1), stub_card(default_task="query"), "find this: "),
        (Embed(id=1, task="document"), stub_card(default_task="query"), ""),
        (Embed(id=1, prompt="my own "), stub_card(default_task="query"), "my own "),
        (Embed(id=1, prompt=""), stub_card(default_task="query"), ""),
        (Tokenize(id=1, task="query"), CARD, "find this: "),
    ],
)
def test_prompt_is_the_requests_own_else_its_tasks_else_the_default_tasks(
    request_: Embed | Tokenize, card: ModelCard, prompt: str
) -> None:
    expected = StubModel(stub_order(card)).tokenize(["text"], prompt=prompt, max_tokens=64)[0].ids
    assert run(request_, "text", card=card).ids[0].tolist() == expected.tolist()


def test_prompt_tokens_are_counted() -> None:
    assert run(Embed(id=1, task="query"), "text").prompt_tokens == [3]


@pytest.mark.parametrize(
    ("request_", "texts", "error", "details"),
    [
        (Embed(id=1), ("a", ""), InvalidInput, {"index": 1}),
        (Embed(id=1), ("a", "a", "b\0c"), InvalidInput, {"index": 2, "character": 1}),
        (Tokenize(id=1), ("",), InvalidInput, {"index": 0}),
        (Embed(id=1, precision="int3"), ("a",), InvalidInput, {"offered": list(PRECISIONS)}),
        (Embed(id=1, dimensions=5), ("a",), UnknownDimensions, {"offered": [8, 4]}),
        (Embed(id=1, task="poem"), ("a",), UnknownTask, {"known": ["document", "query"]}),
        (Embed(id=1, task="query", prompt="p"), ("a",), InvalidInput, {}),
        (Tokenize(id=1, task="query", prompt=""), ("a",), InvalidInput, {}),
        (
            Embed(id=1, truncate=False),
            ("a", "a", "b " * 100),
            TextTooLong,
            {"index": 2, "tokens": 102, "limit": 64},
        ),
    ],
)
def test_what_the_model_does_not_offer_is_refused_with_the_facts(
    request_: Embed | Tokenize, texts: tuple[str, ...], error: type[Invalid], details: dict[str, object]
) -> None:
    with pytest.raises(error) as caught:
        run(request_, *texts)
    assert caught.value.details == details


def test_lenient_request_embeds_empty_texts_and_nul_characters() -> None:
    assert run(Embed(id=1, lenient=True), "", "a\0b").count == 2


def test_cut_texts_are_named_by_their_place_in_the_request() -> None:
    long = "word " * 100
    tokenized = run(Embed(id=1), "short", long, "short", long)
    assert tokenized.truncated == (1, 3)
    assert max(len(ids) for ids in tokenized.ids) == 64


@pytest.mark.parametrize("words", [62, 63, 200])
@pytest.mark.parametrize("truncate", [True, False])
def test_prompt_that_leaves_no_room_for_a_text_is_refused(words: int, truncate: bool) -> None:
    with pytest.raises(InvalidInput, match=f"prompt has {words + 2} tokens, .* takes 64") as caught:
        run(Embed(id=1, prompt="word " * words, truncate=truncate), "text")
    assert caught.value.details == {"tokens": words + 2, "limit": 64}


def test_prompt_that_leaves_room_for_one_token_cuts_texts() -> None:
    prompt = "word " * 61
    tokenized = run(Embed(id=1, prompt=prompt), "short", "two words", "other words")
    assert tokenized.truncated == (1, 2)
    assert len({tuple(ids.tolist()) for ids in tokenized.ids}) == 3


def test_token_ids_are_taken_as_they_are() -> None:
    tokenized = run_ids(Embed(id=1), (START, 7, END), (START, 7, END), (5,))
    assert [ids.tolist() for ids in tokenized.ids] == [[START, 7, END], [5]]
    assert tokenized.positions == [0, 0, 1]


@pytest.mark.parametrize(
    ("request_", "ids", "details"),
    [
        (Embed(id=1), ((5,), ()), {"index": 1}),
        (Embed(id=1), ((5,), (1, 30_000)), {"index": 1, "id": 30_000, "vocabulary": 30_000}),
        (Embed(id=1, task="query"), ((5,),), {}),
        (Embed(id=1, prompt="p"), ((5,),), {}),
    ],
)
def test_token_ids_that_the_model_cannot_take_are_refused(
    request_: Embed, ids: tuple[tuple[int, ...], ...], details: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        run_ids(request_, *ids)
    assert caught.value.details == details


def test_long_token_ids_are_cut_and_keep_their_closing_token() -> None:
    with_end = (START, *[9] * 100, END)
    without_end = tuple([9] * 100)
    tokenized = run_ids(Embed(id=1), with_end, without_end)
    assert tokenized.truncated == (0, 1)
    assert tokenized.ids[0].tolist() == [START, *[9] * 62, END]
    assert tokenized.ids[1].tolist() == [9] * 64
    with pytest.raises(TextTooLong):
        run_ids(Embed(id=1, truncate=False), with_end)


def test_only_model_requests_are_for_workers() -> None:
    with pytest.raises(ProtocolError):
        read_request(codec.encode_request(Hello(id=1)))


def test_large_request_gives_its_worker_time_for_other_things_between_its_texts() -> None:
    texts = tuple(f"{number} word" for number in range(20))
    calls: list[int] = []
    model = StubModel(stub_order(CARD))
    tokenized = tokenize(Embed(id=1), Texts(texts), model, CARD, lambda: calls.append(1), watch=UNWATCHED)
    assert len(tokenized.ids) == 20
    assert len(calls) == 20
