"""Any number of texts in constant memory: read one by one, embedded piece by piece, written as they come.

Usage: python examples/batch.py TEXTS.txt VECTORS.f32     (one text per line; float32, row after row)
Needs a running daemon: `embeddaemon serve`. The command `embeddaemon embed -i TEXTS.txt -o VECTORS.npy` does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from embeddaemon import Client


def lines(path: Path) -> Iterator[str]:
    """The texts of a file, without empty ones."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if text := line.strip():
                yield text


def main(source: Path, target: Path) -> None:
    """Embeds every line of ``source`` into ``target``."""
    count = dim = 0
    with Client() as client, target.open("wb") as file:
        for piece in client.embed_stream(lines(source)):  # (texts, dim), in the order of the texts
            file.write(piece.tobytes())
            count, dim = count + piece.shape[0], piece.shape[1]
            print(f"\r{count} texts", end="", file=sys.stderr)
    print(f"\nnumpy.fromfile({str(target)!r}, 'float32').reshape({count}, {dim})", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
