"""``embed``: texts from arguments, a file or standard input; vectors to standard output or a file, piece by piece."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NoReturn

import click
import numpy as np
from tqdm import tqdm

from embeddaemon.cli import connect, target, texts
from embeddaemon.cli.console import Exit, say
from embeddaemon.cli.vectors import FORMATS, Rows, writer_for
from embeddaemon.client.sync import Client
from embeddaemon.errors import Invalid
from embeddaemon.protocol.limits import MAX_DIMENSIONS
from embeddaemon.protocol.precisions import PRECISIONS

STANDARD = "-"


@dataclass(frozen=True, slots=True)
class Output:
    """Where vectors go, and how they look there."""

    path: Path | None
    """None: standard output."""
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the model."""

    model: str | None
    task: str | None
    prompt: str | None
    dimensions: int | None
    precision: str
    truncate: bool


@dataclass(slots=True)
class Cut:
    """The texts that were cut to the model's maximum: counted, since a list of them could grow with the input."""

    texts: int = 0
    first: int | None = None

    def add(self, index: int) -> None:
        """One more, in the order of the texts."""
        self.texts += 1
        if self.first is None:
            self.first = index


@click.command(name="embed", short_help="Turn texts into vectors.")
@click.argument("given", metavar="[TEXT]...", nargs=-1)
@click.option("-m", "--model", metavar="NAME", help="Model to ask. Default: the daemon's default.")
@click.option(
    "-i", "--input", "source", metavar="FILE", help="One text per line (.jsonl: field `text`); -: standard input."
)
@click.option("-o", "--output", metavar="FILE", help="Write here: .npy, .jsonl or .json; -: standard output (default).")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the file's ending, else jsonl.")
@click.option("--task", metavar="NAME", help="What the vectors are for, such as query or document; see `models`.")
@click.option("--prompt", metavar="TEXT", help="Put this before every text, instead of a task's prompt.")
@click.option(
    "--dimensions",
    type=click.IntRange(1, MAX_DIMENSIONS),
    metavar="N",
    help="Shorter vectors, where the model offers them.",
)
@click.option(
    "--precision", type=click.Choice(tuple(PRECISIONS)), default="float32", help="Of the numbers. Default: float32."
)
@click.option("--truncate/--no-truncate", default=True, help="Cut texts that are too long (default), or fail.")
@click.option("--progress/--no-progress", default=None, help="Progress on standard error. Default: on a terminal.")
@connect.endpoint_option
@connect.timeout_option()
def embed_command(
    *,
    given: tuple[str, ...],
    model: str | None,
    source: str | None,
    output: str | None,
    form: str | None,
    task: str | None,
    prompt: str | None,
    dimensions: int | None,
    precision: str,
    truncate: bool,
    progress: bool | None,
    endpoint: str | None,
    timeout: float,
) -> None:
    """Turn texts into vectors: one JSON line per text, or a NumPy file.

    Texts come from the command line, from a file (-i) or from standard input, one per line, and are streamed: the size
    of the input does not matter. A file appears under its name when it is complete; an interruption leaves nothing.
    What numbers of int8 and uint8 stand for, lowest and highest of each dimension, is in the JSON document, else in a
    NumPy file (2, dimensions) beside the output: vectors.ranges.npy for vectors.npy.

    \b
    Examples:
      embeddaemon embed "What is a daemon?"
      embeddaemon embed --task query --format json "What is a daemon?"
      embeddaemon embed -i texts.txt -o vectors.npy
      sort -u texts.txt | embeddaemon embed -m mini > vectors.jsonl
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    if prompt is not None and task is not None:
        raise click.UsageError("--task and --prompt both say what stands before the texts: give one of them")
    where = output_of(output, form)
    ranges_path = _ranges_path(where, precision)
    request = Request(
        model=model, task=task, prompt=prompt, dimensions=dimensions, precision=precision, truncate=truncate
    )
    shown = sys.stderr.isatty() and (len(given) > 1 or not given) if progress is None else progress
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        several, total = _texts(given, source, stack, count=shown)
        client = stack.enter_context(Client(endpoint, timeout=timeout))
        bar = stack.enter_context(tqdm(total=total, unit=" texts", file=sys.stderr, disable=not shown))
        stack.enter_context(_lines_named(_name_of_lines(given, source)))
        written, cut = _embed(client, several, request, where, bar)
    if cut.texts:
        say(
            f"note: {_count(cut.texts, 'text')} longer than the model takes and cut, the first is text {cut.first}; "
            "--no-truncate fails instead"
        )
    if where.path is not None:
        beside = f", what its numbers stand for to {ranges_path}" if ranges_path is not None and written else ""
        say(f"{_count(written, 'vector')} written to {where.path}{beside}")


def _embed(
    client: Client, several: Iterable[str], request: Request, where: Output, bar: tqdm[NoReturn]
) -> tuple[int, Cut]:
    cut, ranges_path = Cut(), _ranges_path(where, request.precision)
    with ExitStack() as files:
        file = files.enter_context(_opened(where))

        def take_ranges(ranges: Rows) -> None:
            writer.take_ranges(ranges)
            if ranges_path is not None:  # entered last, so it has its name before the vectors have theirs
                np.save(files.enter_context(target.whole_file(ranges_path)), ranges)

        writer = writer_for(where.form, file, request.model or client.hello().default_model, request.precision)
        pieces = client.embed_stream(
            several,
            model=request.model,
            task=request.task,
            prompt=request.prompt,
            dimensions=request.dimensions,
            truncate=request.truncate,
            precision=request.precision,
            on_truncated=cut.add,
            on_ranges=take_ranges,
        )
        for rows in pieces:
            writer.write(rows)
            bar.update(len(rows))
        if not writer.count and where.form != "jsonl":
            empty = client.embed([], model=request.model, dimensions=request.dimensions, precision=request.precision)
            writer.write(empty)  # (0, dim)
        writer.finish()
        return writer.count, cut


def output_of(output: str | None, form: str | None) -> Output:
    """Path and format of what was given. Raises click's UsageError for a file whose ending says nothing."""
    if output is None or output == STANDARD:
        if form == "npy" and sys.stdout.isatty():
            raise click.UsageError(
                "a NumPy file is no text for a terminal: name a file with -o, or redirect the output"
            )
        return Output(None, form or "jsonl")
    path = Path(output)
    ending = path.suffix.removeprefix(".").lower()
    if form is None and ending not in FORMATS:
        raise click.UsageError(
            f"{output}: which format? Name a file that ends with .npy, .jsonl or .json, or give --format"
        )
    return Output(path, form or ending)


