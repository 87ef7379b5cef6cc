"""What a caller's type checker sees of the public client. mypy checks it with the rest; nothing here is ever called."""

from collections.abc import Sequence
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from embeddaemon import AsyncClient, Client

FloatArray = NDArray[np.float32]


def sync_client(texts: Sequence[str]) -> None:
    with Client() as client:
        assert_type(client, Client)
        assert_type(client.embed("one"), FloatArray)
        assert_type(client.embed(texts, model="stella", task="s2p_query", dimensions=256, progress=True), FloatArray)
        assert_type(client.embed_detailed(texts).vectors, FloatArray)
        assert_type(client.embed_detailed(texts).truncated, tuple[int, ...])


async def async_client(texts: Sequence[str]) -> None:
    async with AsyncClient() as client:
        assert_type(client, AsyncClient)
        assert_type(await client.embed(texts), FloatArray)
        assert_type((await client.embed_detailed(texts)).vectors, FloatArray)


def mistakes(client: Client) -> None:
    client.embed(42)  # type: ignore[arg-type]  # texts are strings
    client.embed("one", "stella")  # type: ignore[call-arg]  # every option has its name
    client.embed("one", dimension=256)  # type: ignore[call-arg]  # it is dimensions
