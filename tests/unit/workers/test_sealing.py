"""A sealed copy is the file as it was, and stays so; a file that changes under its reader is noticed."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embeddaemon.errors import ModelChanged
from embeddaemon.models.opening import open_file
from embeddaemon.workers.checkpoint import read_tensors, read_weights
from embeddaemon.workers.sealing import sealed_copy
from tests.support.checkpoints import TinyBert, save_weights
from tests.support.embedding import card_of
from tests.support.waiting import wait_until

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="sealed memory is Linux's")


@needs_linux
def test_sealed_copy_is_the_file_and_cannot_be_changed(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    with open_file(path) as file, sealed_copy(file, len(content), str(path)) as copy:
        path.write_bytes(b"other")
        assert copy.read() == content
        with pytest.raises(PermissionError):
            os.truncate(copy.fileno(), 0)
        with pytest.raises(PermissionError), Path(f"/proc/self/fd/{copy.fileno()}").open("r+b", buffering=0) as other:
            other.write(b"x")


@needs_linux
def test_sealed_weights_are_the_same_tensors(tmp_path: Path) -> None:
    card = card_of(TinyBert().write(tmp_path))
    sealed = replace(card, files=replace(card.files, is_sealed=True))
    copied = read_tensors(card, torch.float32)
    for name, tensor in read_tensors(sealed, torch.float32).items():
        assert torch.equal(tensor, copied[name])


@pytest.mark.parametrize("is_sealed", [False, pytest.param(True, marks=needs_linux)])
def test_weights_that_are_written_while_they_are_read_are_refused(is_sealed: bool, tmp_path: Path) -> None:
    card = card_of(TinyBert().write(tmp_path))
    card = replace(card, files=replace(card.files, is_sealed=is_sealed))
    path = tmp_path / "model.safetensors"
    save_weights(path, {"large": np.zeros(1_000_000, dtype=np.float32)})
    is_over = threading.Event()

    def write() -> None:
        for count in itertools.count(1):
            os.utime(path, ns=(count, count))
            if is_over.is_set():
                return

    def is_refused() -> bool:
        try:
            read_weights(card, path.name, torch.float32)
        except ModelChanged as error:
            return str(path) in error.message
        return False

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(is_refused, 5)
    finally:
        is_over.set()
        writer.join()
