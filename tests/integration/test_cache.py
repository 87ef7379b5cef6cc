"""The real daemon with a cache: what was asked before is answered from memory, the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embeddaemon import Client
from tests.support.daemon import running_daemon, stub_folder


def test_repeated_query_is_answered_from_the_cache_also_when_its_model_is_away(
    tmp_path: Path, socket_folder: Path
) -> None:
    model = stub_folder(tmp_path / "model")
    with (
        running_daemon(
            socket_folder, models=[{"name": "stub", "source": f"path:{model}"}], cache_bytes=1 << 20
        ) as running,
        Client(running.endpoint) as client,
    ):
        first = client.embed_detailed("what is it?")
        again = client.embed_detailed("what is it?")
        other = client.embed_detailed("what is it not?")
        assert (first.timings.cached, again.timings.cached, other.timings.cached) == (False, True, False)
        np.testing.assert_array_equal(first.vectors, again.vectors)
        client.unload("stub")
        np.testing.assert_array_equal(client.embed("what is it?"), first.vectors)
        status = client.status()
        assert (status["cache"]["hits"], status["cache"]["misses"]) == (2, 2)
        assert status["workers"] == []
