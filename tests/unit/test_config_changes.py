"""What a new configuration changes: every key is of one kind, and what has to wait keeps its old value."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from embeddaemon.config.changes import AT_ONCE, AT_RESTART, TABLES, WITHOUT_NEW_WORKERS, change_of, compare
from embeddaemon.config.settings import AccessSettings, Quotas, Settings
from embeddaemon.models.spec import ModelSpec, WorkerBounds
from embeddaemon.protocol.limits import Limits

MODEL = ModelSpec(name="mini", source="path:/m")
OLD = Settings(endpoint="ipc:///run/e", models=(MODEL,), default_model="mini")


def test_every_setting_is_of_exactly_one_kind() -> None:
    kinds = [AT_ONCE, frozenset(AT_RESTART), TABLES]
    assert frozenset().union(*kinds) == {field.name for field in fields(Settings)}
    assert sum(map(len, kinds)) == len(fields(Settings))
    assert {field.name for field in fields(ModelSpec)} >= WITHOUT_NEW_WORKERS


def test_what_waits_for_the_next_start_keeps_its_value_and_has_a_reason() -> None:
    new = replace(
        OLD,
        endpoint="ipc:///run/other",
        cache_bytes=5,
        limits=Limits(max_texts=1),
        access=AccessSettings(users=("eve",), key_file="/k"),
        per_user=Quotas(connections=1, requests=7),
        log_level="debug",
    )
    changes = compare(OLD, new)
    assert changes.settings == replace(
        OLD, access=AccessSettings(users=("eve",)), per_user=Quotas(connections=1, requests=7), log_level="debug"
    )
    assert {kept.key for kept in changes.kept} == {
        "daemon.endpoint",
        "daemon.cache_size",
        "limits.max_texts",
        "access.key_file",
    }
    assert all(kept.reason for kept in changes.kept)
    assert set(changes.at_once) == {
        "daemon.log_level",
        "access.users",
        "per_user.connections",
        "per_user.requests",
    }


def test_models_are_added_removed_and_changed() -> None:
    second, third = replace(MODEL, name="second"), replace(MODEL, name="third")
    old = replace(OLD, models=(MODEL, second))
    changes = compare(old, replace(old, models=(third, replace(MODEL, pinned=True))))
    assert [spec.name for spec in changes.added] == ["third"]
    assert changes.removed == ("second",)
    (change,) = changes.changed
    assert (change.spec.pinned, change.keys, change.needs_workers) == (True, ("models.mini.pinned",), False)
    assert changes.to_be_read == (third,)


@pytest.mark.parametrize(
    ("changed", "needs_workers"),
    [
        ({"keep_alive_seconds": 1.0, "pinned": True, "preload": True, "estimate": 5}, False),
        ({"workers": WorkerBounds(min=1, max=4)}, False),
        ({"workers": WorkerBounds(min=2, max=2)}, True),
        ({"workers": WorkerBounds(min=2, max=2), "threads": 1}, True),
        ({"source": "path:/other"}, True),
        ({"precision": "int8"}, True),
        ({"token_budget": 100}, True),
        ({"prompts": {"query": "q: "}}, True),
        ({"dimensions": (4,)}, True),
        ({"device": "cuda"}, True),
    ],
)
def test_workers_are_made_anew_for_what_they_have_loaded_and_for_nothing_else(
    changed: dict[str, object], needs_workers: bool
) -> None:
    change = change_of(MODEL, replace(MODEL, **changed))  # type: ignore[arg-type]  # by name, as ModelSpec has them
    assert change.needs_workers is needs_workers
    assert len(change.keys) == len(changed)


def test_number_of_workers_whose_threads_are_given_is_no_reason_for_new_ones() -> None:
    threaded = replace(MODEL, threads=1)
    assert not change_of(threaded, replace(threaded, workers=WorkerBounds(min=2, max=2))).needs_workers


def test_same_configuration_changes_nothing() -> None:
    changes = compare(OLD, replace(OLD))
    assert changes.settings == OLD
    assert (changes.added, changes.removed, changes.changed, changes.at_once, changes.kept) == ((), (), (), (), ())
