"""The file of what was learned: whole or not there, and nothing that is wrong with it stops a daemon."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from embeddaemon.governor.budget import MIB
from embeddaemon.governor.learned import Key, Learned, Measured
from embeddaemon.governor.learned_json import to_text
from embeddaemon.supervisor.memory import footprint_file
from embeddaemon.supervisor.memory.footprint_file import MAX_BYTES, NAME, program, read, write

KEY = Key("d" * 64, "bfloat16", "cpu", "fork", threads=2, token_budget=1000, stream_tokens=500, element_bytes=2)
MEASURED = Measured(150 * MIB, 100 * MIB)


def document() -> str:
    learned = Learned(program())
    learned.put(KEY, MEASURED)
    return to_text(learned)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read_in_the_next_life(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "embeddaemon"
    write(folder, document())
    learned, why = read(folder)
    assert (learned.get(KEY), why) == (MEASURED, None)
    assert (mode(folder), mode(folder / NAME)) == (0o700, 0o600)
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, "old")
    write(tmp_path, document())
    assert read(tmp_path)[0].get(KEY) == MEASURED
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_without_a_folder_or_a_file_nothing_was_learned_and_nothing_is_wrong(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path / "missing"):
        learned, why = read(folder)
        assert (list(learned), why) == ([], None)


def test_without_a_folder_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    write(None, document())
    assert caplog.records == []


def test_what_is_written_next_is_of_this_program(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("nonsense")
    learned, why = read(tmp_path)
    assert why is not None
    learned.put(KEY, MEASURED)
    write(tmp_path, to_text(learned))
    assert read(tmp_path)[0].get(KEY) == MEASURED


@pytest.mark.parametrize(
    "wrong", ["folder", "link", "pipe", "large", "binary", "others", "group", "torn", "other version"]
)
def test_file_that_cannot_be_trusted_teaches_nothing_and_the_reason_is_told(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / NAME
    match wrong:
        case "folder":
            path.mkdir()
        case "link":
            (tmp_path / "elsewhere").write_text(document())
            path.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(path)
        case "large":
            path.write_text(document() + " " * MAX_BYTES)
        case "binary":
            path.write_bytes(b"\xff\xfe")
        case "others":
            path.write_text(document())
            path.chmod(0o602)
        case "group":
            path.write_text(document())
            path.chmod(0o620)
        case "torn":
            path.write_text(document()[:-20])
        case _:
            path.write_text(to_text(Learned("embeddaemon 0.0.1")))
    learned, why = read(tmp_path)
    assert list(learned) == []
    assert why


@pytest.mark.parametrize("wrong", ["a file where the folder should be", "a folder where the file should be"])
def test_file_that_cannot_be_written_is_one_warning_and_leaves_nothing(
    wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    if wrong.startswith("a file"):
        folder.write_text("")
    else:
        (folder / NAME / "full").mkdir(parents=True)
    with caplog.at_level(logging.DEBUG, logger=footprint_file.__name__):
        write(folder, document())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "footprints_not_kept" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
