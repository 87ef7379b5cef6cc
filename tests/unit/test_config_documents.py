"""docs/configuration.md and docs/protocol.md name everything that there is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from embeddaemon.cli.console import Exit
from embeddaemon.config.environment import (
    CONFIG_VARIABLE,
    DEBUG_VARIABLE,
    KEY_FILE_VARIABLE,
    MODELS_VARIABLE,
    SERVER_KEY_VARIABLE,
)
from embeddaemon.config.file import flatten
from embeddaemon.config.options import ACCESS, DAEMON, LIMITS, MODEL, PER_USER
from embeddaemon.errors import CODES

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
GENERAL_CODES = {"request_error", "refused", "failed"}
"""Of the classes between the root and the leaves, which never travel."""


@pytest.mark.parametrize("key", [*DAEMON, *LIMITS, *ACCESS, *PER_USER, *MODEL])
def test_every_key_has_its_row(key: str) -> None:
    assert f"\n| `{key}`" in CONFIGURATION


@pytest.mark.parametrize(
    "name",
    [
        CONFIG_VARIABLE,
        DEBUG_VARIABLE,
        MODELS_VARIABLE,
        SERVER_KEY_VARIABLE,
        KEY_FILE_VARIABLE,
        "EMBEDDAEMON_ENDPOINT",
    ],
)
def test_every_other_variable_has_its_row(name: str) -> None:
    assert f"\n| `{name}`" in CONFIGURATION


@pytest.mark.parametrize("code", list(Exit))
def test_every_exit_code_has_its_row(code: Exit) -> None:
    assert f"\n| {code.value} |" in CONFIGURATION


@pytest.mark.parametrize("code", sorted(set(CODES) - GENERAL_CODES))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in PROTOCOL


def test_example_of_the_document_is_read() -> None:
    example = CONFIGURATION.split("```toml\n")[1].split("```")[0]
    assert len(flatten(tomllib.loads(example), "docs", Path("/"))) == 11
