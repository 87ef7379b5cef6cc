"""What an application pays for importing the client, and what the supervisor may not import: looked at from outside."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "sentence_transformers"}
DAEMON_ONLY = HEAVY | {"psutil"}


@pytest.mark.parametrize("name", ["embeddaemon", "embeddaemon.client", "embeddaemon.cli"])
def test_import_needs_nothing_of_the_daemon(name: str) -> None:
    assert loaded_by(f"import {name}").isdisjoint(DAEMON_ONLY)


def test_client_works_where_the_daemon_is_not_installed() -> None:
    absent = "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(DAEMON_ONLY))
    loaded_by(f"import sys; {absent}; from embeddaemon import AsyncClient, Client, local")


@pytest.mark.parametrize("name", ["embeddaemon.supervisor.core", "embeddaemon.supervisor.loop"])
def test_supervisor_imports_no_torch(name: str) -> None:
    assert loaded_by(f"import {name}").isdisjoint(HEAVY)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    program = f"{statement}; import sys; print(*(name for name, module in sys.modules.items() if module))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}
