"""What applications import from ``embeddaemon`` itself."""

from __future__ import annotations

import inspect

import embeddaemon
from embeddaemon import errors


def test_every_error_is_importable_from_the_package() -> None:
    ours = {
        name: error
        for name, error in inspect.getmembers(errors, inspect.isclass)
        if error.__module__ == errors.__name__
    }
    assert {name: getattr(embeddaemon, name) for name in ours} == ours
    assert set(ours) <= set(embeddaemon.__all__)
