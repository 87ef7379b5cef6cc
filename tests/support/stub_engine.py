"""An engine without torch: real processes that do what the texts tell them. Vectors are a hash of the ids, so that the
same text gives the same vector in any batch, process and order.

A text that begins with one of these words is a command, carried out in the forward pass that computes it:

    crash            SIGABRT                        stall S          sleep, without the GIL
    segv             SIGSEGV                        hold gil S       sleep in native code, with the GIL
    exit N           the process ends with N        eat NMiB         take memory and keep it
    nan / zero       a bad vector for that text     raise [memory]   an exception
    die              a BaseException in the thread  tokenizer fails  an exception from ``tokenize``
    spoil            nan from now on                drift            wrong vectors from now on
    lost file N      SIGBUS for N times in all, as of a mapped file that was cut short; a vector after

How loading goes is told by ``stub.json`` in the model's folder:
``{"load": "ok" | "fail" | "raise" | "crash" | "slow S" | "thread" | "nan" | "eat NMiB" | "streams"}``; with "streams"
each thread of a worker computes by itself. While there is a file ``stub_drifts`` all vectors are wrong. Every load
appends its pid to the file named by the environment's EMBEDDAEMON_STUB_LOADS, else to ``stub_loads.txt`` in the folder,
if there is one; every command about to be obeyed appends itself to ``stub_obeyed.txt`` there.
The token DEADLY_ID is a command too: SIGSEGV.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from embeddaemon.errors import CorruptModel, ModelNotFound
from embeddaemon.models.card import ModelCard
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.spec import Pooling
from embeddaemon.protocol.limits import Limits
from embeddaemon.workers.engines import Encoded, EngineFacts, Ids, Rows
from embeddaemon.workers.program import EngineProgram

COMMANDS = (
    "crash",
    "segv",
    "exit ",
    "stall ",
    "hold gil ",
    "eat ",
    "nan",
    "zero",
    "raise",
    "die",
    "spoil",
    "drift",
    "lost",
)
START, END = 0, 1
_RESERVED = 200
"""Ids at the top of the vocabulary that stand for commands."""
DEADLY_ID = 29_800
"""The lowest of them, in every process."""

_kept: list[bytearray] = []


class Death(BaseException):
    """Escapes every ``except Exception``."""


class StubModel:
    """Words to ids by checksum, ids to vectors by hash."""

    def __init__(self, order: LoadOrder, *, bad: bool = False, is_reentrant: bool = False) -> None:
        self.facts = EngineFacts(
            engine="stub",
            family=order.card.family,
            precision="float32",
            device=order.device,
            dim=order.card.dim,
            parameters=order.card.parameters,
            weights_bytes=order.card.weights_bytes,
        )
        self.is_reentrant = is_reentrant
        self.threads: int | None = None
        self._card = order.card
        self._vocabulary = order.card.vocabulary
        self._bad = bad
        self._drifts = False
        self._commands: dict[int, str] = {DEADLY_ID: "segv by its id"}
        self._folder = Path(order.card.folder)

    def tokenize(
        self, texts: Sequence[str], *, prompt: str, max_tokens: int, between: Callable[[], None] | None = None
    ) -> list[Encoded]:
        encoded = []
        for text in texts:
            encoded.append(self._encode(text, prompt, max_tokens))
            if between is not None:
                between()
        return encoded

    def _encode(self, text: str, prompt: str, max_tokens: int) -> Encoded:
        if text.startswith("tokenizer fails"):
            raise RuntimeError("told to fail in the tokenizer")
        prompt_ids = [START, *map(self._id, prompt.split())]
        words = [self._command_id(text)] if text.startswith(COMMANDS) else [self._id(word) for word in text.split()]
        ids = [*prompt_ids, *words, END]
        cut = ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], END]
        return Encoded(np.array(cut, dtype=np.int32), len(prompt_ids) if prompt else 0, len(ids))

    def _id(self, word: str) -> int:
        return 2 + zlib.crc32(word.encode()) % (self._vocabulary - _RESERVED - 2)

    def _command_id(self, text: str) -> int:
        number = self._vocabulary - 1 - len(self._commands) % _RESERVED
        self._commands[number] = text
        return number

    def forward(self, ids: Ids, lengths: Ids, prompt_lengths: Ids | None) -> Rows:
        assert ids.dtype == np.int32, ids.dtype
        assert lengths.sum() == len(ids), (lengths, len(ids))
        rows = np.empty((len(lengths), self._card.pooled_dim), dtype=np.float32)
        start = 0
        for place, length in enumerate(lengths):
            its = ids[start : start + length]
            start += length
            rows[place] = self._vector(its if prompt_lengths is None else its[prompt_lengths[place] :])
            for number in its:
                if int(number) in self._commands:
                    self._note(self._commands[int(number)])
                    self._obey(self._commands[int(number)], rows[place])
        if self._bad:
            rows[:] = np.nan
        return -rows if self._drifts or (self._folder / "stub_drifts").exists() else rows

    def _obey(self, command: str, row: Rows) -> None:
        match command.split():
            case ["spoil", *_]:
                self._bad = True
            case ["drift", *_]:
                self._drifts = True
            case ["lost", "file", times]:
                obeyed = (self._folder / "stub_obeyed.txt").read_text().splitlines()
                if obeyed.count(command) <= int(times):
                    read_lost_file()
            case _:
                obey(command, row)

    def _note(self, command: str) -> None:
        if self._folder.is_dir():
            with (self._folder / "stub_obeyed.txt").open("a") as file:
                file.write(f"{command}\n")

    def _vector(self, ids: Ids) -> Rows:
        return vector(ids.tolist(), self._card.pooled_dim)

    def project(self, rows: Rows, dimensions: int) -> Rows:
        """A head repeats the pooled vector until it is long enough, or leaves the rest out."""
        whole = self._card.whole_dim(dimensions)
        return rows[:, np.arange(whole) % rows.shape[1]]

    def use_threads(self, threads: int) -> None:
        self.threads = threads


def vector(ids: Sequence[int] | Ids, dim: int) -> Rows:
    """What the stub computes for a text with these ids, before any normalisation."""
    digest = hashlib.shake_128(np.array(ids, dtype="<i4").tobytes()).digest(4 * dim)
    return (np.frombuffer(digest, dtype="<u4") / 2**31 - 1).astype(np.float32)


def plain_vector(text: str, dim: int, *, vocabulary: int = 30_000) -> Rows:
    """What the stub computes for a text that is no command and has no prompt."""
    words = [2 + zlib.crc32(word.encode()) % (vocabulary - _RESERVED - 2) for word in text.split()]
    return vector([START, *words, END], dim)


def obey(command: str, row: Rows) -> None:
    """Carry out a command; ``row`` is the vector of its text."""
    match command.split():
        case ["crash", *_]:
            os.abort()
        case ["segv", *_]:
            ctypes.string_at(0)
        case ["exit", code, *_]:
            os._exit(int(code))
        case ["stall", duration, *_]:
            time.sleep(float(duration))
        case ["hold", "gil", duration, *_]:
            ctypes.PyDLL(None).sleep(int(duration))
        case ["eat", size, *_]:
            # In steps, and every page written.
            _kept.extend(bytearray(b"x") * (1 << 20) for _ in range(int(size.removesuffix("MiB"))))
        case ["nan", *_]:
            row[:] = np.nan
        case ["zero", *_]:
            row[:] = 0
        case ["raise", "memory", *_]:
            raise MemoryError("told to")
        case ["raise", *_]:
            raise RuntimeError("told to")
        case ["die", *_]:
            raise Death("told to")
        case _:
            raise AssertionError(f"no such command: {command}")


def read_lost_file() -> None:
    """What a worker does whose weights were cut short under their mapping: SIGBUS, by the kernel's own hand."""
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), 0)
        file.truncate(0)
        mapped[0]


