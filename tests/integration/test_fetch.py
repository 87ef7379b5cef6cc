"""Models from a hub of our own: fetched and cached, and each way of not getting one told apart.

The fetching runs in a process of its own, as in the daemon: huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embeddaemon.models.folder import read_card
from embeddaemon.models.spec import ModelSpec
from tests.support.checkpoints import TinyBert
from tests.support.hub_server import HubServer, Repository, running_hub

SOURCE = "hub:tiny/bert"

_FETCH = """
import json, sys
from embeddaemon.errors import EmbedDaemonError
from embeddaemon.workers.fetch import cached_folder, fetch
try:
    if sys.argv[2] == "cached":
        answer = {"folder": str(cached_folder(sys.argv[1]))}
    else:
        answer = {"folder": str(fetch(sys.argv[1]))}
except EmbedDaemonError as error:
    answer = {"code": error.code, "message": error.message, "retryable": error.retryable}
print(json.dumps(answer))
"""


class Fetcher:
    """Fetches from one hub into one cache."""

    def __init__(self, hub: HubServer, cache: Path) -> None:
        self.hub = hub
        self.cache = cache

    def run(self, source: str = SOURCE, *, how: str = "fetch", **environment: str) -> dict[str, Any]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        mine |= {
            "HF_HOME": str(self.cache),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", _FETCH, source, how],
            env=mine,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def folder(self, source: str = SOURCE, **environment: str) -> Path:
        answer = self.run(source, **environment)
        assert "folder" in answer, answer
        return Path(answer["folder"])

    def code(self, source: str = SOURCE, **environment: str) -> str:
        return str(self.run(source, **environment)["code"])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with running_hub() as hub:
        hub.repositories["tiny/bert"] = Repository.of_folder(TinyBert().write(tmp_path / "published"))
        yield hub


@pytest.fixture
def fetcher(hub: HubServer, tmp_path: Path) -> Fetcher:
    return Fetcher(hub, tmp_path / "cache")


def test_model_is_fetched_and_readable(fetcher: Fetcher) -> None:
    folder = fetcher.folder()
    card = read_card(ModelSpec(name="tiny", source=SOURCE), folder)
    assert card.revision == fetcher.hub.repositories["tiny/bert"].commit
    assert card.dim == 32


def test_only_what_is_read_is_fetched(fetcher: Fetcher) -> None:
    files = fetcher.hub.repositories["tiny/bert"].files
    unwanted = ("pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "onnx/config.json", "README.md", "x.pkl")
    files.update(dict.fromkeys(unwanted, b"unwanted"))
    folder = fetcher.folder()
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == files.keys() - set(unwanted)
    assert not [asked for asked in fetcher.hub.asked if asked.endswith(unwanted)]


def test_second_fetch_downloads_nothing(fetcher: Fetcher) -> None:
    folder = fetcher.folder()
    fetcher.hub.asked.clear()
    assert fetcher.folder() == folder
    assert not [asked for asked in fetcher.hub.asked if "/resolve/" in asked]


def test_new_commit_is_another_folder(fetcher: Fetcher) -> None:
    before = fetcher.folder()
    commit = fetcher.hub.repositories["tiny/bert"].commit
    fetcher.hub.repositories["tiny/bert"].files["special_tokens_map.json"] = b"{}"
    assert fetcher.folder() != before
    assert fetcher.folder(f"{SOURCE}@{commit}") == before


def test_cached_model_is_used_when_the_hub_is_down(fetcher: Fetcher) -> None:
    folder = fetcher.folder()
    assert fetcher.folder(HF_ENDPOINT="http://127.0.0.1:9") == folder


def test_cached_model_is_used_when_the_hub_is_broken(fetcher: Fetcher) -> None:
    folder = fetcher.folder()
    fetcher.hub.repositories["tiny/bert"].broken = True
    assert fetcher.folder() == folder


def test_cached_model_is_used_when_we_are_offline(fetcher: Fetcher) -> None:
    folder = fetcher.folder()
    fetcher.hub.asked.clear()
    assert fetcher.folder(HF_HUB_OFFLINE="1") == folder
    assert fetcher.run(how="cached")["folder"] == str(folder)
    assert not fetcher.hub.asked


def test_nothing_cached_is_no_folder(fetcher: Fetcher) -> None:
    assert fetcher.run(how="cached")["folder"] == "None"


def test_unknown_repository_is_not_found(fetcher: Fetcher) -> None:
    answer = fetcher.run("hub:tiny/nothing")
    assert answer["code"] == "model_not_found"
    assert "hub:tiny/nothing" in answer["message"]
    assert "HF_TOKEN" in answer["message"]


def test_unknown_revision_is_not_found(fetcher: Fetcher) -> None:
    answer = fetcher.run(f"{SOURCE}@nightly")
    assert answer["code"] == "model_not_found"
    assert "nightly" in answer["message"]


def test_gated_repository_is_gated(fetcher: Fetcher) -> None:
    fetcher.hub.repositories["tiny/bert"].gated = True
    assert fetcher.code() == "model_gated"


def test_forbidden_repository_is_gated(fetcher: Fetcher) -> None:
    fetcher.hub.repositories["tiny/bert"].forbidden = True
    assert fetcher.code() == "model_gated"


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_hub_that_cannot_be_reached_is_worth_a_retry(environment: dict[str, str], fetcher: Fetcher) -> None:
    answer = fetcher.run(**environment)
    assert answer["code"] == "hub_unreachable"
    assert answer["retryable"] is True


def test_hub_that_never_answers_is_not_waited_for(fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert fetcher.code(HF_ENDPOINT=address, HF_HUB_ETAG_TIMEOUT="1") == "hub_unreachable"


def test_broken_hub_is_worth_a_retry(fetcher: Fetcher) -> None:
    fetcher.hub.repositories["tiny/bert"].broken = True
    assert fetcher.code() == "hub_unreachable"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_file_damaged_on_the_way_is_corrupt_and_comes_again(name: str, fetcher: Fetcher) -> None:
    repository = fetcher.hub.repositories["tiny/bert"]
    repository.sent[name] = bytes(len(repository.files[name]))
    answer = fetcher.run()
    assert answer["code"] == "model_corrupt"
    assert name in answer["message"]
    repository.sent.clear()
    assert (fetcher.folder() / name).read_bytes() == repository.files[name]


def test_file_of_another_size_is_corrupt(fetcher: Fetcher) -> None:
    repository = fetcher.hub.repositories["tiny/bert"]
    repository.sent["model.safetensors"] = repository.files["model.safetensors"] + b"more"
    assert fetcher.code() == "model_corrupt"
