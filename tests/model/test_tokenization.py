"""Texts of megabytes: encoded in slices and pieces, as if at once, within a bound of memory."""

from __future__ import annotations

import os
import random
import resource
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE, Unigram
from tokenizers.normalizers import NFC, NFD, NFKC, BertNormalizer, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from transformers import AutoTokenizer

from embeddaemon.errors import CorruptModel
from embeddaemon.protocol.messages import Embed, TokenIds
from embeddaemon.workers.joining import Piece
from embeddaemon.workers.joining import pieces as cut_up
from embeddaemon.workers.measure import Meter, give_back
from embeddaemon.workers.requests import tokenize
from embeddaemon.workers.tokenization import (
    _BYTES_AT_LEAST,
    _BYTES_PER_BYTE,
    _SLICE_BYTES,
    Tokenizer,
    load_tokenizer,
)
from tests.support.checkpoints import TinyBert, word_piece, write_json
from tests.support.embedding import card_of, embedder_of
from tests.support.families.decoder_tokenizers import END, byte_pairs, pieces, template
from tests.support.families.decoders import TinyGemma, TinyMistral, TinyQwen2, TinyQwen3
from tests.support.roberta_checkpoints import TinyRoberta
from tests.support.unwatched import UNWATCHED

MIB = 1024 * 1024
MAX_TOKENS = 32

ENCODED, NO_MEMORY = 1, 2
"""Exit codes."""


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(card_of(TinyBert().write(tmp_path)))


def words(count: int, seed: int = 1) -> list[str]:
    """Some known to the tiny model, some not, and all that stands between words."""
    chance = random.Random(seed)
    known = ["red", "planet", "a", "the", "."]
    unknown = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 12))) for _ in range(50)]
    spaces = [" ", " ", "\n", "\t  ", " , "]
    return [chance.choice(known + unknown) + chance.choice(spaces) for _ in range(count)]


