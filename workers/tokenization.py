"""Texts to token ids, by the ``tokenizers`` library on the folder's own tokenizer.json, never padded.

Truncation is ours: the library would have to tokenize twice to tell how long a text was. What the library needs while
it encodes is hundreds of bytes for each byte of text, so what comes in one request is encoded in slices, and a long
text in pieces. What a request may carry is checked elsewhere (requests.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase, Normalizer
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from embeddaemon.errors import CorruptModel
from embeddaemon.models.card import ModelCard
from embeddaemon.models.jsonfile import JsonFile, read_json
from embeddaemon.models.pipeline import read_pipeline
from embeddaemon.workers.engines import Encoded
from embeddaemon.workers.exhaustion import require

_PROMPTS_REMEMBERED = 64

_SLICE_BYTES = 8 * 1024
"""Of UTF-8, encoded at once: for some milliseconds, so a call more or less is nothing. Longer texts are in pieces so
long; for models of 512 tokens one holds nearly always all that stays of its text."""

_BYTES_PER_BYTE = 2304
"""The most that was measured for a byte of text, ids included: 2,231 for U+FDFA by NFKC (11 bytes for one) and BPE of
bytes, 775 for it by Unigram, 674 for U+0390 by NFD and BPE, 419 for full stops by BERT, some 100 for English prose."""

_BYTES_AT_LEAST = 1024 * 1024
"""What must be there as well before the library is called, which aborts the process when it gets no memory."""

_GAPS = frozenset(" \t\n\r\u3000\u3001\u3002\uff0c")
"""Before these a piece may end: spaces, and the commas and full stop of Chinese and Japanese. Not all that Python calls
a space: BERT deletes some control characters, and what stood around them is one word."""

_WORD_CHARACTERS = 1024
"""Where a piece would end, a gap is looked for so far back; without one it ends inside a word."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """How many special tokens stand before and behind every text."""

    before: int
    behind: int


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, rust: RustTokenizer, *, counts_prompts: bool) -> None:
        rust.no_padding()
        rust.no_truncation()
        self._rust = rust
        self._counts_prompts = counts_prompts
        self._frame = _frame_of(rust)
        self._prompt_tokens: dict[str, int] = {"": 0}

    def encode(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        """Each text with ``prompt`` before it; longer ones keep their special tokens at the end. Releases the GIL.

        ``between`` is called every few milliseconds, after each slice and piece. Raises MemoryError.
        """
        prompt_tokens = self._count(prompt) if self._counts_prompts else 0
        encoded: list[Encoded] = []
        for together in _slices(prompt + text for text in texts):
            for length, ids in self._encode_slice(together, max_tokens, between or _nothing):
                cut = np.array(self._cut(ids, max_tokens), dtype=np.int32)
                # Of a text that is all prompt something must stay to be pooled.
                encoded.append(Encoded(cut, max(0, min(prompt_tokens, len(cut) - 1)), length))
        return encoded

    def _encode_slice(
        self, texts: list[str], max_tokens: int, between: Callable[[], None]
    ) -> Iterator[tuple[int, list[int]]]:
        """Of each how many tokens it has, and their ids or those of its beginning, at least as many as are to stay."""
        if _size_bytes(texts[0]) > _SLICE_BYTES:
            yield self._encode_long(texts[0], max_tokens, between)
            return
        encodings = self._encode_at_once(texts)
        between()
        for encoding in encodings:
            ids = encoding.ids
            yield len(ids), ids

    def _encode_long(self, text: str, max_tokens: int, between: Callable[[], None]) -> tuple[int, list[int]]:
        """As if encoded at once, where pieces end before gaps and the tokenizer makes no tokens across those.

        Without a gap for a thousand characters a piece ends inside a word, which is then two, or inside a special token
        that the text spells out, which is then none. Tokenizers that make tokens across gaps, or that put a space
        before every text, count some more or less for each piece, two or three at most. The ids of the first piece are
        right but for its last ones.
        """
        before, behind = self._frame.before, self._frame.behind
        ids: list[int] = []
        length = self.special_tokens
        for start, end in _pieces(text):
            (encoding,) = self._encode_at_once([text[start:end]])
            between()
            piece = encoding.ids
            length += len(piece) - self.special_tokens
            if start == 0:
                ids = piece
            elif len(ids) <= max_tokens + behind:
                ids = ids[: len(ids) - behind] + piece[before:]
        return length, ids

    def _encode_at_once(self, texts: list[str]) -> list[Encoding]:
        """Raises MemoryError."""
        require(_BYTES_AT_LEAST + _BYTES_PER_BYTE * sum(map(_size_bytes, texts)))
        return self._rust.encode_batch_fast(texts)

    @property
    def special_tokens(self) -> int:
        """How many tokens an empty text has."""
        return self._frame.before + self._frame.behind

    def _cut(self, ids: list[int], max_tokens: int) -> list[int]:
        if len(ids) <= max_tokens:
            return ids
        behind = self._frame.behind if max_tokens > self.special_tokens else 0
        return ids[: max_tokens - behind] + ids[len(ids) - behind :]

    def _count(self, prompt: str) -> int:
        """Tokens of the prompt with what stands before it, as sentence-transformers counts them."""
        count = self._prompt_tokens.get(prompt)
        if count is None:
            ((length, _),) = self._encode_slice([prompt], 0, _nothing)
            count = length - self._frame.behind
            if len(self._prompt_tokens) >= _PROMPTS_REMEMBERED:
                self._prompt_tokens.clear()
            self._prompt_tokens[prompt] = count
        return count


def _nothing() -> None:
    """For callers that have nothing else to do meanwhile."""


def _size_bytes(text: str) -> int:
    """In UTF-8; of a text that is too long for a slice in any case, something too long."""
    return len(text) if text.isascii() or len(text) > _SLICE_BYTES else len(text.encode())


def _slices(texts: Iterable[str]) -> Iterator[list[str]]:
    """In order, each as many as are short enough together; a longer one is alone."""
    together: list[str] = []
    held = 0
    for text in texts:
        size = _size_bytes(text)
        if together and held + size > _SLICE_BYTES:
            yield together
            together, held = [], 0
        together.append(text)
        held += size
    if together:
        yield together


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Where each begins and ends: before a gap, wherever there is one. None is longer than a slice."""
    start = 0
    while start < len(text):
        window = text[start : start + _SLICE_BYTES].encode()[:_SLICE_BYTES]
        end = start + len(window.decode(errors="ignore"))  # not inside a character
        if end < len(text):
            # The first of several spaces: by their number tokenizers tell what is code.
            gaps = (place for place in range(end, max(start, end - _WORD_CHARACTERS), -1) if _is_gap(text, place))
            end = next(gaps, end)
        yield start, end
        start = end


