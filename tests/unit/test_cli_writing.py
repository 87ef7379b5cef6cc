"""What the command line reads and writes: texts line by line, vectors piece by piece, files whole or not at all."""

from __future__ import annotations

import io
import json
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from embeddaemon.cli import target, texts
from embeddaemon.cli.vectors import Rows, writer_for
from embeddaemon.errors import InvalidInput


def rows(count: int, dim: int = 4) -> Rows:
    return np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)


def test_lines_lose_their_line_ends_and_the_byte_order_mark() -> None:
    file = io.BytesIO(b"\xef\xbb\xbfone\r\ntwo \nthree\rhalf\n\xc3\xa9")
    assert list(texts.read_lines(file, "f")) == ["one", "two ", "three\rhalf", "é"]


def test_empty_line_is_refused_with_its_number() -> None:
    with pytest.raises(InvalidInput, match="f, line 2: is empty"):
        list(texts.read_lines(io.BytesIO(b"one\n\nthree\n"), "f"))


def test_line_that_is_not_utf8_is_refused_with_its_number() -> None:
    with pytest.raises(InvalidInput, match="f, line 2: is not UTF-8"):
        list(texts.read_lines(io.BytesIO(b"one\n\xff\n"), "f"))


def test_endless_line_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_LINE_BYTES", 100)
    with pytest.raises(InvalidInput, match="longer than 100 bytes"):
        list(texts.read_lines(io.BytesIO(b"x" * 1000), "f"))


def test_jsonl_gives_the_field_text_and_passes_blank_lines() -> None:
    file = io.BytesIO(b'{"text": "one", "id": 1}\n\n{"text": "tw\\u00f6"}\n')
    assert list(texts.read_jsonl(file, "f")) == ["one", "twö"]


@pytest.mark.parametrize(
    "line", [b"one", b'["text"]', b'{"txt": "a"}', b'{"text": 3}', b'{"text": ""}', b"[" * 100_000]
)
def test_jsonl_line_without_text_is_refused_with_its_number(line: bytes) -> None:
    with pytest.raises(InvalidInput, match="f, line 1"):
        list(texts.read_jsonl(io.BytesIO(line), "f"))


@pytest.mark.parametrize(("content", "count"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)])
def test_lines_are_counted_as_they_are_read(content: bytes, count: int) -> None:
    assert texts.count_lines(io.BytesIO(content)) == count


@pytest.mark.parametrize("sizes", [[3], [1, 2, 70], [0]])
def test_npy_file_is_what_numpy_reads(sizes: list[int]) -> None:
    file = io.BytesIO()
    writer = writer_for("npy", file, None)
    pieces = [rows(size) for size in sizes]
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    file.seek(0)
    read = np.load(file, allow_pickle=False)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.concatenate(pieces))


def test_json_gives_every_float_back_exactly() -> None:
    wanted = rows(5)
    lines, document = io.BytesIO(), io.BytesIO()
    for form, file in (("jsonl", lines), ("json", document)):
        writer = writer_for(form, file, "mini")
        writer.write(wanted[:2])
        writer.write(wanted[2:])
        writer.finish()
    read = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["index"] for line in read] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(np.array([line["embedding"] for line in read], np.float32), wanted)
    whole = json.loads(document.getvalue())
    np.testing.assert_array_equal(np.array(whole["embeddings"], np.float32), wanted)
    assert (whole["model"], whole["count"], whole["dimensions"]) == ("mini", 5, 4)


def test_json_document_of_nothing_is_json() -> None:
    file = io.BytesIO()
    writer = writer_for("json", file, None)
    writer.write(rows(0))
    writer.finish()
    expected: dict[str, object] = {"embeddings": [], "model": None, "count": 0, "dimensions": 4, "precision": "float32"}
    assert json.loads(file.getvalue()) == expected


@pytest.mark.parametrize(("precision", "dtype"), [("float16", np.float16), ("int8", np.int8), ("ubinary", np.uint8)])
def test_numbers_of_other_precisions_are_written_as_they_are(precision: str, dtype: type[np.generic]) -> None:
    numbers = (rows(5) * 10).astype(dtype)
    ranges = np.array([[-1, -2, -3, -4], [1, 2, 3, 4]], np.float32)
    lines, document, matrix = io.BytesIO(), io.BytesIO(), io.BytesIO()
    for name, file in (("jsonl", lines), ("json", document), ("npy", matrix)):
        writer = writer_for(name, file, "mini", precision)
        if precision == "int8":
            writer.take_ranges(ranges)
        writer.write(numbers[:2])
        writer.write(numbers[2:])
        writer.finish()
    found = [json.loads(line)["embedding"] for line in lines.getvalue().splitlines()]
    np.testing.assert_array_equal(np.array(found, dtype), numbers)
    whole = json.loads(document.getvalue())
    np.testing.assert_array_equal(np.array(whole["embeddings"], dtype), numbers)
    assert whole["precision"] == precision
    assert whole.get("ranges") == (ranges.tolist() if precision == "int8" else None)
    matrix.seek(0)
    read = np.load(matrix)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, numbers)


@pytest.mark.parametrize("form", ["jsonl", "json", "npy"])
def test_memory_does_not_grow_with_the_number_of_vectors(form: str, tmp_path: Path) -> None:
    piece = rows(64, 32)

    def peak(pieces: int) -> int:
        with (tmp_path / "out").open("wb") as file:
            tracemalloc.start()
            writer = writer_for(form, file, None)
            for _ in range(pieces):
                writer.write(piece)
            writer.finish()
            bytes_ = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return bytes_

    peak(2)
    assert peak(200) < peak(10) + 64 * 1024


def write_and_fail(path: Path, error: BaseException) -> None:
    with target.whole_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
def test_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_and_fail(path, error)
    assert [one.name for one in tmp_path.iterdir()] == ["out.npy"]
    assert path.read_bytes() == b"old"


def test_file_appears_under_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    with target.whole_file(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_link_and_mode_of_a_replaced_file_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    with target.whole_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_device_is_written_and_folder_is_refused(tmp_path: Path) -> None:
    with target.whole_file(Path(os.devnull)) as file:
        file.write(b"gone")
        file.seek(0)
    assert Path(os.devnull).is_char_device()
    with pytest.raises(IsADirectoryError), target.whole_file(tmp_path):
        pass


def test_spooled_stream_gets_everything_at_the_end() -> None:
    stream = io.BytesIO()
    with target.spooled(stream) as file:
        writer = writer_for("npy", file, None)
        writer.write(rows(3))
        writer.finish()
        assert stream.getvalue() == b""
    stream.seek(0)
    assert np.load(stream).shape == (3, 4)


Reader = Callable[[BinaryIO, str], Iterator[str]]


@pytest.mark.parametrize("read", [texts.read_lines, texts.read_jsonl])
def test_reading_does_not_go_ahead_of_its_reader(read: Reader) -> None:
    file = io.BytesIO(b'{"text": "a"}\n' * 1000)
    reader = read(file, "f")
    next(reader)
    assert file.tell() == 14