@pytest.mark.parametrize("length", [70_000, 131_072, 400_001])
def test_long_text_has_the_ids_and_the_length_of_one_encoded_at_once(tokenizer: Tokenizer, length: int) -> None:
    text = "".join(words(length // 4))[:length]
    assert len(text) == length
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS)
    whole = tokenizer._rust.encode(text).ids
    assert encoded.full_length == len(whole)
    assert encoded.ids.tolist() == [*whole[: MAX_TOKENS - 1], whole[-1]]
    assert encoded.ids.dtype == np.int32


def test_texts_of_all_lengths_together_are_encoded_as_each_alone(tokenizer: Tokenizer) -> None:
    chance = random.Random(2)
    texts = ["".join(words(chance.choice([0, 1, 20, 5_000, 30_000]), seed)) for seed in range(20)]
    together = tokenizer.encode(texts, prompt="red ", max_tokens=MAX_TOKENS)
    assert len(together) == len(texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = tokenizer.encode([text], prompt="red ", max_tokens=MAX_TOKENS)
        assert found.ids.tolist() == alone.ids.tolist()
        assert (found.full_length, found.prompt_tokens) == (alone.full_length, alone.prompt_tokens)


LONG_TOKENS = 8192


def chinese_pieces(prepend: str) -> Tokenizer:
    """Words of one to four letters without a gap between them, as Unigram models of many languages have them."""
    chance = random.Random(3)
    letters = [chr(0x4E00 + number) for number in range(12)]
    words = {"".join(chance.choices(letters, k=chance.choice([2, 2, 3, 4]))): None for _ in range(400)}
    scored = [("<unk>", 0.0), ("\u2581", -4.0), *((word, -chance.uniform(3, 12)) for word in [*letters, *words])]
    rust = RustTokenizer(Unigram(scored, 0, byte_fallback=False))
    rust.normalizer = NFKC()
    rust.pre_tokenizer = Metaspace(prepend_scheme=prepend)
    return Tokenizer(rust, counts_prompts=False)


def chinese(length: int, gaps: str = "") -> str:
    chance = random.Random(4)
    return "".join(chance.choices([chr(0x4E00 + number) for number in range(12)] + [*gaps], k=length))


LONG_TEXTS = {
    "prose": lambda: "".join(words(9_000)),
    "chinese": lambda: chinese(24_000),
    "chinese with gaps": lambda: chinese(24_000, " \u3001"),
    "digits": lambda: "".join(random.Random(5).choices("0123456789", k=20_000)),
    "emoji": lambda: "".join(random.Random(6).choices("\U0001f468\U0001f680\u2764\ufe0f", k=9_000)),
}


@pytest.mark.parametrize(
    "make",
    [
        lambda: chinese_pieces("always"),
        lambda: chinese_pieces("first"),
        lambda: Tokenizer(pieces(closes=True), counts_prompts=False),
        lambda: Tokenizer(byte_pairs(closes=True), counts_prompts=False),
        lambda: Tokenizer(TinyGemma().tokenizer(), counts_prompts=False),
        lambda: Tokenizer(TinyRoberta(family="xlm-roberta").tokenizer(), counts_prompts=False),
    ],
    ids=["unigram", "unigram, one first space", "llama", "qwen", "gemma", "xlm-roberta"],
)
@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS.keys())
def test_all_that_a_long_model_keeps_of_a_text_is_as_the_library_has_it_of_the_whole(
    make: Callable[[], Tokenizer], text: Callable[[], str]
) -> None:
    """No gap where a piece ends, spaces put before every piece, pairs that depend on what came before."""
    tokenizer, long = make(), text()
    (encoded,) = tokenizer.encode([long], prompt="", max_tokens=LONG_TOKENS)
    whole = tokenizer._rust.encode(long).ids
    behind = len(tokenizer._frame.behind)
    cut = [*whole[: LONG_TOKENS - behind], *whole[len(whole) - behind :]] if len(whole) > LONG_TOKENS else whole
    assert encoded.ids.tolist() == cut
    assert len(_pieces_of(long)) > 2
    if len(whole) <= LONG_TOKENS:
        assert encoded.full_length == len(whole)
    else:
        assert abs(encoded.full_length - len(whole)) <= 2 * len(_pieces_of(long))


def _pieces_of(text: str) -> list[Piece]:
    return list(cut_up(text, _SLICE_BYTES))


@pytest.mark.parametrize("text", [" " * 200_000 + "red", "red" + "\n" * 200_000])
def test_text_of_spaces_is_what_is_left_of_it(tokenizer: Tokenizer, text: str) -> None:
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS)
    (plain,) = tokenizer.encode(["red"], prompt="", max_tokens=MAX_TOKENS)
    assert encoded.ids.tolist() == plain.ids.tolist()
    assert encoded.full_length == plain.full_length


def test_no_text_is_no_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([], prompt="", max_tokens=MAX_TOKENS) == []


def bytes_joined(normalizer: Normalizer) -> Tokenizer:
    """As RoBERTa's and ModernBERT's, with one merge, of two spaces: each other byte is a token."""
    words = [*sorted(ByteLevel.alphabet()), "\u0120\u0120"]
    rust = RustTokenizer(BPE({word: number for number, word in enumerate(words)}, [("\u0120", "\u0120")]))
    rust.normalizer = normalizer
    rust.pre_tokenizer = ByteLevel(add_prefix_space=True)
    return Tokenizer(rust, counts_prompts=False)


def pieces_of_words() -> Tokenizer:
    """As XLM-RoBERTa's: what NFKC makes of a text, in pieces without regard to words."""
    rust = RustTokenizer(Unigram([("<unk>", 0.0), ("\u2581", -2.0), ("red", -3.0)], 0, byte_fallback=False))
    rust.normalizer = NFKC()
    rust.pre_tokenizer = Metaspace()
    return Tokenizer(rust, counts_prompts=False)


