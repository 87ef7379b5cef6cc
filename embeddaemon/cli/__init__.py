"""The command line: parses, calls the client (``serve``: the supervisor), prints results, ends with an exit code.

Its client half works in the base install. ``app`` is the program; every command is a module, imported when it is used.
"""

from embeddaemon.cli.app import main

__all__ = ["main"]
