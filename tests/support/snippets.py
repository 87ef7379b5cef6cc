"""The blocks of Python in README.md and docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.manifests import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NOT_RUN = "not-run"
"""Behind ``python`` at the head of a block: it needs what a test does not have, such as another machine."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One block. ``line`` is that of its head, from 1."""

    page: Path
    line: int
    code: str
    runs: bool


def snippets(page: Path) -> list[Snippet]:
    """The blocks of Python of a page, in order. An unknown word at the head of one is an AssertionError."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in re.finditer(r"^```python *([^\n]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        word, code = block[1].strip(), block[2]
        line = text.count("\n", 0, block.start()) + 1
        assert word in {"", NOT_RUN}, f"{page.name}:{line}: {word!r} says nothing of a block"
        found.append(Snippet(page, line, code, runs=not word))
    return found
