"""The synchronous client over a real socket, against a daemon that does what it is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from embeddaemon import (
    Busy,
    Client,
    ClientClosed,
    DaemonUnreachable,
    Expired,
    InputTooLarge,
    InvalidInput,
    ProtocolError,
    UnknownModel,
    UnsupportedVersion,
)
from embeddaemon.client._actions import Patience
from embeddaemon.protocol import codec
from embeddaemon.protocol.limits import Limits
from embeddaemon.protocol.messages import (
    Body,
    Document,
    Embed,
    Health,
    Hello,
    Lane,
    Request,
    Texts,
    Vectors,
    Waiting,
)
from tests.support.fake_daemon import (
    DIM,
    SLOW_SECONDS,
    Answer,
    Behaviour,
    Fail,
    FakeDaemon,
    Hold,
    Silence,
    obliging,
    slow_about_models,
    vector_of,
)
from tests.support.waiting import seconds, wait_until

IMPATIENT = Patience(connect=0.2, reconnect=seconds(5), hello=seconds(5), silence=0.1)


@pytest.fixture
def endpoint(socket_folder: Path) -> str:
    return f"ipc://{socket_folder}/s"


@pytest.fixture
def daemon(endpoint: str) -> Iterator[FakeDaemon]:
    with FakeDaemon(endpoint) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout=seconds(10), patience=IMPATIENT) as connected:
        yield connected


def expected(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.stack([vector_of(text) for text in texts])


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_string_gives_one_dimension_and_list_gives_two(client: Client) -> None:
    assert client.embed("one").shape == (DIM,)
    assert client.embed(["one"]).shape == (1, DIM)
    assert client.embed(np.array(["one", "two"])).shape == (2, DIM)
    assert client.embed(["one"]).dtype == np.float32


def test_no_texts_give_an_empty_array_of_the_right_width(client: Client, daemon: FakeDaemon) -> None:
    assert client.embed([]).shape == (0, DIM)
    assert client.embed([], dimensions=4).shape == (0, 4)
    assert client.encode([]).shape == (0, DIM)  # type: ignore[union-attr]  # an array unless it was asked otherwise
    assert client.tokenize([]) == []
    assert not daemon.embeds


def test_pieces_come_back_in_order(client: Client, daemon: FakeDaemon) -> None:
    texts = [f"text {number}" for number in range(1000)]
    detailed = client.embed_detailed(texts, normalize=False)
    np.testing.assert_array_equal(detailed.vectors, expected(texts))
    assert len(daemon.embeds) == 16
    assert detailed.tokens == 2000
    assert detailed.model == "fake"
    assert detailed.seconds > 0


def test_pieces_that_are_answered_backwards_come_back_in_order(client: Client, daemon: FakeDaemon) -> None:
    texts = [f"text {number}" for number in range(256)]
    daemon.behaviour = lambda request, _body: None if isinstance(request, Hello) else Hold()
    results: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
    asking = threading.Thread(target=lambda: results.append(client.embed(texts, normalize=False)))
    asking.start()
    wait_until(lambda: len(daemon.embeds) == 4, describe=lambda: daemon.requests)
    daemon.release(backwards=True)
    asking.join(seconds(10))
    np.testing.assert_array_equal(results[0], expected(texts))


def test_truncated_indices_are_those_of_the_call(client: Client) -> None:
    texts = ["short"] * 70 + ["word " * 30] + ["short"] * 70
    assert client.embed_detailed(texts).truncated == (70,)


def test_stream_tells_which_texts_were_cut(client: Client) -> None:
    texts = ["short"] * 70 + ["word " * 30] + ["short"] * 70
    cut: list[int] = []
    assert sum(len(part) for part in client.embed_stream(texts, on_truncated=cut.append)) == 141
    assert cut == [70]


def test_small_call_is_interactive_and_large_one_is_bulk(client: Client, daemon: FakeDaemon) -> None:
    client.embed(["a"] * 64)
    client.embed(["a"] * 65)
    client.embed("a", lane="bulk")
    assert [request.lane for request in daemon.embeds] == [Lane.INTERACTIVE, Lane.BULK, Lane.BULK, Lane.BULK]


def test_options_reach_the_daemon(client: Client, daemon: FakeDaemon) -> None:
    client.embed("a", model="fake", task="query", dimensions=4, normalize=False, truncate=False)
    request = daemon.embeds[-1]
    assert (request.model, request.task, request.dimensions) == ("fake", "query", 4)
    assert (request.normalize, request.truncate, request.lenient) == (False, False, False)
    assert request.deadline_ms is not None
    assert 0 < request.deadline_ms <= seconds(10) * 1000


def test_stream_gives_pieces_in_order(client: Client) -> None:
    texts = [f"text {number}" for number in range(500)]
    parts = list(client.embed_stream(iter(texts), normalize=False))
    assert [len(part) for part in parts[:-1]] == [64] * 7
    np.testing.assert_array_equal(np.concatenate(parts), expected(texts))


def test_stream_reads_only_some_pieces_ahead(client: Client) -> None:
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield str(number)

    stream = client.embed_stream(source())
    next(stream)
    assert read <= 64 * 18
    stream.close()
    assert client.embed("after it").shape == (DIM,)


def test_stream_gives_what_is_there_before_it_asks_a_slow_source_again(client: Client) -> None:
    given = 0
    given_at_pull: list[int] = []

    def source() -> Iterator[str]:
        for number in range(4 * 64):  # no more than the window of a new call takes at once
            if number % 64 == 0:
                client.embed("between")  # answered behind what the stream had asked for
                given_at_pull.append(given)
            yield str(number)

    for part in client.embed_stream(source()):
        given += len(part)
    assert given == 4 * 64
    assert given_at_pull[:2] == [0, 0]
    assert given_at_pull[3] >= 64


def test_another_call_may_be_made_while_a_stream_is_open(client: Client) -> None:
    stream = client.embed_stream((str(number) for number in range(500)), normalize=False)
    count = 0
    for part in stream:
        count += len(part)
        np.testing.assert_array_equal(client.embed("between", normalize=False), vector_of("between"))
    assert count == 500


def test_stream_names_a_bad_text_by_its_place(client: Client) -> None:
    with pytest.raises(InvalidInput, match="text 300 is empty") as caught:
        list(client.embed_stream(["a"] * 300 + [""] + ["a"] * 300))
    assert caught.value.details["index"] == 300
    with pytest.raises(InvalidInput, match="text 70 is int"):
        list(client.embed_stream(["a"] * 70 + [7]))  # type: ignore[list-item]  # the mistake under test


def test_progress_is_told_after_every_piece(client: Client) -> None:
    told: list[tuple[int, int]] = []
    client.embed(["a"] * 150, progress=lambda done, total: told.append((done, total)))
    assert told == [(64, 150), (128, 150), (150, 150)]


def test_bar_is_shown_on_stderr_when_it_is_asked_for(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.embed(["a"] * 150, progress=True)
    shown = capsys.readouterr()
    assert "150" in shown.err
    assert shown.out == ""
    client.embed(["a"] * 1500)
    assert capsys.readouterr().err == ""


def test_token_ids_are_embedded_and_returned(client: Client) -> None:
    assert client.embed_ids([[1, 2, 3], np.array([4])]).shape == (2, DIM)
    ids = client.tokenize(["a bb ccc", "dddd"])
    assert [one.tolist() for one in ids] == [[1, 2, 3], [4]]
    assert ids[0].dtype == np.int32


# -- as sentence-transformers ------------------------------------------------------------------------------------------


def test_encode_is_lenient_and_does_not_normalise(client: Client, daemon: FakeDaemon) -> None:
    vectors = client.encode(["", "b"])
    np.testing.assert_array_equal(vectors, expected(["", "b"]))
    assert daemon.embeds[-1].lenient
    assert isinstance(client.encode(["a", "b"], convert_to_numpy=False), list)
    np.testing.assert_array_equal(client.encode("a", batch_size=2, show_progress_bar=False), vector_of("a"))


def test_encode_cuts_and_then_normalises(client: Client) -> None:
    vector = client.encode("a", truncate_dim=3, normalize_embeddings=True)
    cut = vector_of("a")[:3]
    np.testing.assert_allclose(np.asarray(vector), cut / np.linalg.norm(cut), rtol=1e-6)


def test_encode_query_and_document_choose_the_models_tasks(client: Client, daemon: FakeDaemon) -> None:
    client.encode_query("a")
    client.encode_document("a")
    client.encode_document("a", prompt="p: ")
    client.encode("a", prompt_name="query")
    assert [(one.task, one.prompt) for one in daemon.embeds] == [
        ("query", None),
        ("passage", None),
        (None, "p: "),
        ("query", None),
    ]


def test_time_out_bounds_a_call_of_two_requests_as_a_whole(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = slow_about_models
    client.encode_query("a", timeout=seconds(10))
    (embed,) = daemon.embeds
    assert embed.deadline_ms is not None
    assert embed.deadline_ms <= 1000 * (seconds(10) - SLOW_SECONDS)


def test_dimension_of_the_model(client: Client) -> None:
    assert client.get_sentence_embedding_dimension() == DIM


# -- documents ---------------------------------------------------------------------------------------------------------


def test_models_status_load_unload_and_hello(client: Client, daemon: FakeDaemon) -> None:
    info = client.model_info()
    assert (info.name, info.dimension, info.max_tokens) == ("fake", DIM, 16)
    assert [model.name for model in client.models()] == ["fake"]
    assert client.status()["instance"] == daemon.instance
    assert client.load("fake")["state"] == "ready"
    assert client.unload("fake")["state"] == "available"
    assert client.hello().instance == daemon.instance
    with pytest.raises(UnknownModel, match="known are fake"):
        client.model_info("other")


def test_health_reports_instead_of_raising(endpoint: str) -> None:
    with Client(endpoint, patience=Patience(connect=0.0)) as client:
        unwell = client.health()
        assert not unwell
        assert "no daemon listens" in unwell.message
        with FakeDaemon(endpoint) as daemon:
            assert client.health()
            assert client.health(deep=True)
            asked = [request for request in daemon.requests if isinstance(request, Health)]
            assert [request.deep for request in asked] == [False, True]
            daemon.behaviour = _sick
            sick = client.health("fake", deep=True)
            assert not sick
            assert "not finite, or all zero" in sick.message
            assert sick.ready
            assert sick.models[0].embedded is False
            daemon.behaviour = lambda _request, _body: Fail(UnknownModel("known are fake"))
            assert "unknown_model" in client.health("other").message


def _sick(request: Request, _body: Body | None) -> Answer | None:
    if not isinstance(request, Health):
        return None
    wrong = "it gave a vector that is not finite, or all zero"
    deep = {"ok": False, "why": wrong, "seconds": 0.1}
    model = {"name": "fake", "state": "ready", "ready": True, "deep": deep}
    document = {"live": True, "ready": True, "ok": False, "why": [f"fake: {wrong}"], "models": [model]}
    return Answer([codec.encode_answer(Document(id=request.id)), codec.encode_document(document)])


# -- limits and errors -------------------------------------------------------------------------------------------------


def test_limits_that_the_daemon_announces_are_kept_before_sending(endpoint: str) -> None:
    limits = Limits(max_texts=10, max_text_bytes=100)
    with FakeDaemon(endpoint, limits=limits) as daemon, Client(endpoint) as client:
        assert client.embed(["a"] * 25).shape == (25, DIM)
        assert len(daemon.embeds) == 3
        with pytest.raises(InputTooLarge, match="text 12"):
            client.embed(["a"] * 12 + ["b" * 101])


def test_error_of_the_daemon_is_raised_with_its_details(client: Client) -> None:
    with pytest.raises(UnknownModel) as caught:
        client.embed("a", model="other")
    assert caught.value.details["known"] == ["fake"]


def test_busy_daemon_is_asked_again_until_it_is_not(client: Client, daemon: FakeDaemon) -> None:
    refused: set[str] = set()

    def busy_once(request: Request, body: Body | None) -> Fail | None:
        if isinstance(request, Embed) and isinstance(body, Texts) and body.texts[0] not in refused:
            refused.add(body.texts[0])
            return Fail(Busy("the queue is full", retry_after_ms=20))
        return None

    daemon.behaviour = busy_once
    texts = [f"text {number}" for number in range(640)]
    np.testing.assert_array_equal(client.embed(texts, normalize=False), expected(texts))
    assert len(refused) == 10


def test_daemon_that_stays_busy_is_told_of_in_time(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Fail(Busy("the queue is full", retry_after_ms=100)))
    with pytest.raises(Busy):
        client.embed("a", timeout=0.3)


def _only_hello(otherwise: Answer | Silence | Hold | Fail) -> Behaviour:
    return lambda request, _body: None if isinstance(request, Hello) else otherwise


def test_silent_daemon_costs_the_deadline_and_no_more(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Silence())
    began = time.monotonic()
    with pytest.raises(Expired, match=r"no answer within 0\.3 s"):
        client.embed("a", timeout=0.3)
    assert time.monotonic() - began < seconds(2)
    daemon.behaviour = obliging
    assert client.embed("a").shape == (DIM,)


def test_time_out_repeats_what_the_daemon_said_the_request_waits_for(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Answer([codec.encode_answer(Waiting(1, "loading fake"))]))
    with pytest.raises(Expired, match=r"no answer within 0\.3 s .*; the daemon said: loading fake$"):
        client.embed("a", timeout=0.3)


def test_encode_has_a_time_out_of_its_own(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Silence())
    for encode in (client.encode, client.encode_query, client.encode_document):
        with pytest.raises(Expired, match=r"no answer within 0\.1 s"):
            encode("a", prompt="", timeout=0.1)


def test_late_answer_is_not_taken_for_another(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Hold())
    with pytest.raises(Expired):
        client.embed("late", timeout=0.1)
    daemon.behaviour = obliging
    daemon.release()
    np.testing.assert_array_equal(client.embed("other", normalize=False), vector_of("other"))


@pytest.mark.parametrize(
    "frames",
    [
        lambda id_: [codec.encode_answer(Vectors(id=id_, model="m", count=1, dim=8, dtype="float32", tokens=1))],
        lambda id_: [codec.encode_answer(Vectors(id=id_, model="m", count=1, dim=8, dtype="float32", tokens=1)), b"x"],
        lambda id_: [codec.encode_document({"id": id_, "ok": True, "dim": "many"})],
    ],
    ids=["no vectors", "short vectors", "broken header"],
)
def test_malformed_answer_is_an_error_at_once(client: Client, daemon: FakeDaemon, frames: object) -> None:
    assert callable(frames)
    daemon.behaviour = lambda request, _body: None if isinstance(request, Hello) else Answer(frames(request.id))
    with pytest.raises(ProtocolError):
        client.embed("a")
    daemon.behaviour = obliging
    assert client.embed("a").shape == (DIM,)


# -- connecting --------------------------------------------------------------------------------------------------------


def test_nobody_listening_is_said_within_two_seconds(endpoint: str) -> None:
    began = time.monotonic()
    with Client(endpoint) as client, pytest.raises(DaemonUnreachable, match="embeddaemon serve") as caught:
        client.embed("a")
    assert endpoint in str(caught.value)
    assert time.monotonic() - began < seconds(2)


def test_socket_that_a_dead_daemon_left_is_told_apart(socket_folder: Path) -> None:
    path = socket_folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Client(f"ipc://{path}", patience=IMPATIENT) as client, pytest.raises(DaemonUnreachable, match="left over"):
        client.embed("a")
    path.unlink()


def test_file_that_is_no_socket_is_told_apart(socket_folder: Path) -> None:
    path = socket_folder / "s"
    path.touch()
    with Client(f"ipc://{path}", patience=IMPATIENT) as client, pytest.raises(DaemonUnreachable, match="no socket"):
        client.embed("a")


def test_listener_that_is_no_daemon_is_told_apart(socket_folder: Path) -> None:
    path = socket_folder / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        mute = Patience(hello=0.3, silence=0.1)
        with (
            Client(f"ipc://{path}", patience=mute) as client,
            pytest.raises(DaemonUnreachable, match="does not answer"),
        ):
            client.embed("a")
    path.unlink()


def test_daemon_that_starts_late_is_waited_for(endpoint: str) -> None:
    with Client(endpoint, patience=Patience(connect=seconds(5))) as client:
        results: list[tuple[int, ...]] = []
        asking = threading.Thread(target=lambda: results.append(client.embed("a").shape))
        asking.start()
        with FakeDaemon(endpoint):
            asking.join(seconds(10))
        assert results == [(DIM,)]


def test_other_protocol_version_says_who_is_older(endpoint: str) -> None:
    with (
        FakeDaemon(endpoint, version=2),
        Client(endpoint) as client,
        pytest.raises(UnsupportedVersion, match="client is older"),
    ):
        client.embed("a")


def test_restart_in_mid_call_loses_nothing(client: Client, daemon: FakeDaemon) -> None:
    answered = 0

    def half(request: Request, _body: Body | None) -> Silence | None:
        nonlocal answered
        answered += isinstance(request, Embed)
        return Silence() if answered > 5 else None

    daemon.behaviour = half
    texts = [f"text {number}" for number in range(1000)]
    results: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
    asking = threading.Thread(target=lambda: results.append(client.embed(texts, normalize=False)))
    asking.start()
    wait_until(lambda: answered > 5, describe=lambda: answered)
    daemon.stop()
    with FakeDaemon(daemon.endpoint) as successor:
        asking.join(seconds(15))
        assert not asking.is_alive()
        np.testing.assert_array_equal(results[0], expected(texts))
        assert len(successor.embeds) >= 11


def test_daemon_that_never_comes_back_is_unreachable(daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Silence())
    quick = Patience(reconnect=0.3, silence=0.1)
    with Client(daemon.endpoint, patience=quick) as client:
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                client.embed("a")
            except DaemonUnreachable as error:
                errors.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: daemon.embeds, describe=lambda: daemon.requests)
        daemon.stop()
        asking.join(seconds(10))
        assert len(errors) == 1


def test_client_outlives_its_daemon(client: Client, daemon: FakeDaemon) -> None:
    client.embed("a")
    daemon.stop()
    with FakeDaemon(daemon.endpoint):
        assert client.embed("a").shape == (DIM,)


# -- threads, processes, closing ---------------------------------------------------------------------------------------


def test_threads_share_a_client_and_get_their_own_answers(client: Client) -> None:
    wrong: list[str] = []

    def ask(name: int) -> None:
        for number in range(50):
            text = f"{name} {number}"
            if not np.array_equal(client.embed(text, normalize=False), vector_of(text)):
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_stream_is_read_by_another_thread_while_its_own_uses_the_client(client: Client) -> None:
    texts = [f"text {number}" for number in range(64 * 40)]
    stream = client.embed_stream(texts, normalize=False)
    parts, ended = [next(stream)], threading.Event()

    def read() -> None:
        try:
            parts.extend(stream)
        finally:
            ended.set()

    reading = threading.Thread(target=read)
    reading.start()
    while not ended.is_set():
        np.testing.assert_array_equal(client.embed("between", normalize=False), vector_of("between"))
    reading.join()
    np.testing.assert_array_equal(np.concatenate(parts), expected(texts))


def test_stream_outlives_the_thread_that_started_it(client: Client) -> None:
    texts = [f"text {number}" for number in range(64 * 20)]
    stream = client.embed_stream(texts, normalize=False)
    parts: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
    for _ in range(20):
        reading = threading.Thread(target=lambda: parts.append(next(stream)))
        reading.start()
        reading.join()
    assert next(stream, None) is None
    np.testing.assert_array_equal(np.concatenate(parts), expected(texts))


def test_streams_leave_few_connections_behind(client: Client, daemon: FakeDaemon) -> None:
    streams = [client.embed_stream(["a"] * 65) for _ in range(10)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.close()
    left = len(client._process._connections)
    assert 1 <= left < 10
    hellos = sum(isinstance(request, Hello) for request in daemon.requests)
    assert [len(part) for part in client.embed_stream(["a"] * 65)] == [64, 1]
    assert len(client._process._connections) == left
    assert sum(isinstance(request, Hello) for request in daemon.requests) == hellos


def test_call_in_a_signal_handler_does_not_hold_up_the_call_that_it_interrupts(daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Hold())
    client = Client(daemon.endpoint, timeout=seconds(30), patience=Patience(silence=seconds(20)))
    inner: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []

    def ring() -> None:
        wait_until(lambda: daemon.embeds, describe=lambda: daemon.requests)
        daemon.behaviour = obliging
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def ask(_signal: int, _frame: object) -> None:
        daemon.release()  # the answer to the outer call comes first
        inner.append(client.embed("inner", normalize=False))

    previous = signal.signal(signal.SIGUSR1, ask)
    ringing = threading.Thread(target=ring)
    try:
        with client:
            ringing.start()
            began = time.monotonic()
            np.testing.assert_array_equal(client.embed("outer", normalize=False), vector_of("outer"))
            assert time.monotonic() - began < seconds(10)
    finally:
        ringing.join()
        signal.signal(signal.SIGUSR1, previous)
    np.testing.assert_array_equal(inner[0], vector_of("inner"))


def test_client_that_is_given_to_a_process_pool_says_what_to_do(client: Client) -> None:
    with pytest.raises(TypeError, match="make one in each process"):
        ForkingPickler.dumps(client)


def test_connection_of_an_ended_thread_is_closed(client: Client) -> None:
    for _ in range(5):
        thread = threading.Thread(target=client.embed, args=("a",))
        thread.start()
        thread.join()
    wait_until(lambda: not client._process._connections, describe=lambda: client._process._connections)


def test_closing_wakes_the_threads_that_wait(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Silence())
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            client.embed("a")
        except ClientClosed as error:
            ended.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(daemon.embeds) == 3, describe=lambda: daemon.requests)
    began = time.monotonic()
    client.close()
    for thread in threads:
        thread.join(seconds(5))
    assert ended == [ClientClosed] * 3
    assert time.monotonic() - began < seconds(2)


def test_closed_client_says_so(client: Client) -> None:
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.embed("a")


def _embed_in_child(client: Client, pipe: multiprocessing.connection.Connection) -> None:
    pipe.send([client.embed(f"child {number}", normalize=False).tolist() for number in range(20)])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_uses_sockets_of_its_own(client: Client) -> None:
    client.embed("before")
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_embed_in_child, args=(client, theirs))
    child.start()
    for number in range(20):
        np.testing.assert_array_equal(client.embed(f"parent {number}", normalize=False), vector_of(f"parent {number}"))
    assert ours.poll(seconds(10))
    received = ours.recv()
    child.join(seconds(10))
    assert child.exitcode == 0
    np.testing.assert_array_equal(np.array(received, np.float32), expected([f"child {number}" for number in range(20)]))
    child.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_child_that_exits_the_ordinary_way_leaves_its_parents_connection_alone(client: Client) -> None:
    client.embed("before")
    pid = os.fork()
    if pid == 0:
        try:
            client.embed("child")
            client.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.embed("after").shape == (DIM,)


def test_stream_that_is_left_early_is_withdrawn(client: Client, daemon: FakeDaemon) -> None:
    def first_piece_only(request: Request, body: Body | None) -> Silence | None:
        is_later = isinstance(request, Embed) and isinstance(body, Texts) and body.texts[0] != "0"
        return Silence() if is_later else None

    daemon.behaviour = first_piece_only
    stream = client.embed_stream(str(number) for number in range(1000))
    assert next(stream).shape[1] == DIM
    stream.close()
    wait_until(lambda: bool(daemon.withdrawn), describe=lambda: daemon.requests)
    assert daemon.withdrawn == {request.id for request in daemon.embeds[1:]}
    daemon.behaviour = obliging
    assert client.embed("after").shape == (DIM,)


def test_interrupted_call_leaves_a_client_that_works(client: Client, daemon: FakeDaemon) -> None:
    daemon.behaviour = _only_hello(Silence())

    def interrupt() -> None:
        wait_until(lambda: daemon.embeds, describe=lambda: daemon.requests)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        client.embed("a")
    interrupting.join()
    (asked,) = daemon.embeds
    wait_until(lambda: daemon.withdrawn == {asked.id}, describe=lambda: daemon.requests)
    daemon.behaviour = obliging
    assert client.embed("a").shape == (DIM,)


def test_interpreter_ends_with_a_client_that_nobody_closed(daemon: FakeDaemon) -> None:
    program = f"from embeddaemon import Client; client = Client({daemon.endpoint!r}); print(client.embed('a').shape)"
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(20))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"({DIM},)\n", "")
