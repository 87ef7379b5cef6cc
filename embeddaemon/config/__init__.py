"""Validated settings, read once: ``settings`` is what they are, the modules beside it read file, environment and flags."""
