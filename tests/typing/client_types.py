"""What a caller's type checker sees of the public client. mypy checks it with the rest; nothing here is ever called."""

from collections.abc import Sequence
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from embeddaemon import AsyncClient, Client

FloatArray = NDArray[np.float32]
NumberArray = NDArray[Any]


def sync_client(texts: Sequence[str]) -> None:
    with Client() as client:
        assert_type(client, Client)
        assert_type(client.embed("one"), FloatArray)
        assert_type(client.embed(texts, model="stella", task="s2p_query", dimensions=256, progress=True), FloatArray)
        assert_type(client.embed(texts, precision="int8", model="stella"), NumberArray)
        assert_type(next(client.embed_stream(texts)), FloatArray)
        assert_type(next(client.embed_stream(texts, precision="ubinary", on_ranges=print)), NumberArray)
        assert_type(client.embed_ids([[1]]), FloatArray)
        assert_type(client.embed_ids([[1]], precision="float16"), NumberArray)
        assert_type(client.embed_detailed(texts, precision="int8").vectors, NumberArray)
        assert_type(client.embed_detailed(texts, precision="int8").as_float32(), FloatArray)
        assert_type(client.embed_detailed(texts).weights, str)
        assert_type(client.embed_detailed(texts).truncated, tuple[int, ...])


async def async_client(texts: Sequence[str]) -> None:
    async with AsyncClient() as client:
        assert_type(client, AsyncClient)
        assert_type(await client.embed(texts), FloatArray)
        assert_type(await client.embed(texts, precision="binary", progress=False), NumberArray)
        assert_type(await client.embed_ids([[1]]), FloatArray)
        assert_type(await anext(client.embed_stream(texts)), FloatArray)
        assert_type(await anext(client.embed_stream(texts, precision="uint8")), NumberArray)
        assert_type((await client.embed_detailed(texts)).vectors, NumberArray)


def mistakes(client: Client) -> None:
    client.embed(42)  # type: ignore[call-overload]  # texts are strings
    client.embed("one", "stella")  # type: ignore[call-overload]  # every option has its name
    client.embed("one", dimension=256)  # type: ignore[call-overload]  # it is dimensions
