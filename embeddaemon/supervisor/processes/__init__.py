"""Processes below the supervisor from start to reap: which should live, how they go, what their end means."""
