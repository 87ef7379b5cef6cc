"""``embeddaemon models`` asks a daemon and shows what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from embeddaemon.cli.app import cli
from tests.support.fake_daemon import FakeDaemon
from tests.support.sockets import short_folder


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with short_folder() as folder, FakeDaemon(f"ipc://{folder}/s") as running:
        yield running


def models(daemon: FakeDaemon, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", "--endpoint", daemon.endpoint, *arguments])


def test_models_are_listed_in_one_line_each(daemon: FakeDaemon) -> None:
    result = models(daemon)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["MODEL", "fake"]


def test_long_form_has_licences_sizes_and_what_surprises(daemon: FakeDaemon) -> None:
    lines = models(daemon, "--long").stdout.splitlines()
    assert lines[3:] == [
        "MODEL  FAMILY  PARAMETERS  LICENCE",
        "fake   bert    22.7 M      apache-2.0",
        "fake: it is not there",
    ]


def test_programs_get_all_of_it(daemon: FakeDaemon) -> None:
    (model,) = json.loads(models(daemon, "--json").stdout)["models"]
    assert (model["parameters"], model["notes"]) == (22_713_216, ["it is not there"])


def test_model_that_the_daemon_serves_is_shown_as_it_has_it(daemon: FakeDaemon) -> None:
    def show(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["models", "show", *arguments, "--endpoint", daemon.endpoint])

    result = show("fake")
    assert result.exit_code == 0, result.output
    labels = {line[:13].strip(): line[14:] for line in result.stdout.splitlines()}
    assert labels["daemon"].startswith(daemon.endpoint)
    assert (labels["licence"], labels["note"], labels["served"]) == ("apache-2.0", "it is not there", "yes")
    assert json.loads(show("fake", "--json").stdout)["endpoint"] == daemon.endpoint
    assert "(table)" in show("bge-m3").stdout, "what it does not serve comes from the table"