def _is_gap(text: str, place: int) -> bool:
    return text[place] in _GAPS and text[place - 1] not in _GAPS


def load_tokenizer(card: ModelCard) -> Tokenizer:
    """The tokenizer of a model's folder. Raises CorruptModel."""
    folder = Path(card.transformer_folder)
    settings = read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").exists():
        rust = _from_json(folder / "tokenizer.json")
        if isinstance(rust.model, WordPiece):
            _follow_settings(rust, settings)
    elif (folder / "vocab.txt").exists():
        rust = _from_vocabulary(folder / "vocab.txt", settings)
    else:
        raise CorruptModel(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.txt")
    if read_pipeline(Path(card.folder)).sentence.boolean("do_lower_case", default=False):
        _lower_case_first(rust)
    highest = max(rust.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= card.vocabulary:
        raise CorruptModel(
            f"{folder}: the tokenizer has the token id {highest}, the model's ids are below {card.vocabulary}"
        )
    return Tokenizer(rust, counts_prompts=not card.include_prompt)


def _from_json(path: Path) -> RustTokenizer:
    try:
        return RustTokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # all that the library raises is a plain Exception
        raise CorruptModel(f"{path} is not a tokenizer: {str(error)[:200]}") from error


def _follow_settings(rust: RustTokenizer, settings: JsonFile) -> None:
    """tokenizer_config.json goes before what tokenizer.json says, as in transformers' BertTokenizer."""
    if isinstance(rust.normalizer, BertNormalizer) and settings.is_present:
        rust.normalizer = _normalizer(settings)


def _from_vocabulary(path: Path, settings: JsonFile) -> RustTokenizer:
    """BERT's tokenizer from its word list, as transformers' BertTokenizer builds it."""
    unknown, start, end = (
        settings.text(key) or default
        for key, default in (("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
    )
    words = path.read_text(encoding="utf-8").splitlines()
    vocabulary = {word: index for index, word in enumerate(words)}
    if missing := [token for token in (unknown, start, end) if token not in vocabulary]:
        raise CorruptModel(f"{path} has no {', '.join(missing)}")
    rust = RustTokenizer(WordPiece(vocabulary, unk_token=unknown))
    rust.add_special_tokens([unknown, start, end])
    rust.normalizer = _normalizer(settings)
    rust.pre_tokenizer = BertPreTokenizer()
    rust.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])],
    )
    return rust


def _normalizer(settings: JsonFile) -> BertNormalizer:
    accents = settings.values.get("strip_accents")
    return BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.boolean("tokenize_chinese_chars", default=True),
        strip_accents=None if accents is None else bool(accents),
        lowercase=settings.boolean("do_lower_case", default=True),
    )


def _lower_case_first(rust: RustTokenizer) -> None:
    parts: list[Normalizer] = []
    if isinstance(rust.normalizer, NormalizerSequence):
        parts = [rust.normalizer[index] for index in range(len(rust.normalizer))]
    elif rust.normalizer is not None:
        parts = [rust.normalizer]
    if not any(isinstance(part, Lowercase) for part in parts):
        rust.normalizer = NormalizerSequence([Lowercase(), *parts])


def _frame_of(rust: RustTokenizer) -> _Frame:
    """Read off the specials around a text that is anything but special."""
    mask = rust.encode("a").special_tokens_mask
    inside = [position for position, is_special in enumerate(mask) if not is_special]
    if not inside:
        return _Frame(before=len(mask), behind=0)
    return _Frame(before=inside[0], behind=len(mask) - 1 - inside[-1])
