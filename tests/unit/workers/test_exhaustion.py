"""Which errors mean that a process got no memory."""

from __future__ import annotations

import errno
import os
import resource
import sys

import pytest
import zmq

from embeddaemon.errors import CorruptModel, InvalidInput
from embeddaemon.workers.engines import DeviceFull
from embeddaemon.workers.exhaustion import is_out_of_memory, require

MIB = 1024 * 1024
TORCH = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        zmq.ZMQError(errno.ENOMEM),
        RuntimeError(f"{TORCH} 419430400 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError(f"The following operation failed in the TorchScript interpreter.\nRuntimeError: {TORCH} 4 bytes."),
        RuntimeError("std::bad_alloc"),
        Exception("Cannot allocate memory (os error 12)"),
    ],
    ids=repr,
)
def test_every_way_to_say_that_there_is_no_memory_is_understood(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("told to"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"),
        DeviceFull("cuda:0 has no memory left"),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        InvalidInput("text 0 says: cannot allocate memory"),
        KeyError("cannot allocate memory"),
    ],
    ids=repr,
)
def test_other_errors_are_not_that(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of data count on Linux")
def test_hint_means_memory_where_memory_is_scarce() -> None:
    hint = RuntimeError("could not create a primitive")
    assert not is_out_of_memory(hint)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_DATA, (MIB, MIB))
        os._exit(int(is_out_of_memory(hint) and not is_out_of_memory(RuntimeError("told to"))))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_error_that_was_caused_by_it_is_that() -> None:
    corrupt = CorruptModel("not a tokenizer")
    corrupt.__cause__ = MemoryError()
    assert is_out_of_memory(corrupt)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of data count on Linux")
def test_what_cannot_be_had_is_known_before_it_is_asked_for() -> None:
    require(MIB)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_DATA, (MIB, MIB))
        try:
            require(MIB)
        except MemoryError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert not is_out_of_memory(first)
