"""Tokenizing without a journal, and with nothing refused."""

from embeddaemon.workers.journal import Journal
from embeddaemon.workers.screening import Screen
from embeddaemon.workers.watching import Watch

UNWATCHED = Watch(Journal(None, slots=1, capacity=1), Screen(), serial=1, alone=None)
