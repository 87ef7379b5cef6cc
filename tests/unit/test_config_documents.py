"""docs/configuration.md and the codes of docs/protocol.md name everything that there is, once, and nothing else."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from embeddaemon.cli.console import Exit
from embeddaemon.config.changes import AT_ONCE
from embeddaemon.config.environment import (
    CONFIG_VARIABLE,
    DEBUG_VARIABLE,
    KEY_FILE_VARIABLE,
    MODELS_VARIABLE,
    SERVER_KEY_VARIABLE,
)
from embeddaemon.config.file import flatten
from embeddaemon.config.options import ACCESS, DAEMON, LIMITS, MODEL, PER_USER, Option
from embeddaemon.config.settings import Quotas, Settings
from embeddaemon.errors import CODES, error_for
from embeddaemon.models.spec import ModelSpec
from embeddaemon.protocol.limits import Limits
from embeddaemon.supervisor.connections.quotas import quota_of

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
GENERAL_CODES = {"request_error", "refused", "failed"}
"""Of the classes between the root and the leaves, which never travel."""
OF_CLIENTS = {"unreachable"}
"""What only a client can find."""


SECTIONS: dict[str, Mapping[str, Option]] = {
    "`[daemon]`": DAEMON,
    "`[limits]`": LIMITS,
    "`[access]`": ACCESS,
    "`[per_user]`": PER_USER,
    "`[models.NAME]`": MODEL,
}


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of each row of the tables in a section, without the heads."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ", maxsplit=1)[0]
    found = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in found if cells[0].strip().startswith(("`", *"0123456789"))]


def named(page: str, section: str) -> list[str]:
    """What the rows of a section are about."""
    return [name for cells in rows(page, section) for name in re.findall(r"`([^`]+)`", cells[0])]


@pytest.mark.parametrize(("section", "options"), SECTIONS.items())
def test_every_key_has_its_row_and_every_row_its_key(section: str, options: Mapping[str, Option]) -> None:
    assert sorted(named(CONFIGURATION, section)) == sorted(options)


DEFAULTS: dict[str, Callable[[str], object]] = {
    "`[daemon]`": lambda field: getattr(Settings(endpoint="ipc:///s", models=(), default_model=""), field),
    "`[limits]`": lambda field: getattr(Limits(), field),
    "`[per_user]`": lambda field: getattr(quota_of(Quotas(), is_admin=False), field),
    "`[models.NAME]`": lambda field: getattr(ModelSpec(name="m", source="path:/m"), field),
}


@pytest.mark.parametrize(
    ("section", "key", "said"),
    [
        (section, cells[0].split("`")[1], said)
        for section in DEFAULTS
        for cells in rows(CONFIGURATION, section)
        if re.fullmatch(r"`([^`]+)`", cells[1]) and (said := cells[1].strip("`"))
    ],
)
def test_default_is_what_the_document_says(section: str, key: str, said: str) -> None:
    option = SECTIONS[section][key]
    (value,) = tomllib.loads(f"value = {said}").values()
    assert option.kind(value) == DEFAULTS[section](option.field)


def test_every_other_variable_has_its_row_and_every_row_its_variable() -> None:
    others = {CONFIG_VARIABLE, DEBUG_VARIABLE, MODELS_VARIABLE, SERVER_KEY_VARIABLE, KEY_FILE_VARIABLE}
    assert set(named(CONFIGURATION, "Other variables")) == {*others, "EMBEDDAEMON_ENDPOINT"}


def test_every_exit_code_has_its_row_and_every_row_its_code() -> None:
    assert [int(cells[0]) for cells in rows(CONFIGURATION, "Exit codes of the command line")] == sorted(Exit)


def test_every_error_code_has_its_row_and_every_row_its_code() -> None:
    assert sorted(named(PROTOCOL, "Codes")) == sorted(set(CODES) - GENERAL_CODES - OF_CLIENTS)


@pytest.mark.parametrize(("name", "retry"), [(cells[0].strip("`"), cells[1]) for cells in rows(PROTOCOL, "Codes")])
def test_document_says_which_errors_are_worth_another_try(name: str, retry: str) -> None:
    assert retry == ("yes" if error_for(name, "").retryable else "no")


def test_keys_that_a_reload_puts_in_force_are_those_that_the_page_names() -> None:
    (row,) = (line for line in OPERATIONS.splitlines() if line.startswith("| `default_model`"))
    *keys, table = re.findall(r"`([^`]+)`", row.split("|")[1])
    assert table == "[per_user]"
    assert {DAEMON[key].field for key in keys} == AT_ONCE


def test_example_of_the_document_is_read() -> None:
    example = CONFIGURATION.split("```toml\n")[1].split("```")[0]
    assert len(flatten(tomllib.loads(example), "docs", Path("/"))) == 11
