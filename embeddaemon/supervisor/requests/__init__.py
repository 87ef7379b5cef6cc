"""Requests: admitted, queued, dispatched, withdrawn, ended exactly once; the cache of their answers."""
