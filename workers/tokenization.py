"""Texts to token ids, by the ``tokenizers`` library on the folder's own tokenizer.json, never padded.

Truncation is ours: the library would have to tokenize twice to tell how long a text was. What the library needs while
it encodes is hundreds of bytes for each byte of text, so what comes in one request is encoded in slices, and a long
text in pieces, which are joined in joining.py. What a request may carry is checked elsewhere (requests.py).
"""

from __future__ import annotations

import json
import re
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
from embeddaemon.workers.joining import NO_TOKENS, Piece, Tokens, joined, pieces, tokens_of

_PROMPTS_REMEMBERED = 64

_SLICE_BYTES = 8 * 1024
"""Of UTF-8, encoded at once: for some milliseconds, so a call more or less is nothing. Longer texts are in pieces that
are so long with what they begin with, the end of the piece before."""

_BYTES_PER_BYTE = 2304
"""The most that was measured for a byte of text, ids included: 2,231 for U+FDFA by NFKC (11 bytes for one) and BPE of
bytes, 775 for it by Unigram, 674 for U+0390 by NFD and BPE, 419 for full stops by BERT, some 100 for English prose."""

_AS_THE_FILE_IS = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Classes of transformers that take tokenizer.json as it is, whatever the settings beside it say."""

_ADDED = re.compile(r'"added_tokens"\s*:\s*\[')

_BYTES_AT_LEAST = 1024 * 1024
"""What must be there as well before the library is called, which aborts the process when it gets no memory."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """The special tokens that stand before and behind every text."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens an empty text has."""
        return len(self.before) + len(self.behind)


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, rust: RustTokenizer, *, counts_prompts: bool, pools_last_prompt_token: bool = False) -> None:
        """``rust`` must not pad or cut."""
        self._rust = rust
        self._counts_prompts = counts_prompts
        self._frame = _frame_of(rust)
        # What is in the frame is counted as the prompt's, and so many are left out of the pooling from the first on.
        self._counted_before = 0 if pools_last_prompt_token else len(self._frame.before)
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
        """As if encoded at once, wherever a piece begins with tokens that the one before it has as well.

        Where it has none of those (one word of thousands of letters, a long row of one character) a token more or less
        may come of it; so in what is cut off, where tokenizers make tokens across gaps or put a space before a text.
        """
        kept: list[int] = []
        length = self._frame.tokens
        held, first = NO_TOKENS, 0  # of the piece before: its last tokens may be others in the text
        for piece in pieces(text, _SLICE_BYTES):
            if len(kept) >= max_tokens:  # all that stays is there; the rest is only counted
                (encoding,) = self._encode_at_once([text[piece.start : piece.end]])
                length += len(encoding) - self._frame.tokens
                between()
                continue
            found = self._tokens(text, piece)
            between()
            last, own = joined(held, found)
            length += last - first
            kept += held.ids[first:last][:max_tokens].tolist()
            held, first = found, own
        length += len(held.ids) - first
        kept += held.ids[first:][:max_tokens].tolist()
        return length, [*self._frame.before, *kept, *self._frame.behind]

    def _tokens(self, text: str, piece: Piece) -> Tokens:
        """Raises MemoryError."""
        part = text[piece.since : piece.end]
        require(_BYTES_AT_LEAST + _BYTES_PER_BYTE * _size_bytes(part))
        (encoding,) = self._rust.encode_batch([part], add_special_tokens=False)
        return tokens_of(encoding, piece)

    def _encode_at_once(self, texts: list[str]) -> list[Encoding]:
        """Raises MemoryError."""
        require(_BYTES_AT_LEAST + _BYTES_PER_BYTE * sum(map(_size_bytes, texts)))
        return self._rust.encode_batch_fast(texts)

    def _cut(self, ids: list[int], max_tokens: int) -> list[int]:
        if len(ids) <= max_tokens:
            return ids
        behind = len(self._frame.behind) if max_tokens > self._frame.tokens else 0
        return ids[: max_tokens - behind] + ids[len(ids) - behind :]

    def _count(self, prompt: str) -> int:
        """Tokens of the prompt, and with what stands before it where sentence-transformers counts that."""
        count = self._prompt_tokens.get(prompt)
        if count is None:
            ((length, _),) = self._encode_slice([prompt], 0, _nothing)
            count = length - self._frame.tokens + self._counted_before
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