TOKENIZERS = {
    "bert": lambda: Tokenizer(word_piece(), counts_prompts=False),
    "bytes": lambda: bytes_joined(NFC()),
    "bytes nfd": lambda: bytes_joined(NFD()),
    "bytes nfkc": lambda: bytes_joined(NFKC()),
    "pieces": pieces_of_words,
}
HEAP_BYTES = 8 * 1024 * 1024
"""What malloc takes beside, in a process whose heap other tests left full of holes."""

TEXTS = {
    "full stops": ".",
    "chinese": "\u65e5\u672c\u6771\u4eac",
    "hangul": "\ud55c",
    "emoji": "\U0001f468",
    "spaces": " ",
    "greek": "\u0390",
    "ligatures": "\ufdfa",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_slice_takes_no_more_memory_than_is_required_for_it(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    full = text * (_SLICE_BYTES // len(text.encode()))
    tokenizer.encode(["red"], prompt="", max_tokens=MAX_TOKENS)
    give_back()
    meter = Meter()
    before = meter.estimate().private_bytes
    tokenizer.encode([full], prompt="", max_tokens=MAX_TOKENS)
    required = _BYTES_AT_LEAST + _BYTES_PER_BYTE * len(full.encode())
    assert meter.estimate().peak_bytes - before < required + HEAP_BYTES


@pytest.mark.parametrize("text", ["ligatures", "greek", "full stops"])
@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_pieces_of_a_long_text_take_no_more_memory_than_one(make: Callable[[], Tokenizer], text: str) -> None:
    """For a model that keeps all of them, with the places of their tokens."""
    tokenizer = make()
    long = TEXTS[text] * (3 * _SLICE_BYTES // len(TEXTS[text].encode()))
    tokenizer.encode(["red"], prompt="", max_tokens=LONG_TOKENS)
    give_back()
    meter = Meter()
    before = meter.estimate().private_bytes
    tokenizer.encode([long], prompt="", max_tokens=LONG_TOKENS)
    assert meter.estimate().peak_bytes - before < _BYTES_AT_LEAST + _BYTES_PER_BYTE * _SLICE_BYTES + HEAP_BYTES


def test_want_of_memory_is_an_error_and_no_abort(tokenizer: Tokenizer) -> None:
    text = TEXTS["full stops"] * 300_000
    tokenizer.encode([text[:1000]], prompt="", max_tokens=MAX_TOKENS)
    endings = [_end_with(tokenizer, text, mebibytes * MIB) for mebibytes in (1, 2, 4, 8, 16, 64)]
    assert set(endings) <= {ENCODED, NO_MEMORY}, endings
    assert (endings[0], endings[-1]) == (NO_MEMORY, ENCODED)


def _end_with(tokenizer: Tokenizer, text: str, free_bytes: int) -> int:
    """How a process ends that may take so much."""
    if (pid := os.fork()) == 0:
        give_back()
        (held,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(held.split()[1]) + free_bytes,) * 2)
        try:
            tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS)
            os._exit(ENCODED)
        except MemoryError:
            os._exit(NO_MEMORY)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_other_things_have_their_turn_while_one_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    text = "red planet " * 9_000
    calls: list[int] = []
    tokenizer.encode([text], prompt="", max_tokens=MAX_TOKENS, between=lambda: calls.append(1))
    assert len(text) // _SLICE_BYTES <= len(calls) <= 1.1 * len(text) / _SLICE_BYTES


def test_other_things_have_their_turn_between_slices_of_short_texts(tokenizer: Tokenizer) -> None:
    calls: list[int] = []
    tokenizer.encode(["red planet "] * 9_000, prompt="", max_tokens=MAX_TOKENS, between=lambda: calls.append(1))
    assert len(calls) == -(-9_000 // (_SLICE_BYTES // len("red planet ")))


@pytest.mark.parametrize("inside", ["\x1c", "\x85", "\x0b"])
def test_long_text_is_not_cut_at_what_bert_deletes(tokenizer: Tokenizer, inside: str) -> None:
    text = "red " * 2000 + "plan" + inside + "et" + inside + "x" * 300 + " red" * 2000
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=8192)
    assert encoded.ids.tolist() == tokenizer._rust.encode(text).ids


def test_long_text_without_spaces_is_cut_before_its_commas(tokenizer: Tokenizer) -> None:
    text = "\u30c6\u30ad\u30b9\u3001" * 5000  # kana: BERT takes all between two commas for one word
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=20_000)
    assert encoded.ids.tolist() == tokenizer._rust.encode(text).ids


def test_spaces_of_a_long_text_stay_together() -> None:
    tokenizer = bytes_joined(NFC())
    text = ("abc" + " " * 9) * 3000
    (encoded,) = tokenizer.encode([text], prompt="", max_tokens=50_000)
    assert encoded.ids.tolist() == tokenizer._rust.encode(text).ids


@pytest.mark.parametrize(
    "texts",
    [
        ["red planet " * 180] * 512,
        ["red planet " * 90_000],
        ["x" * MIB],
        [TEXTS["chinese"] * (MIB // 12)],
        [TEXTS["hangul"] * 300] * 1165,
        [TEXTS["emoji"] * (MIB // 4)],
        ["." * MIB],
    ],
    ids=["many texts", "one long text", "one word", "chinese", "hangul", "emoji", "full stops"],
)
def test_encoding_a_mebibyte_takes_a_few_mebibytes(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokenizer.encode(["red"], prompt="", max_tokens=MAX_TOKENS)
    give_back()
    meter = Meter()
    before = meter.estimate().private_bytes
    tokenizer.encode(texts, prompt="", max_tokens=MAX_TOKENS)
    assert meter.estimate().peak_bytes - before < 8 * MIB


def test_pieces_are_the_text_and_each_begins_with_the_end_of_the_one_before() -> None:
    text = "".join(words(9_000)) + TEXTS["emoji"] * 5_000 + "x" * 20_000
    found = _pieces_of(text)
    assert "".join(text[piece.start : piece.end] for piece in found) == text
    assert all(len(text[piece.since : piece.end].encode()) <= _SLICE_BYTES for piece in found)
    assert all(piece.start - piece.since == 256 for piece in found[1:])


def test_gte_qwen2_ends_every_text_with_the_token_that_its_tokenizer_leaves_out(tmp_path: Path) -> None:
    """Last-token pooling of a text that ends with its own last word is a wrong vector."""
    card = card_of(TinyQwen2().write(tmp_path))
    tokenizer = load_tokenizer(card)
    last = byte_pairs(closes=False).token_to_id(END)
    short, long = tokenizer.encode(["the red", "the red planet " * 60], prompt="", max_tokens=card.max_tokens)
    assert short.ids.tolist() == [*byte_pairs(closes=False).encode("the red").ids, last]
    assert (len(long.ids), long.ids[-1], long.full_length) == (64, last, 60 * 3 + 2)
    assert long.ids[:-1].tolist() == byte_pairs(closes=False).encode("the red planet " * 60).ids[:63]
    (very_long,) = tokenizer.encode(["the red planet " * 9_000], prompt="", max_tokens=card.max_tokens)
    assert very_long.ids.tolist() == long.ids.tolist()


@pytest.mark.parametrize("closes", [True, False])
def test_qwen3_has_its_last_token_once_whether_its_file_is_old_or_new(closes: bool, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(card_of(TinyQwen3(closes=closes).write(tmp_path)))
    (encoded,) = tokenizer.encode(["the red"], prompt="", max_tokens=64)
    assert encoded.ids.tolist() == byte_pairs(closes=True).encode("the red").ids


def test_qwen3_that_pools_otherwise_has_what_its_file_says(tmp_path: Path) -> None:
    card = card_of(TinyQwen3(pooling={"pooling_mode_mean_tokens": True}).write(tmp_path))
    assert card.closing_token is None


@pytest.mark.parametrize("closes", [True, False])
def test_token_that_the_settings_add_stands_beside_the_first_one(closes: bool, tmp_path: Path) -> None:
    tiny = TinyMistral(closes=closes, tokenizer_config={"add_eos_token": True})
    (encoded,) = load_tokenizer(card_of(tiny.write(tmp_path))).encode(["the red"], prompt="", max_tokens=64)
    assert encoded.ids.tolist() == pieces(closes=True).encode("the red").ids
    assert len(encoded.ids) == 4


def test_model_whose_last_token_its_tokenizer_does_not_have_is_corrupt(tmp_path: Path) -> None:
    folder = TinyQwen2(tokenizer_config={"add_eos_token": True, "eos_token": {"content": "</none>"}}).write(tmp_path)
    with pytest.raises(CorruptModel, match="</none>"):
        load_tokenizer(card_of(folder))


def test_last_token_is_put_behind_texts_of_a_file_that_pads_and_cuts(tmp_path: Path) -> None:
    """Guards: what the file pads a short text with taken for what stands behind every text. Qwen pads with its last."""
    folder = TinyQwen2().write(tmp_path)
    file = str(folder / "tokenizer.json")
    rust = RustTokenizer.from_file(file)
    last = rust.token_to_id(END)
    rust.enable_truncation(3)
    rust.enable_padding(length=6, pad_id=last, pad_token=END)
    rust.save(file)
    (encoded,) = load_tokenizer(card_of(folder)).encode(["the red planet of the sea"], prompt="", max_tokens=64)
    assert encoded.ids.tolist() == [*byte_pairs(closes=False).encode("the red planet of the sea").ids, last]


def test_added_token_that_the_model_has_no_row_for_is_plain_text(tmp_path: Path) -> None:
    """EmbeddingGemma's tokenizer has one for images, its id the number of rows."""
    folder = TinyGemma().write(tmp_path)
    expected = load_tokenizer(card_of(folder)).encode(["the <image> red"], prompt="", max_tokens=64)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens(["<image>"])
    rust.save(str(folder / "tokenizer.json"))
    card = card_of(folder)
    assert rust.token_to_id("<image>") == card.vocabulary
    found = load_tokenizer(card).encode(["the <image> red"], prompt="", max_tokens=64)
    assert found[0].ids.tolist() == expected[0].ids.tolist()
    assert found[0].ids.max() < card.vocabulary


def test_frame_with_a_token_that_the_model_has_no_row_for_is_corrupt(tmp_path: Path) -> None:
    folder = TinyGemma().write(tmp_path)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens(["<last>"])
    rust.post_processor = template(rust, "<bos> $A <last>")
    rust.save(str(folder / "tokenizer.json"))
    card = card_of(folder)
    with pytest.raises(CorruptModel, match=f"the token id {card.vocabulary}, the model's ids are below"):
        load_tokenizer(card)


@pytest.mark.parametrize(
    ("name", "lowers"),
    [("BertTokenizer", True), (None, True), ("PreTrainedTokenizerFast", False), ("TokenizersBackend", False)],
)
def test_settings_go_before_the_file_only_for_classes_that_read_them(
    name: str | None, lowers: bool, tmp_path: Path
) -> None:
    """As transformers 5.23 does it. Its general classes take the file as it is: here one that keeps capitals."""
    folder = TinyBert().write(tmp_path)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.normalizer = BertNormalizer(lowercase=False)
    rust.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {} if name is None else {"tokenizer_class": name})
    (found,) = load_tokenizer(card_of(folder)).encode(["RED"], prompt="", max_tokens=8)
    theirs = AutoTokenizer.from_pretrained(str(folder))("RED")["input_ids"]
    assert found.ids.tolist() == theirs[:3] == word_piece().encode("red" if lowers else "[UNK]").ids


def test_token_ids_of_a_request_keep_the_last_token_too(tmp_path: Path) -> None:
    embedder = embedder_of(TinyQwen2().write(tmp_path))
    last = byte_pairs(closes=False).token_to_id(END)
    assert last is not None
    request = Embed(id=1)
    ids = TokenIds(((*range(80), last), tuple(range(80))))
    tokenized = tokenize(request, ids, embedder.model, embedder.card, lambda: None, watch=UNWATCHED)
    assert [one.tolist() for one in tokenized.ids] == [[*range(63), last], [*range(64)]]
