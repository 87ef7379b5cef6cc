"""What about a model surprises people, as short sentences: its terms, its prompts, its length. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from embeddaemon.models.licences import is_non_commercial
from embeddaemon.models.published import Published

_OWN_TERMS = {"gemma": "Google's terms of use for Gemma"}
_OF_FAMILY = {
    "jina-v3": "its adapters for tasks (LoRA) are not applied: vectors are the base model's",
}
_ENDLESS = 1_000_000
"""What tokenizers write who know no limit is far beyond."""


def licence_notes(licence: str | None) -> tuple[str, ...]:
    """What its licence forbids or asks."""
    if licence is not None and is_non_commercial(licence):
        return (f"the licence {licence} forbids commercial use",)
    if licence in _OWN_TERMS:
        return (f"the licence is its own: {_OWN_TERMS[licence]}",)
    return ()


def family_notes(family: str) -> tuple[str, ...]:
    """What of a family is computed otherwise than its users may think."""
    return (_OF_FAMILY[family],) if family in _OF_FAMILY else ()


def prompt_notes(prompts: Mapping[str, str], default_task: str | None, entry: Published | None) -> tuple[str, ...]:
    """What goes before a text, where that is not what one would expect."""
    if default_task is not None:
        return (f"the prompt of task {default_task!r} goes before texts for which none is named",) * bool(
            prompts[default_task]
        )
    notes = []
    filled = sorted(task for task, prompt in prompts.items() if prompt)
    queries = [task for task in filled if "query" in task]
    if queries and not prompts.get("query"):
        notes.append(
            f"encode_query puts nothing before a text, as in sentence-transformers; name a task: {', '.join(queries)}"
        )
    documents = [task for task in filled if _is_for_documents(task)]
    if documents and prompts.get("document") == "":
        notes.append(
            "encode_document puts nothing before a text, as in sentence-transformers; "
            f"name a task: {', '.join(documents)}"
        )
    if entry is not None and entry.needs_prompt and filled:
        notes.append(f"every text needs a prompt, documents too, and none is put unasked; tasks: {', '.join(filled)}")
    return tuple(notes)


def _is_for_documents(task: str) -> bool:
    return any(word in task.lower() for word in ("document", "passage", "corpus"))


def length_notes(max_tokens: int, positions: int, said: int | None) -> tuple[str, ...]:
    """Where texts are cut before the length that the folder says; ``positions`` is what the model can do."""
    wanted = positions if said is None or said >= _ENDLESS else said
    if max_tokens >= wanted:
        return ()
    if max_tokens == positions:
        return (
            f"texts are cut at {max_tokens} tokens, the most that the model can do, though its folder says {wanted}",
        )
    return (f"texts are cut at {max_tokens} tokens though it can do {min(wanted, positions)}: max_tokens raises that",)


def table_notes(entry: Published, family: str) -> tuple[str, ...]:
    """A folder that is called as another model."""
    return (f"called as {entry.name}, which is a {entry.family} and this a {family}: nothing is taken from the table",)
