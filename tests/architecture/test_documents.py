"""README.md and docs/: commands that exist, links that lead somewhere, Python that compiles (tests/e2e runs it)."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from inspect import signature
from pathlib import Path

import pytest
from click.exceptions import NoArgsIsHelpError

import embeddaemon
from embeddaemon import AsyncClient, Client
from tests.support.manifests import ROOT, check_command
from tests.support.snippets import PAGES as PAGES_WITH_PYTHON
from tests.support.snippets import Snippet, snippets

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
PLACEHOLDERS = {"NUMBER": "1", "FILE": "pyproject.toml", "PUBLIC": "x"}
"""Words for which a reader puts something of his own, and which must be of a kind that the program reads."""
OF_SHELLS = {"&", "|", ">", ">>", "&&", ";", "2>&1"}


def commands(page: str) -> list[str]:
    """Lines of code blocks and words between backticks that call the program."""
    fences = page.split("```")
    lines = [line.removeprefix("$ ") for block in fences[1::2] for line in block.splitlines()]
    spans = [span for text in fences[::2] for span in re.findall(r"`([^`]+)`", text)]
    return [
        line.split("  #")[0].split(" # ")[0].strip() for line in lines + spans if re.match(r"embeddaemon [a-z]", line)
    ]


def arguments_of(command: str) -> list[str]:
    """As a shell would give them, without what is the shell's own and the marks of a manual page."""
    words = shlex.split(re.sub(r"[\[\]…]", " ", command))[1:]
    end = next((place for place, word in enumerate(words) if word in OF_SHELLS), len(words))
    return [PLACEHOLDERS.get(word, word) for word in words[:end]]


ALL_COMMANDS = [(path.name, command) for path in PAGES for command in dict.fromkeys(commands(path.read_text()))]


def test_commands_of_the_documents_are_found() -> None:
    assert len(ALL_COMMANDS) > 40


@pytest.mark.parametrize(("page", "command"), ALL_COMMANDS)
def test_command_of_a_document_is_ours(page: str, command: str) -> None:
    with suppress(NoArgsIsHelpError):  # a group of commands, named as such
        check_command(arguments_of(command))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_of_ours_leads_there(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)#\s]*#?[^)\s]*)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert wrong == []


SNIPPETS = [snippet for page in PAGES_WITH_PYTHON for snippet in snippets(page)]


def test_python_of_the_documents_is_found() -> None:
    fences = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES_WITH_PYTHON)
    assert len(SNIPPETS) == fences > 10


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"{snippet.page.name}:{snippet.line}")
def test_python_of_a_document_compiles(snippet: Snippet) -> None:
    compile(snippet.code, f"{snippet.page.name}:{snippet.line}", "exec")


@pytest.mark.parametrize("name", [name for name in embeddaemon.__all__ if not name.startswith("_")])
def test_every_public_name_is_on_the_page_of_the_python_api(name: str) -> None:
    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    assert re.search(rf"`(embeddaemon\.)?{name}\b", page)


METHODS = sorted(
    {name for kind in (Client, AsyncClient) for name in dir(kind) if not name.startswith("_")} - {"endpoint", "timeout"}
)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_clients_is_on_the_page_of_the_python_api(method: str) -> None:
    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    assert re.search(rf"`{method}\(", page)
    options = {*signature(getattr(Client, method)).parameters} - {"self"}
    assert [option for option in options if not re.search(rf"\b{option}\b", page)] == []
