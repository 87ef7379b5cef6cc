"""Names and sources of models as they are written: ``NAME=SOURCE``, and the four forms of a source."""

from __future__ import annotations

import re
from pathlib import Path

from embeddaemon.config.given import shown
from embeddaemon.config.kinds import Wrong, text
from embeddaemon.errors import ConfigError
from embeddaemon.models import sources
from embeddaemon.models.sources import SourceKind

SOURCE_FORMS = "package:NAME, path:DIR, hub:ORG/NAME[@REVISION] or a folder"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_SCHEMES = tuple(kind.value for kind in SourceKind)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def split_model(written: str, origin: str) -> tuple[str, str]:
    """Name and source of ``NAME=SOURCE``. Raises ConfigError."""
    name, equals, source = written.partition("=")
    if not equals or not name.strip() or not source.strip():
        raise ConfigError(f"{origin} {shown(written)}: must be NAME=SOURCE, with SOURCE as {SOURCE_FORMS}")
    return name.strip(), source.strip()


def check_name(name: str) -> None:
    """Raises Wrong for a name that could not be typed in a request or shown in a log line."""
    if not _NAME.fullmatch(name):
        raise Wrong("a model's name must be 1 to 128 letters, digits and . _ : / @ -, beginning with a letter or digit")


def parse_source(written: object, folder: Path, home: str | None) -> str:
    """A source with its scheme, folders absolute. Raises Wrong."""
    source = text(written)
    scheme, colon, rest = source.partition(":")
    if not colon or scheme not in _SCHEMES:
        return _plain(source, folder, home)
    try:
        parsed = sources.parse_source(source)
    except ConfigError as error:
        raise Wrong(f"must be {SOURCE_FORMS}") from error
    return f"path:{_absolute(rest.strip(), folder, home)}" if parsed.kind is SourceKind.PATH else str(parsed)


def _plain(source: str, folder: Path, home: str | None) -> str:
    directory = _absolute(source, folder, home)
    try:
        if directory.is_dir():
            return f"path:{directory}"
    except OSError as error:  # a name too long, or a folder on the way that we may not enter
        raise Wrong(f"the folder cannot be looked at: {error.strerror}") from error
    hint = f"; for a model of the hub write hub:{source}" if _HUB.fullmatch(source) else ""
    raise Wrong(f"there is no such folder; must be {SOURCE_FORMS}{hint}")


def _absolute(written: str, folder: Path, home: str | None) -> Path:
    if home and (written == "~" or written.startswith("~/")):
        return Path(home) / written[2:]
    return folder / written
