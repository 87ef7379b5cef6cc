"""The asyncio client over a real socket: concurrency, cancellation, reconnecting; what it asks is tested elsewhere."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from embeddaemon import AsyncClient, ClientClosed, DaemonUnreachable, Expired, InvalidInput, UnknownTask
from embeddaemon.client._actions import Patience
from embeddaemon.protocol.messages import Body, Embed, Hello, Request
from tests.support.fake_daemon import (
    DIM,
    SLOW_SECONDS,
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
def daemon(socket_folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"ipc://{socket_folder}/s") as running:
        yield running


def connect(daemon: FakeDaemon) -> AsyncClient:
    return AsyncClient(daemon.endpoint, timeout=seconds(10), patience=IMPATIENT)


def expected(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.stack([vector_of(text) for text in texts])


async def until(daemon: FakeDaemon, embeds: int) -> None:
    await asyncio.to_thread(wait_until, lambda: len(daemon.embeds) >= embeds, describe=lambda: daemon.requests)


def silent(request: Request, _body: Body | None) -> Silence | None:
    return None if isinstance(request, Hello) else Silence()


def holding(request: Request, _body: Body | None) -> Hold | None:
    return None if isinstance(request, Hello) else Hold()


def test_methods_do_what_those_of_the_client_do(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        async with connect(daemon) as client:
            assert (await client.embed("a")).shape == (DIM,)
            assert (await client.embed([])).shape == (0, DIM)
            texts = [f"text {number}" for number in range(500)]
            np.testing.assert_array_equal(await client.embed(texts, normalize=False), expected(texts))
            assert (await client.embed_detailed(["a", "b"])).tokens == 2
            assert (await client.embed_ids([[1, 2]])).shape == (1, DIM)
            assert [one.tolist() for one in await client.tokenize("a bb")] == [[1, 2]]
            np.testing.assert_array_equal(np.asarray(await client.encode(["", "b"])), expected(["", "b"]))
            assert np.asarray(await client.encode_query("a")).shape == (DIM,)
            assert np.asarray(await client.encode_document("a")).shape == (DIM,)
            assert await client.get_sentence_embedding_dimension() == DIM
            assert (await client.model_info()).name == "fake"
            assert len(await client.models()) == 1
            assert (await client.status())["instance"] == (await client.hello()).instance
            assert (await client.load("fake"))["state"] == "ready"
            assert (await client.unload("fake"))["state"] == "available"
            assert await client.health(deep=True)
            with pytest.raises(UnknownTask):
                await client.embed("a", task="other")

    asyncio.run(ask())


def test_many_tasks_share_a_connection_and_get_their_own_answers(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        async with connect(daemon) as client:
            texts = [f"text {number}" for number in range(500)]
            vectors = await asyncio.gather(*(client.embed(text, normalize=False) for text in texts))
            np.testing.assert_array_equal(np.stack(vectors), expected(texts))

    asyncio.run(ask())
    assert sum(isinstance(request, Hello) for request in daemon.requests) <= 501


def test_stream_takes_both_kinds_of_iterables(daemon: FakeDaemon) -> None:
    texts = [f"text {number}" for number in range(300)]

    async def source() -> AsyncIterator[str]:
        for text in texts:
            await asyncio.sleep(0)
            yield text

    async def ask() -> None:
        async with connect(daemon) as client:
            for stream in (client.embed_stream(source(), normalize=False), client.embed_stream(texts, normalize=False)):
                parts = [part async for part in stream]
                np.testing.assert_array_equal(np.concatenate(parts), expected(texts))
            with pytest.raises(InvalidInput, match="text 64 is empty"):
                [part async for part in client.embed_stream(["a"] * 64 + [""])]

    asyncio.run(ask())


def test_stream_gives_an_answer_while_its_source_is_waited_for(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        given = asyncio.Event()

        async def source() -> AsyncIterator[str]:
            async with asyncio.timeout(seconds(10)):  # one task reads all of it
                for number in range(3 * 64):
                    if number % 64 == 0 and number > 0:
                        await given.wait()
                        given.clear()
                    yield str(number)

        async with connect(daemon) as client:
            parts = []
            async for part in client.embed_stream(source(), normalize=False):
                parts.append(part)
                given.set()
            np.testing.assert_array_equal(np.concatenate(parts), expected([str(number) for number in range(192)]))

    asyncio.run(ask())


def test_error_of_the_source_ends_the_stream(daemon: FakeDaemon) -> None:
    async def source() -> AsyncIterator[str]:
        for number in range(70):
            yield str(number)
        raise ZeroDivisionError

    async def ask() -> None:
        async with connect(daemon) as client:
            with pytest.raises(ZeroDivisionError):
                [part async for part in client.embed_stream(source())]
            assert (await client.embed("after")).shape == (DIM,)

    asyncio.run(ask())


@pytest.mark.parametrize("how", ["left", "cancelled", "client closed"])
def test_stream_that_ends_early_ends_the_wait_for_its_source(daemon: FakeDaemon, how: str) -> None:
    async def ask() -> None:
        ended = asyncio.Event()

        async def source() -> AsyncIterator[str]:
            try:
                for number in range(64):
                    yield str(number)
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def read(stream: AsyncIterator[object]) -> None:
            async for _ in stream:
                first.set()

        first = asyncio.Event()
        async with connect(daemon) as client:
            stream = client.embed_stream(source())
            if how == "left":
                await anext(stream)
                await stream.aclose()
            else:
                reading = asyncio.create_task(read(stream))
                await first.wait()
                if how == "cancelled":
                    reading.cancel()
                else:
                    await client.close()
                with pytest.raises(asyncio.CancelledError if how == "cancelled" else ClientClosed):
                    await reading
            assert ended.is_set()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())


def test_client_that_is_given_to_a_process_pool_says_what_to_do(daemon: FakeDaemon) -> None:
    with pytest.raises(TypeError, match="make one in each process"):
        ForkingPickler.dumps(connect(daemon))


def test_encode_has_a_time_out_of_its_own(daemon: FakeDaemon) -> None:
    daemon.behaviour = silent

    async def ask() -> None:
        async with connect(daemon) as client:
            for encode in (client.encode, client.encode_query, client.encode_document):
                with pytest.raises(Expired, match=r"no answer within 0\.1 s"):
                    await encode("a", prompt="", timeout=0.1)

    asyncio.run(ask())


def test_cancelled_task_disturbs_no_other(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        async with connect(daemon) as client:
            await client.embed("first")
            daemon.behaviour = holding
            asking = [asyncio.create_task(client.embed(f"text {number}", normalize=False)) for number in range(10)]
            await until(daemon, 11)
            for task in asking[::2]:
                task.cancel()
            await asyncio.gather(*asking[::2], return_exceptions=True)
            assert all(task.cancelled() for task in asking[::2])
            daemon.behaviour = obliging
            daemon.release()
            vectors = await asyncio.gather(*asking[1::2])
            np.testing.assert_array_equal(np.stack(vectors), expected([f"text {number}" for number in range(1, 10, 2)]))
            assert (await client.embed("after")).shape == (DIM,)

    asyncio.run(ask())


def test_time_out_of_asyncio_and_of_the_call_both_end_it(daemon: FakeDaemon) -> None:
    daemon.behaviour = silent

    async def ask() -> None:
        async with connect(daemon) as client:
            with pytest.raises(Expired):
                await client.embed("a", timeout=0.2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.embed("a")
            daemon.behaviour = obliging
            assert (await client.embed("a")).shape == (DIM,)

    asyncio.run(ask())


def test_task_that_is_cancelled_withdraws_its_requests(daemon: FakeDaemon) -> None:
    daemon.behaviour = silent

    async def ask() -> None:
        async with connect(daemon) as client:
            asking = asyncio.create_task(client.embed("a"))
            await until(daemon, 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            asked = {request.id for request in daemon.embeds}
            await asyncio.to_thread(wait_until, lambda: daemon.withdrawn == asked, describe=lambda: daemon.requests)

    asyncio.run(ask())


def test_stream_tells_which_texts_were_cut(daemon: FakeDaemon) -> None:
    async def main() -> list[int]:
        cut: list[int] = []
        async with AsyncClient(daemon.endpoint) as client:
            async for _ in client.embed_stream(["short"] * 70 + ["word " * 30], on_truncated=cut.append):
                pass
        return cut

    assert asyncio.run(main()) == [70]


def test_stream_that_is_left_early_leaves_nothing_in_flight(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        async with connect(daemon) as client:
            stream = client.embed_stream(str(number) for number in range(100_000))
            assert (await anext(stream)).shape == (64, DIM)
            await stream.aclose()
            assert (await client.embed("after")).shape == (DIM,)

    asyncio.run(ask())


def test_nobody_listening_is_told_to_every_task(socket_folder: Path) -> None:
    async def ask() -> None:
        async with AsyncClient(f"ipc://{socket_folder}/s", patience=IMPATIENT) as client:
            ended = await asyncio.gather(*(client.embed("a") for _ in range(5)), return_exceptions=True)
            assert [type(error) for error in ended] == [DaemonUnreachable] * 5

    asyncio.run(ask())


def test_restart_in_mid_call_loses_nothing(daemon: FakeDaemon) -> None:
    daemon.behaviour = silent
    texts = [f"text {number}" for number in range(300)]

    async def ask() -> None:
        async with connect(daemon) as client:
            asking = asyncio.create_task(client.embed(texts, normalize=False))
            await until(daemon, 4)
            await asyncio.to_thread(daemon.stop)
            with FakeDaemon(daemon.endpoint):
                np.testing.assert_array_equal(await asking, expected(texts))

    asyncio.run(ask())


def test_closing_ends_the_tasks_that_wait(daemon: FakeDaemon) -> None:
    daemon.behaviour = silent

    async def ask() -> None:
        client = connect(daemon)
        asking = [asyncio.create_task(client.embed("a")) for _ in range(3)]
        await until(daemon, 3)
        await client.close()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(error) for error in ended] == [ClientClosed] * 3
        with pytest.raises(ClientClosed):
            await client.embed("a")

    asyncio.run(ask())


def test_other_loop_is_refused(daemon: FakeDaemon) -> None:
    client = connect(daemon)
    errors: list[BaseException] = []

    async def ask() -> None:
        await client.embed("a")

        def elsewhere() -> None:
            try:
                asyncio.run(client.embed("a"))
            except RuntimeError as error:
                errors.append(error)

        await asyncio.to_thread(elsewhere)
        await client.close()

    asyncio.run(ask())
    assert "another event loop" in str(errors[0])
    assert threading.active_count() >= 1


def test_embeds_are_sent_once(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        async with connect(daemon) as client:
            await asyncio.gather(*(client.embed(f"{number}") for number in range(100)))

    asyncio.run(ask())
    assert sum(isinstance(request, Embed) for request in daemon.requests) == 100


def test_time_out_bounds_a_call_of_two_requests_as_a_whole(daemon: FakeDaemon) -> None:
    async def ask() -> None:
        async with connect(daemon) as client:
            daemon.behaviour = slow_about_models
            await client.encode_query("a", timeout=seconds(10))

    asyncio.run(ask())
    (embed,) = daemon.embeds
    assert embed.deadline_ms is not None
    assert embed.deadline_ms <= 1000 * (seconds(10) - SLOW_SECONDS)


LEFT_OPEN = """
import asyncio, gc, sys
from embeddaemon import AsyncClient

async def once():
    client = AsyncClient(sys.argv[1])
    assert (await client.embed("a")).shape
    if sys.argv[2] == "keep":
        kept.append(client)

kept = []
for _ in range(3):
    asyncio.run(once())
    gc.collect()

async def many():
    for _ in range(3):
        await once()
        gc.collect()

asyncio.run(many())
"""


@pytest.mark.parametrize("fate", ["drop", "keep"])
def test_clients_that_nobody_closes_keep_no_process_from_going_on(daemon: FakeDaemon, fate: str) -> None:
    program = [sys.executable, "-c", LEFT_OPEN, daemon.endpoint, fate]
    done = subprocess.run(program, timeout=seconds(20), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
