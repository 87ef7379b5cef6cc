"""README.md and docs/: commands that exist, links that lead somewhere."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from click.exceptions import NoArgsIsHelpError

from tests.support.manifests import ROOT, check_command

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
