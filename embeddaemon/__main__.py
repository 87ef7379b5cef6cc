"""``python -m embeddaemon`` is the command ``embeddaemon``."""

from embeddaemon.cli import main

if __name__ == "__main__":
    main()
