"""Under which licence a model is published, by its folder's README; and which licences forbid commercial use."""

from __future__ import annotations

import re
from pathlib import Path

from embeddaemon.models.opening import open_file

_HEAD_BYTES = 64 * 1024
"""The front matter is the README's beginning; some carry long lists of results in it."""

_LICENCE = re.compile(r"""^license:[ \t]*["']?([A-Za-z0-9][A-Za-z0-9._-]{0,63})["']?[ \t]*$""", re.MULTILINE)
_LICENCE_NAME = re.compile(r"""^license_name:[ \t]*["']?([A-Za-z0-9][A-Za-z0-9._-]{0,63})["']?[ \t]*$""", re.MULTILINE)
_NON_COMMERCIAL = re.compile(r"(^|[-_.])(nc|non-?commercial)([-_.]|$)", re.IGNORECASE)


def licence_of_folder(folder: Path) -> str | None:
    """What the front matter of README.md says, in lower case; None where it says nothing or cannot be read."""
    try:
        with open_file(folder / "README.md") as file:
            raw = file.read(_HEAD_BYTES) or b""
    except OSError:
        return None
    text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return None
    front = text[4:].partition("\n---")[0]
    found = _LICENCE.search(front)
    if found is None:
        return None
    named = _LICENCE_NAME.search(front) if found[1].lower() == "other" else None
    return (named or found)[1].lower()


def is_non_commercial(licence: str | None) -> bool:
    """Whether a licence's name says that it forbids commercial use, as ``cc-by-nc-4.0`` does."""
    return licence is not None and _NON_COMMERCIAL.search(licence) is not None