def _eat(size: str) -> None:
    _kept.append(bytearray(os.urandom(4096)) * (int(size.removesuffix("MiB")) * 256))


def load(order: LoadOrder) -> StubModel:
    """As told by the folder."""
    folder = Path(order.card.folder)
    _record_load(folder)
    match _told(folder).split():
        case ["ok"]:
            return StubModel(order)
        case ["fail"]:
            raise CorruptModel(f"{folder}: told to fail", details={"path": str(folder)})
        case ["raise"]:
            raise ZeroDivisionError("told to raise")
        case ["crash"]:
            os.abort()
        case ["slow", duration]:
            time.sleep(float(duration))
            return StubModel(order)
        case ["eat", size]:
            _eat(size)
            return StubModel(order)
        case ["streams"]:
            return StubModel(order, is_reentrant=True)
        case ["thread"]:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            return StubModel(order)
        case ["nan"]:
            return StubModel(order, bad=True)
        case told:
            raise AssertionError(f"no such way of loading: {told}")


def _told(folder: Path) -> str:
    try:
        return str(json.loads((folder / "stub.json").read_text()).get("load", "ok"))
    except FileNotFoundError:
        return "ok"


def _record_load(folder: Path) -> None:
    name = os.environ.get("EMBEDDAEMON_STUB_LOADS")
    path = Path(name) if name else folder / "stub_loads.txt"
    if path.parent.is_dir():
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")


