"""What can go wrong, how it looks, and what to do: one error tree, told apart by class, code and `retryable`.

Starts a private daemon for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import embeddaemon
from embeddaemon import Client, DaemonUnreachable, EmbedDaemonError, Invalid, TextTooLong


def embed_patiently(client: Client, texts: list[str], attempts: int = 5) -> object:
    """Asks again what is worth asking again: a full queue, a daemon that restarts."""
    for _ in range(attempts - 1):
        try:
            return client.embed(texts)
        except EmbedDaemonError as error:
            if not error.retryable:
                raise
            time.sleep((error.retry_after_ms or 200) / 1000)
    return client.embed(texts)


def show(what: str, ask: Callable[[], object]) -> None:
    """Runs one call that fails."""
    try:
        ask()
    except TextTooLong as error:  # the details are data: no parsing of messages
        print(f"{what}: {error.code}: text {error.details['index']} has {error.details['tokens']} tokens")
    except Invalid as error:
        print(f"{what}: {error.code}: {error}")
    except DaemonUnreachable as error:
        print(f"{what}: {error.code}, worth a retry: {error.retryable}: {error}")


def main() -> None:
    """One line per mistake."""
    with embeddaemon.local() as client:
        show("unknown model", lambda: client.embed("a text", model="no-such-model"))
        show("unknown task", lambda: client.embed("a text", task="no-such-task"))
        show("dimensions", lambda: client.embed("a text", dimensions=7))
        show("empty text", lambda: client.embed(["a text", ""]))
        show("lone surrogate", lambda: client.embed(["half of a character: \ud83d"]))
        show("long text", lambda: client.embed("word " * 5000, truncate=False))
        vectors = embed_patiently(client, ["and the daemon goes on answering"])
        print(f"after all that: {type(vectors).__name__}")
    with Client("/tmp/embeddaemon-nobody-here.sock") as nobody:  # noqa: S108 - nothing is there, that is the point
        show("no daemon", lambda: nobody.embed("a text"))


if __name__ == "__main__":
    main()