def load_tokenizer(card: ModelCard) -> Tokenizer:
    """The tokenizer of a model's folder. Raises CorruptModel."""
    folder = Path(card.transformer_folder)
    settings = read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").exists():
        rust = _from_json(folder / "tokenizer.json", card.vocabulary)
        if isinstance(rust.model, WordPiece) and settings.text("tokenizer_class") not in _AS_THE_FILE_IS:
            _follow_settings(rust, settings)
    elif (folder / "vocab.txt").exists():
        rust = _from_vocabulary(folder / "vocab.txt", settings)
    else:
        raise CorruptModel(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.txt")
    if read_pipeline(Path(card.folder)).sentence.boolean("do_lower_case", default=False):
        _lower_case_first(rust)
    frame = _frame_of(rust)
    highest = max([_highest_id(rust), *frame.before, *frame.behind])
    if highest >= card.vocabulary:
        raise CorruptModel(
            f"{folder}: the tokenizer has the token id {highest}, the model's ids are below {card.vocabulary}"
        )
    if card.closing_token is not None:
        _close_with(rust, card.closing_token, folder)
    return Tokenizer(rust, counts_prompts=not card.include_prompt, pools_last_prompt_token=card.pools_last_prompt_token)


def _from_json(path: Path, vocabulary: int) -> RustTokenizer:
    """What the file has, but never pads or cuts. Raises CorruptModel."""
    try:
        raw = path.read_bytes()
        rust = RustTokenizer.from_buffer(raw)
        if _highest_id(rust) >= vocabulary:
            rust = RustTokenizer.from_buffer(_without_added(raw, vocabulary))
    except Exception as error:  # all that the library raises is a plain Exception
        raise CorruptModel(f"{path} is not a tokenizer: {str(error)[:200]}") from error
    rust.no_padding()
    rust.no_truncation()
    return rust


def _without_added(raw: bytes, vocabulary: int) -> bytes:
    """A tokenizer.json without added tokens whose ids are ``vocabulary`` or more: texts that say them are plain texts.

    EmbeddingGemma's has one for images (262,144), for which its model has no row.
    """
    file = raw.decode()
    found = _ADDED.search(file)
    if found is None:
        return raw
    begin = found.end() - 1
    tokens, end = json.JSONDecoder().raw_decode(file, begin)  # the whole file may have tens of megabytes
    kept = [token for token in tokens if token["id"] < vocabulary]
    return (file[:begin] + json.dumps(kept) + file[end:]).encode()


def _highest_id(rust: RustTokenizer) -> int:
    return max(rust.get_vocab(with_added_tokens=True).values(), default=0)


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


def _close_with(rust: RustTokenizer, token: str, folder: Path) -> None:
    """Puts the token behind every text, where nothing does so yet. Raises CorruptModel."""
    number = rust.token_to_id(token)
    if number is None:
        raise CorruptModel(f"{folder}: the tokenizer has no {token!r}, with which every text of this model ends")
    frame = _frame_of(rust)
    if number in frame.behind:
        return
    before, behind = ([str(rust.id_to_token(one)) for one in side] for side in (frame.before, frame.behind))
    rust.post_processor = TemplateProcessing(
        single=[*before, "$A", *behind, token],
        special_tokens=[(name, rust.token_to_id(name)) for name in {*before, *behind, token}],
    )


def _frame_of(rust: RustTokenizer) -> _Frame:
    """Read off the specials around a text that is anything but special."""
    encoding = rust.encode("a")
    inside = [position for position, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
    if not inside:
        return _Frame(before=tuple(encoding.ids), behind=())
    return _Frame(before=tuple(encoding.ids[: inside[0]]), behind=tuple(encoding.ids[inside[-1] + 1 :]))