def fetch(source: str) -> str:
    """What is in ``hub:missing/`` is not found, in ``hub:slow/`` never there, in ``hub:large/`` more than memory takes;
    anything else is in /fetched.
    """
    if source.startswith("hub:missing/"):
        raise ModelNotFound(f"{source}: no such repository")
    if source.startswith("hub:slow/"):
        threading.Event().wait()
    if source.startswith("hub:large/"):
        raise MemoryError("told to")
    return "/fetched/" + source.removeprefix("hub:")


def preload() -> Sequence[str]:
    """Fails when the environment's EMBEDDAEMON_STUB_PRELOAD says so."""
    match os.environ.get("EMBEDDAEMON_STUB_PRELOAD", "ok"):
        case "import error":
            import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401
        case "missing":
            return ("a_module_that_nobody_imported",)
        case "no memory":
            raise ImportError("torch") from MemoryError("told to")
        case "thread":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
    return ("hashlib", "zlib")


def use_one_thread() -> None:
    """The stub never has more."""


PROGRAM = EngineProgram(preload=preload, use_one_thread=use_one_thread, load=load, fetch=fetch)


def stub_card(
    folder: str | Path = "/nonexistent/stub",
    *,
    name: str = "stub",
    dim: int = 8,
    max_tokens: int = 64,
    normalize: bool = True,
    include_prompt: bool = True,
    default_task: str | None = None,
) -> ModelCard:
    """A card for the stub engine: tasks ``query`` and ``document``, dimensions ``dim`` and ``dim // 2``."""
    return ModelCard(
        name=name,
        folder=str(folder),
        revision="1",
        family="stub",
        dim=dim,
        pooled_dim=dim,
        max_tokens=max_tokens,
        vocabulary=30_000,
        pooling=(Pooling.MEAN,),
        normalize=normalize,
        include_prompt=include_prompt,
        prompts={"query": "find this: ", "document": ""},
        default_task=default_task,
        dimensions=(dim, dim // 2),
        parameters=1000,
        weights_bytes=4000,
    )


def stub_order(card: ModelCard | None = None, *, token_budget: int = 256, limits: Limits | None = None) -> LoadOrder:
    """An order for it."""
    return LoadOrder(
        card=card or stub_card(),
        device="cpu",
        precision="float32",
        token_budget=token_budget,
        limits=limits or Limits(),
    )
