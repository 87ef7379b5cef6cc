"""Which files make a model, and that no change of one of them goes unnoticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from embeddaemon.errors import ModelChanged
from embeddaemon.models.fileset import check_unchanged, file_names, marks_of, read_fileset
from tests.support.checkpoints import TinyBert, save_weights, write_json


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"abcd")
    times = path.stat()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))  # a coarse clock may not have moved


def replace(path: Path) -> None:
    """Another file of the same size and time."""
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [overwrite, replace, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
)
def test_change_of_a_file_is_noticed(name: str, change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    files = read_fileset(folder)
    check_unchanged(folder, files)
    change(folder / name)
    with pytest.raises(ModelChanged):
        check_unchanged(folder, files)


def test_file_that_appears_is_noticed_and_one_that_is_none_of_the_models_is_not(tmp_path: Path) -> None:
    folder = TinyBert(tokenizer_json=False).write(tmp_path)
    files = read_fileset(folder)
    (folder / "README.md").write_text("changed")
    write_json(folder / "checkpoint-500" / "trainer_state.json", {})
    assert marks_of(folder, files.names) == files.marks
    write_json(folder / "tokenizer.json", {})
    assert marks_of(folder, files.names) != files.marks


def test_shards_and_folders_of_modules_and_of_further_heads_belong_to_the_model(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    (folder / "model.safetensors").unlink()
    save_weights(folder / "model-1-of-1.safetensors", {})
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "model-1-of-1.safetensors"}})
    write_json(folder / "2_Dense_1024" / "config.json", {})
    write_json(folder / "modules.json", [{"path": "deep/Dense", "type": "x.Dense"}, {"path": "../up"}, 7])
    names = set(file_names(folder))
    assert {"model-1-of-1.safetensors", "2_Dense_1024/model.safetensors", "deep/Dense/config.json"} <= names
    assert not any(".." in name for name in names)
