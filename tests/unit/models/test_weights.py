"""The safetensors header: what the format forbids is refused with the reason, before a byte of a tensor is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddaemon.errors import CorruptModel
from embeddaemon.models.weights import (
    MAX_HEADER_BYTES,
    WeightsHeader,
    find_weights,
    headers_digest,
    read_header,
    read_headers,
)
from tests.support.checkpoints import Tensors, save_weights, write_json


def written(path: Path, header: object, *, tensor_bytes: int = 0, length: int | None = None) -> Path:
    """A file with that header, right or wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + bytes(tensor_bytes))
    return path


def entry(dtype: object = "F32", shape: Any = (2, 3), offsets: Any = (0, 24), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def test_file_of_the_library_is_read(tmp_path: Path) -> None:
    tensors: Tensors = {
        "b": np.zeros((2, 3), dtype=np.float32),
        "a": np.zeros(4, dtype=np.int64),
        "c": np.zeros(2, dtype=np.float16),
    }
    save_weights(tmp_path / "x", tensors)
    header = read_header(tmp_path / "x")
    assert {found.name: found.shape for found in header.tensors} == {"a": (4,), "b": (2, 3), "c": (2,)}
    assert header.parameters == 8
    assert header.file_bytes == (tmp_path / "x").stat().st_size


def test_digest_is_of_names_dtypes_and_shapes_and_not_of_values(tmp_path: Path) -> None:
    def digest(tensors: Tensors) -> str:
        save_weights(tmp_path / "x", tensors)
        return headers_digest((read_header(tmp_path / "x"),))

    one = digest({"a": np.zeros((2, 3), dtype=np.float32), "b": np.zeros(4, dtype=np.float32)})
    assert digest({"a": np.ones((2, 3), dtype=np.float32), "b": np.ones(4, dtype=np.float32)}) == one
    others = [
        digest({"a": np.zeros((3, 2), dtype=np.float32), "b": np.zeros(4, dtype=np.float32)}),
        digest({"a": np.zeros((2, 3), dtype=np.int32), "b": np.zeros(4, dtype=np.float32)}),
        digest({"c": np.zeros((2, 3), dtype=np.float32), "b": np.zeros(4, dtype=np.float32)}),
        digest({"a": np.zeros((2, 3), dtype=np.float32)}),
    ]
    assert len({one, *others}) == 5


def test_no_tensors_are_allowed(tmp_path: Path) -> None:
    assert read_header(written(tmp_path / "x", {})) == WeightsHeader(str(tmp_path / "x"), 10, ())


def test_tensor_without_elements_is_allowed(tmp_path: Path) -> None:
    header = {"a": entry(shape=[0, 5], offsets=[0, 0]), "b": entry(shape=[2, 3])}
    assert read_header(written(tmp_path / "x", header, tensor_bytes=24)).parameters == 6


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": entry(offsets=(4, 28))}, "hole"),
        ({"a": entry(), "b": entry(offsets=(20, 44))}, "overlap"),
        ({"a": entry(offsets=(0, 20))}, "takes 24 bytes"),
        ({"a": entry(offsets=(24, 0))}, "takes 24 bytes"),
        ({"a": entry(dtype="F31")}, "unknown dtype"),
        ({"a": entry(dtype=7)}, "unknown dtype"),
        ({"a": entry(shape=[2**40, 2**40], offsets=[0, 0])}, "too large"),
        ({"a": entry(shape=[-2, -3])}, "not sizes"),
        ({"a": entry(shape=[2, True])}, "not sizes"),
        ({"a": entry(shape=6)}, "not sizes"),
        ({"a": entry(offsets=[0, 12, 24])}, "not sizes"),
        ({"a": entry(offsets=[0.0, 24.0])}, "not sizes"),
        ({"a": entry(more=1)}, "not exactly"),
        ({"a": [1]}, "not exactly"),
        ({"__metadata__": {"format": 7}}, "__metadata__"),
        ({"__metadata__": []}, "__metadata__"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[]", "not a JSON object"),
        (b"{" * 50_000, "not valid JSON"),
        (b'{"a":' * 50_000, "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_forbidden_header_is_corrupt(header: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=reason) as caught:
        read_header(written(tmp_path / "x", header, tensor_bytes=24))
    assert str(tmp_path) in caught.value.message
    assert len(caught.value.message) < 1000


def test_missing_and_additional_bytes_are_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="cut short"):
        read_header(written(tmp_path / "x", {"a": entry()}, tensor_bytes=23))
    with pytest.raises(CorruptModel, match="followed by bytes of no tensor"):
        read_header(written(tmp_path / "x", {"a": entry()}, tensor_bytes=25))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"<html>not a model</html>", b"version https://git-lfs.github.com/"]
)
def test_file_that_is_something_else_is_corrupt(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CorruptModel):
        read_header(tmp_path / "x")


def test_header_beyond_the_limit_is_not_even_read(tmp_path: Path) -> None:
    written(tmp_path / "x", {}, length=MAX_HEADER_BYTES + 1)
    os.truncate(tmp_path / "x", MAX_HEADER_BYTES * 2)
    with pytest.raises(CorruptModel, match="limit"):
        read_header(tmp_path / "x")


def test_folder_in_place_of_a_file_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="cannot be read"):
        read_header(tmp_path)


def test_device_in_place_of_a_file_is_corrupt() -> None:
    with pytest.raises(CorruptModel, match="regular"):
        read_header(Path("/dev/null"))


class TestShards:
    """Weights in several files behind an index."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in "ab":
            save_weights(tmp_path / f"model-{name}.safetensors", {name: np.zeros(2, dtype=np.float32)})
        self.index(tmp_path, {"a": "model-a.safetensors", "b": "model-b.safetensors"})
        return tmp_path

    def index(self, folder: Path, weight_map: object) -> None:
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})

    def test_all_are_found_and_read(self, folder: Path) -> None:
        names = find_weights(folder)
        assert names == ("model-a.safetensors", "model-b.safetensors")
        assert [header.parameters for header in read_headers(folder, names)] == [2, 2]

    @pytest.mark.parametrize(
        "weight_map",
        [
            {"a": "model-a.safetensors", "b": "model-a.safetensors", "c": "model-b.safetensors"},
            {"a": "model-a.safetensors", "b": "model-b.safetensors", "c": "model-b.safetensors"},
            {"a": "model-b.safetensors", "b": "model-a.safetensors"},
            {"a": "../model-a.safetensors"},
            {"a": "/etc/passwd"},
            {"a": "pytorch_model.bin"},
            {"a": 7},
            {},
            [],
        ],
    )
    def test_index_that_disagrees_is_corrupt(self, folder: Path, weight_map: object) -> None:
        self.index(folder, weight_map)
        with pytest.raises(CorruptModel, match="index"):
            read_headers(folder, find_weights(folder))

    def test_missing_shard_is_corrupt(self, folder: Path) -> None:
        (folder / "model-b.safetensors").unlink()
        with pytest.raises(CorruptModel, match="model-b"):
            read_headers(folder, find_weights(folder))
