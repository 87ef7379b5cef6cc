"""The first minute: a private daemon with the bundled model, a small semantic search, what it took, and a clean stop.

`make quickstart` runs it; so does `python examples/quickstart.py`. Nothing is left running afterwards.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np

import embeddaemon
from embeddaemon import Client

SENTENCES = """
A supervisor restarts the process that has crashed.
The kernel kills the largest process when memory runs out.
Sockets on the same machine need no network card.
A queue that is full should refuse at once.
The compiler moved the loop invariant out of the loop.
Two threads waited for each other's lock for ever.
Bread dough rises faster in a warm kitchen.
Salt the water generously before the pasta goes in.
The onions need half an hour until they are sweet.
A sharp knife is safer than a dull one.
Tomatoes lose their taste in the refrigerator.
The soup was thickened with yesterday's bread.
The glacier has lost a third of its length since 1900.
Heavy rain is expected in the valleys tonight.
The comet will be visible shortly before sunrise.
Coral reefs suffer when the sea becomes warmer.
Bees find their way back by the position of the sun.
The eruption covered the island with ash.
The goalkeeper saved the penalty in the last minute.
She ran the marathon in under three hours.
The chess champion offered a draw after forty moves.
The cyclists reached the pass before the storm.
Their striker is out for the season with a torn ligament.
The central bank raised interest rates again.
The landlord must return the deposit within a month.
Shares fell after the company cut its forecast.
The invoice was paid twice by mistake.
Employees may carry five days of leave into the next year.
The violin was built in Cremona three hundred years ago.
The novel is told by the youngest of the four sisters.
Her photographs hang in the entrance of the museum.
The orchestra rehearsed the slow movement until midnight.
The vaccine is given in two doses, a month apart.
Regular sleep lowers the blood pressure.
The surgeon closed the wound with seven stitches.
Drink plenty of water if you have a fever.
""".strip().splitlines()

QUESTIONS = (
    "What happens when a program uses too much RAM?",
    "How do I cook a good dinner?",
    "Who got injured in the match?",
    "Is the climate changing?",
    "When do I get my money back from the owner of the flat?",
)

TIMED_TEXTS = 200
BULK_COPIES = 30


def main() -> int:
    """Prints what a daemon does; 0 when it did it."""
    print("Starting a private daemon with the bundled model …")
    begun = time.perf_counter()
    with embeddaemon.local() as client:
        answering = time.perf_counter() - begun
        client.embed(QUESTIONS[0])
        first = time.perf_counter() - begun
        search(client)
        timings(client, answering, first)
        memory(client.status())
    print("\nStopped; nothing is left running.")
    print('Next: `embeddaemon serve` in one terminal, `embeddaemon embed "some text"` in another.')
    return 0


def search(client: Client) -> None:
    """The nearest sentences to each question: with unit vectors the cosine is a dot product."""
    sentences = client.embed(SENTENCES)
    questions = client.embed(QUESTIONS)
    print(f"\n{len(SENTENCES)} sentences, vectors of {sentences.shape[1]} numbers. The nearest to each question:\n")
    for question, scores in zip(QUESTIONS, questions @ sentences.T, strict=True):
        print(f"  {question}")
        for index in np.argsort(scores)[::-1][:2]:
            print(f"    {scores[index]:5.2f}  {SENTENCES[index]}")


def timings(client: Client, answering: float, first: float) -> None:
    """Cold, warm and in bulk, as this client saw it."""
    single = []
    for turn in range(TIMED_TEXTS):
        before = time.perf_counter()
        client.embed(SENTENCES[turn % len(SENTENCES)])
        single.append(time.perf_counter() - before)
    texts = [f"{sentence} ({copy})" for copy in range(BULK_COPIES) for sentence in SENTENCES]
    before = time.perf_counter()
    result = client.embed_detailed(texts, progress=False)
    seconds = time.perf_counter() - before
    print("\nTime")
    print(f"  daemon answers after start      {answering:8.2f} s")
    print(f"  first vector after start        {first:8.2f} s   (imports and loading included)")
    print(f"  one text, warm, median of {TIMED_TEXTS}   {statistics.median(single) * 1000:8.2f} ms")
    rate = f"{len(texts) / seconds:,.0f} texts/s, {result.tokens / seconds:,.0f} tokens/s"
    print(f"  {len(texts)} texts in one call        {seconds:8.2f} s   ({rate})")


def memory(status: dict[str, Any]) -> None:
    """What was promised to each process of the daemon, and what it uses."""
    told = status["memory"]
    print("\nMemory, as the daemon last measured it")
    for lease in told["leases"]:
        print(f"  {lease['holder']:<30}  {mebibytes(lease['resident_bytes'])} used, {mebibytes(lease['bytes'])} leased")
    limit = f"{mebibytes(told['limit_bytes']).strip()} ({told['limit_source']})"
    print(f"  {'budget':<30}  {mebibytes(told['budget_bytes'])} of {limit}")


def mebibytes(count: int) -> str:
    """Bytes for a person to read."""
    return f"{count / 1024**2:8,.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
