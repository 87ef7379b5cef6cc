"""Which of the known names somebody may have meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_NAMES = 10
"""That are worth reading in an error."""
_MOST_COMPARED = 200
"""More, or a longer word, are not compared letter by letter: a daemon answers such words while others wait."""


def nearest(word: str, known: Iterable[str], most: int = MOST_NAMES) -> list[str]:
    """Names near ``word``, the nearest first, each once; case and ``hub:ORG/`` do not count.

    First those in which the word stands, the shortest before longer ones, then those with nearly the same letters.
    """
    own = _own_part(word)
    names = {name: _own_part(name) for name in known}
    holding = sorted((name for name, part in names.items() if own and own in part), key=lambda name: (len(name), name))
    if len(names) > _MOST_COMPARED or len(own) > _MOST_COMPARED:
        return holding[:most]
    by_part: dict[str, list[str]] = {}
    for name, part in names.items():
        by_part.setdefault(part, []).append(name)
    close = [name for part in get_close_matches(own, by_part, n=most, cutoff=0.6) for name in by_part[part]]
    return list(dict.fromkeys([*holding, *close]))[:most]


def hint(word: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is not known: what may have been meant, and what there is."""
    names = list(dict.fromkeys(known))
    if not names:
        return "none is known"
    near = nearest(word, names)
    guess = f"did you mean {near[0]!r}? " if near else ""
    if len(names) <= MOST_NAMES:
        return f"{guess}known are {', '.join(sorted(names))}"
    if len(near) > 1:
        return f"{guess}also near are {', '.join(near[1:])}"
    return f"{guess}{len(names)} are known"


def _own_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].rpartition(":")[2].casefold()
