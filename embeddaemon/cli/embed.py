"""``embed``: texts from arguments, a file or standard input; vectors to standard output or a file, piece by piece."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NoReturn, get_args

import click
import numpy as np
from tqdm import tqdm

from embeddaemon.cli import connect, target, texts
from embeddaemon.cli.console import Exit, say
from embeddaemon.cli.embed_notes import Cut, LeftOut, OnPoisoned, count, where
from embeddaemon.cli.vectors import FORMATS, Rows, writer_for
from embeddaemon.client.sync import Client
from embeddaemon.errors import Invalid, Poisoned
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
    on_poisoned: OnPoisoned


@dataclass(frozen=True, slots=True)
class Notes:
    """What is said at the end."""

    cut: Cut
    left_out: LeftOut


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
@click.option(
    "--on-poisoned",
    type=click.Choice(get_args(OnPoisoned)),
    default="error",
    help="Texts that workers died of: fail (default), go on with NaN (null in JSON) for them, or without their lines.",
)
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
    on_poisoned: OnPoisoned,
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
    target_file = output_of(output, form)
    ranges_path = _ranges_path(target_file, precision)
    if on_poisoned == "skip" and target_file.form != "jsonl":
        raise click.UsageError(
            f"--on-poisoned skip is for jsonl, whose lines have their index: rows of {target_file.form} would no "
            "longer be those of their texts. Use nan"
        )
    request = Request(
        model=model,
        task=task,
        prompt=prompt,
        dimensions=dimensions,
        precision=precision,
        truncate=truncate,
        on_poisoned=on_poisoned,
    )
    shown = sys.stderr.isatty() and (len(given) > 1 or not given) if progress is None else progress
    lines_of, notes = _name_of_lines(given, source), Notes(Cut(), LeftOut())
    try:
        with ExitStack() as stack:
            stack.enter_context(ended_by_signals())
            several, total = _texts(given, source, stack, count=shown)
            client = stack.enter_context(Client(endpoint, timeout=timeout))
            bar = stack.enter_context(tqdm(total=total, unit=" texts", file=sys.stderr, disable=not shown))
            stack.enter_context(_lines_named(lines_of))
            rows = _embed(client, several, request, target_file, ranges_path=ranges_path, bar=bar, notes=notes)
    finally:
        instead = _stands_for_left_out(request, target_file)
        for note in (notes.cut.note(), notes.left_out.note(lines_of, instead)):
            if note is not None:
                say(note)
    if target_file.path is not None:
        vectors = rows - len(notes.left_out.indices)
        beside = f", what its numbers stand for to {ranges_path}" if ranges_path is not None and rows else ""
        say(f"{count(vectors, 'vector')} written to {target_file.path}{beside}")


def _stands_for_left_out(request: Request, where_to: Output) -> str:
    if request.on_poisoned == "skip":
        return "their lines are left out"
    if where_to.form != "npy":
        return "null stands for their vectors"
    has_nan = np.dtype(PRECISIONS[request.precision].dtype).kind == "f"
    return f"{'NaN stands' if has_nan else 'zeros stand'} for their vectors"


def _embed(
    client: Client,
    several: Iterable[str],
    request: Request,
    where_to: Output,
    *,
    ranges_path: Path | None,
    bar: tqdm[NoReturn],
    notes: Notes,
) -> int:
    """How many rows there are, of vectors and of none."""
    with ExitStack() as files:
        file = files.enter_context(_opened(where_to))

        def take_ranges(ranges: Rows) -> None:
            writer.take_ranges(ranges)
            if ranges_path is not None:  # entered last, so it has its name before the vectors have theirs
                np.save(files.enter_context(target.whole_file(ranges_path)), ranges)

        model = request.model or client.hello().default_model
        writer = writer_for(where_to.form, file, model, request.precision, skips=request.on_poisoned == "skip")
        pieces = client.embed_stream(
            several,
            model=request.model,
            task=request.task,
            prompt=request.prompt,
            dimensions=request.dimensions,
            truncate=request.truncate,
            precision=request.precision,
            on_poisoned="raise" if request.on_poisoned == "error" else "nan",
            on_truncated=notes.cut.add,
            on_refused=notes.left_out.add,
            on_ranges=take_ranges,
        )
        for rows in pieces:
            writer.write(rows, notes.left_out.places(writer.count))
            bar.update(len(rows))
        if not writer.count and where_to.form != "jsonl":
            empty = client.embed([], model=request.model, dimensions=request.dimensions, precision=request.precision)
            writer.write(empty)  # (0, dim)
        writer.finish()
        return writer.count


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
    except Poisoned as error:
        indices = error.details.get("indices")
        if name is not None and isinstance(indices, list):
            error.message = f"{where([each for each in indices if isinstance(each, int)], name)}: {error.message}"
        error.message += "; --on-poisoned nan goes on without them"
        raise


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
