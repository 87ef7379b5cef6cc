"""What a model's terms and habits are is said: in the log when it is learned, in the document of models always."""

from __future__ import annotations

from dataclasses import replace

from embeddaemon.protocol.messages import Document, Models
from embeddaemon.supervisor import commands as do
from embeddaemon.supervisor.core import Supervisor
from embeddaemon.supervisor.events import CardRead
from tests.support.supervisor_story import CLIENT, MACHINE, Story, settings_for, spec
from tests.support.supervisor_world import card_read


def read(licence: str | None) -> CardRead:
    first = card_read("mini")
    return replace(first, card=replace(first.card, licence=licence, notes=("it surprises",)))


def test_non_commercial_licence_is_warned_of_at_the_start() -> None:
    story = Story()
    supervisor = Supervisor(settings_for(spec()), MACHINE, story.governor, lambda: 0.5)
    supervisor.learn_card(read("cc-by-nc-4.0"))
    warned = [each for each in supervisor.start(0.0) if isinstance(each, do.Log) and each.level == "warning"]
    assert [(each.event, each.fields["model"], each.fields["licence"]) for each in warned] == [
        ("licence_non_commercial", "mini", "cc-by-nc-4.0")
    ]


def test_it_is_warned_of_once_for_each_licence_that_a_folder_says() -> None:
    story = Story()
    for licence in ("apache-2.0", "cc-by-nc-4.0", "cc-by-nc-4.0", None, "cc-by-nc-sa-4.0"):
        story.tell(read(licence))
    assert [each["licence"] for each in story.logged("licence_non_commercial")] == ["cc-by-nc-4.0", "cc-by-nc-sa-4.0"]


def test_notes_are_in_the_document_of_models() -> None:
    story = Story()
    story.tell(read("gemma"))
    story.send(Models(id=5))
    (reply,) = story.answers[CLIENT, 5]
    assert isinstance(reply, do.Reply)
    assert isinstance(reply.answer, Document)
    assert reply.document is not None
    (model,) = reply.document["models"]
    assert (model["notes"], model["licence"]) == (["it surprises"], "gemma")
