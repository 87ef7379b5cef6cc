"""Models from the hub: into huggingface_hub's own cache, only the files that are read here, verified once they are new.

What is cached is used when the hub cannot be reached or ``HF_HUB_OFFLINE`` is set; ``HF_ENDPOINT``, ``HF_HOME`` and
``HF_TOKEN`` mean what they mean to huggingface_hub. It downloads with threads: never called in a process that forks
afterwards.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from embeddaemon.errors import CorruptModel, FailedLoad, HubUnreachable, ModelGated, ModelNotFound
from embeddaemon.models.sources import Source, SourceKind, parse_source

# Configurations, tokenizers and safetensors by name: never pickles, never code, no copies for other runtimes.
_AT_TOP = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_*_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
_IN_MODULES = ("[0-9]_*/config.json", "[0-9]_*/model.safetensors")
_PATTERNS = [*_AT_TOP, *_IN_MODULES, *(f"0_Transformer/{name}" for name in _AT_TOP)]

_PARALLEL_DOWNLOADS = 4
_CHUNK_BYTES = 8 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


def fetch(source: str) -> Path:
    """The folder of a ``hub:`` source, downloaded or from the cache.

    Raises ModelNotFound, ModelGated, HubUnreachable or CorruptModel.
    """
    parsed = parse_source(source)
    before = cached_folder(source)
    disable_progress_bars()
    _never_wait_for_ever()
    try:
        folder = Path(
            snapshot_download(
                parsed.name, revision=parsed.revision, allow_patterns=_PATTERNS, max_workers=_PARALLEL_DOWNLOADS
            )
        )
    except (OSError, httpx2.HTTPError, EntryNotFoundError) as error:
        raise _told_apart(error, parsed) from error
    if folder != before:
        _verify(folder, parsed)
    return folder


def cached_folder(source: str) -> Path | None:
    """The complete snapshot of a hub source that the cache has, without any network; None where it has none."""
    parsed = parse_source(source)
    assert parsed.kind is SourceKind.HUB, f"{source} is not of the hub: bug"
    try:
        return Path(
            snapshot_download(parsed.name, revision=parsed.revision, allow_patterns=_PATTERNS, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None


def _never_wait_for_ever() -> None:
    """huggingface_hub asks for a repository without any timeout; a silent network must not look like a slow one."""

    def bound(request: httpx2.Request) -> None:
        timeouts = request.extensions.setdefault("timeout", {})
        for phase in ("connect", "read", "write", "pool"):
            if timeouts.get(phase) is None:
                timeouts[phase] = float(constants.HF_HUB_ETAG_TIMEOUT)

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "request": [*hooks["request"], bound]}


def _told_apart(error: Exception, source: Source) -> FailedLoad:
    """Our error for one of huggingface_hub's; it wraps what the hub said when it looked into its cache instead."""
    said = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    status = said.response.status_code if isinstance(said, HfHubHTTPError) else None
    match said:
        case GatedRepoError():
            return ModelGated(f"{source} is gated: accept its terms on the hub and set HF_TOKEN to a token of yours")
        case DisabledRepoError():
            return ModelGated(f"{source} was disabled on the hub")
        case RepositoryNotFoundError():
            return ModelNotFound(f"the hub has no {source}; if it is private, set HF_TOKEN to a token that may read it")
        case RevisionNotFoundError():
            return ModelNotFound(f"the hub has {source.name}, but not the revision {source.revision or 'main'}")
        case HfHubHTTPError() if status in {401, 403}:
            return ModelGated(f"the hub refused {source} with status {status}; check HF_TOKEN")
        case HfHubHTTPError() if status == 404:
            return ModelNotFound(f"the hub has no {source}")
        case OfflineModeIsEnabled():
            return HubUnreachable(f"{source} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub")
        case httpx2.HTTPError() | LocalEntryNotFoundError():
            return HubUnreachable(f"the hub cannot be reached, and {source} is not in the cache")
        case OSError() if "Consistency check failed" in str(said):
            return CorruptModel(f"{source} arrived damaged: a file has not the size that the hub announced")
        case _:
            return HubUnreachable(f"{source} cannot be downloaded: {said}")


def _verify(folder: Path, source: Source) -> None:
    """Compares new files with the digests that the cache names them by; a wrong one is removed, to come again."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        blob = path.resolve()
        wanted = blob.name
        if _SHA256.fullmatch(wanted):
            found = _digest(blob, hashlib.sha256())
        elif _GIT_SHA1.fullmatch(wanted):  # how git names a file that is not in large file storage
            header = f"blob {blob.stat().st_size}\0".encode()
            found = _digest(blob, hashlib.sha1(header, usedforsecurity=False))
        else:
            continue
        if found != wanted:
            path.unlink()
            blob.unlink(missing_ok=True)
            raise CorruptModel(
                f"{source} arrived damaged: {path.name} has the digest {found}, the hub announced {wanted}; "
                "it was removed and is downloaded again at the next try"
            )


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
