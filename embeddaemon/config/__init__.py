"""Validated settings, read once: ``settings`` is what they are, the modules beside it read file, environment and flags.

``loading.load`` puts them together; ``options`` is the list of keys, ``kinds`` what they take, ``report`` shows the
outcome.
"""