def _ranges_path(where: Output, precision: str) -> Path | None:
    """The file beside the vectors for what numbers of 8 bits stand for; None where there is nothing to keep apart.

    Raises click's UsageError where they would be lost.
    """
    if not PRECISIONS[precision].has_ranges or where.form == "json":
        return None
    if where.path is None:
        raise click.UsageError(
            f"numbers of {precision} mean nothing without their ranges, for which {where.form} on standard output has "
            "no place: name a file with -o (the ranges go into a file beside it), or give --format json"
        )
    if where.path.exists() and not where.path.is_file():
        raise click.UsageError(f"{where.path}: ranges of {precision} go into a file beside it, and this is no file")
    return where.path.with_suffix(".ranges.npy")


def _opened(where: Output) -> AbstractContextManager[IO[bytes] | BinaryIO]:
    if where.path is not None:
        return target.whole_file(where.path)
    if where.form == "npy":
        return target.spooled(target.standard_output())
    return nullcontext(target.standard_output())


def _texts(
    given: tuple[str, ...], source: str | None, stack: ExitStack, *, count: bool
) -> tuple[Iterable[str], int | None]:
    """The texts, and how many where that is known."""
    if given:
        if source is not None:
            raise click.UsageError("texts on the command line and --input: give one of them")
        return given, len(given)
    if source is None and sys.stdin.isatty():
        raise click.UsageError("no texts: give some, or -i FILE, or a pipe; `embeddaemon embed --help` has examples")
    if source is None or source == STANDARD:
        return texts.read_lines(sys.stdin.buffer, "standard input"), None
    file = stack.enter_context(Path(source).open("rb"))  # noqa: SIM115 - the stack is its context
    total = None
    if count and file.seekable():
        total = texts.count_lines(file)
        file.seek(0)
    read = texts.read_jsonl if _is_jsonl(source) else texts.read_lines
    return read(file, source), total


def _name_of_lines(given: tuple[str, ...], source: str | None) -> str | None:
    """What the texts are the lines of; None where a text's number is not that of its line, less one."""
    if given or (source is not None and _is_jsonl(source)):
        return None
    return "standard input" if source is None or source == STANDARD else source


def _is_jsonl(source: str) -> bool:
    return source.lower().endswith((".jsonl", ".ndjson"))


@contextmanager
def _lines_named(name: str | None) -> Iterator[None]:
    """An error about one text says in which line a person finds it: texts count from 0, editors from 1."""
    try:
        yield
    except Invalid as error:
        index = error.details.get("index")
        if name is not None and isinstance(index, int):
            error.message = f"{name}, line {index + 1}: {error.message}"
        raise


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP, a terminal that is closed, end the program as an exception does.

    So a file half written is removed. SIGHUP that is ignored stays ignored: that is what nohup is for.
    """

    def end(number: int, _: object) -> None:
        sys.exit(Exit.TERMINATED if number == signal.SIGTERM else Exit.HUNG_UP)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
