"""Folders that do not answer: read in threads, waited for so long and no longer, and not twice at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from embeddaemon.errors import FailedLoad, ModelNotFound
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.changes import folder_reads
from embeddaemon.supervisor.changes.folder_reads import FolderReads
from embeddaemon.supervisor.commands import ReadCard
from embeddaemon.supervisor.events import CardFailed, CardRead
from tests.support.waiting import wait_until


class Network:
    """Folders below /dead answer when the network is up again."""

    def __init__(self) -> None:
        self.is_up = threading.Event()
        self.asked: list[str] = []

    def read(self, command: ReadCard) -> CardRead | CardFailed:
        self.asked.append(command.spec.source)
        if command.spec.source.startswith("path:/dead"):
            self.is_up.wait()
        return CardFailed(command.spec.name, ModelNotFound("read"), command.is_successor)


@pytest.fixture
def network() -> Iterator[Network]:
    network, before = Network(), threading.active_count()
    yield network
    network.is_up.set()
    wait_until(lambda: threading.active_count() == before)


def of(source: str) -> ReadCard:
    return ReadCard(ModelSpec(name="mini", source=source), None, is_successor=True)


def test_what_was_read_is_given(network: Network) -> None:
    read = FolderReads(network.read, 60.0).read(of("path:/here"))
    assert isinstance(read, CardFailed)
    assert (read.model, read.is_successor, type(read.error)) == ("mini", True, ModelNotFound)


def test_folder_that_does_not_answer_fails_and_is_not_asked_again_until_it_does(network: Network) -> None:
    reads = FolderReads(network.read, 0.05)
    for _ in range(3):
        read = reads.read(of("path:/dead/mini"))
        assert isinstance(read, CardFailed)
        assert (read.model, read.is_successor, type(read.error)) == ("mini", True, FailedLoad)
        assert "path:/dead/mini does not answer" in str(read.error)
    assert network.asked == ["path:/dead/mini"]
    network.is_up.set()
    wait_until(
        lambda: isinstance(again := reads.read(of("path:/dead/mini")), CardFailed) and str(again.error) == "read"
    )


def test_answer_that_came_too_late_is_taken_at_the_next_try(network: Network) -> None:
    reads, threads = FolderReads(network.read, 0.05), threading.active_count()
    reads.read(of("path:/dead/mini"))
    network.is_up.set()
    wait_until(lambda: threading.active_count() == threads)
    network.is_up.clear()
    late, again = reads.read(of("path:/dead/mini")), reads.read(of("path:/dead/mini"))
    assert isinstance(late, CardFailed)
    assert isinstance(again, CardFailed)
    assert str(late.error) == "read"
    assert "does not answer" in str(again.error), "it is given once"


@pytest.mark.parametrize("why", ["it is old", "it is of another model"])
def test_late_answer_is_not_taken_when(network: Network, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, threads = FolderReads(network.read, 0.05), threading.active_count()
    reads.read(of("path:/dead/mini"))
    network.is_up.set()
    wait_until(lambda: threading.active_count() == threads)
    command = of("path:/dead/mini")
    if why == "it is old":
        monkeypatch.setattr(folder_reads, "FRESH_SECONDS", 0.0)
    else:
        command = ReadCard(ModelSpec(name="other", source="path:/dead/mini"), None)
    read = reads.read(command)
    assert read.model == command.spec.name
    assert len(network.asked) == 2


def test_other_folders_are_read_meanwhile(network: Network) -> None:
    reads = FolderReads(network.read, 0.05)
    reads.read(of("path:/dead/mini"))
    read = reads.read(of("path:/here"))
    assert isinstance(read, CardFailed)
    assert str(read.error) == "read"
