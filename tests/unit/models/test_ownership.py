"""Whose files are loaded: what everybody may change is refused with the path and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embeddaemon.errors import UnsafeModel
from embeddaemon.models.fileset import read_fileset
from embeddaemon.models.folder import read_card
from embeddaemon.models.jsonfile import read_bytes
from embeddaemon.models.ownership import Ways
from embeddaemon.models.sources import locate, parse_source
from embeddaemon.models.spec import ModelSpec
from embeddaemon.models.weights import read_header
from tests.support.checkpoints import TinyBert

ANOTHER = 4242
FILES = ("model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json")


def refusal(folder: Path) -> str:
    with pytest.raises(UnsafeModel) as caught:
        read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)
    return caught.value.message


@pytest.mark.parametrize("name", [*FILES, ".", "1_Pooling"])
def test_what_everybody_may_write_is_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    (folder / name).chmod(0o777)
    assert f"chmod o-w {folder / name}" in refusal(folder)


def test_folder_above_the_model_counts_too(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "above" / "model")
    (tmp_path / "above").chmod(0o777)
    assert f"chmod o-w {tmp_path / 'above'} " in refusal(folder)


def test_sticky_folder_above_the_model_and_a_group_that_may_write_are_fine(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "above" / "model")
    (tmp_path / "above").chmod(0o1777)
    for path in (folder, *(folder / name for name in FILES)):
        path.chmod(0o775)
    assert read_fileset(folder).marks


def test_what_another_made_in_a_folder_for_everybody_is_refused(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "above" / "model")
    (tmp_path / "above").chmod(0o1777)
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, ANOTHER, ANOTHER)
    with pytest.raises(UnsafeModel, match="neither to root nor to the daemon's user"):
        Ways(None if is_root else ANOTHER).check(folder)


def test_file_of_another_elsewhere_is_fine(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    if os.geteuid() == 0:
        os.chown(folder / "config.json", ANOTHER, ANOTHER)
    ways = Ways()
    ways.check(folder / "config.json")


def test_link_is_followed_to_a_blob_that_is_looked_at_like_the_file_itself(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "hub" / "snapshots" / "1")
    blobs = tmp_path / "hub" / "blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "abc")
    (folder / "model.safetensors").symlink_to("../../blobs/abc")
    assert read_fileset(folder).marks
    blobs.chmod(0o777)
    assert f"chmod o-w {blobs} " in refusal(folder)
    blobs.chmod(0o755)
    (blobs / "abc").chmod(0o666)
    assert f"chmod o-w {blobs / 'abc'} " in refusal(folder)


def test_link_that_leads_to_the_model_lies_in_a_safe_folder_too(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "model")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    (open_to_all / "current").symlink_to(folder)
    source = parse_source(f"path:{open_to_all / 'current'}")
    assert locate(source) == folder
    open_to_all.chmod(0o777)
    with pytest.raises(UnsafeModel, match=f"chmod o-w {open_to_all} "):
        locate(source)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnsafeModel, match="links"):
        Ways().check(tmp_path / "a")


def test_open_file_is_looked_at_once_more(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (folder / name).chmod(0o666)
    with pytest.raises(UnsafeModel):
        read_bytes(folder / "config.json")
    with pytest.raises(UnsafeModel):
        read_header(folder / "model.safetensors")


def test_pipe_in_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(Exception, match="not a regular file"):
        read_card(ModelSpec(name="tiny", source=f"path:{folder}"), folder)
