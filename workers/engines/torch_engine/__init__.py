"""The torch engine: every family on every device, by transformers' own classes and one attention function of ours.

Importing this package imports all that loading and computing need, and computes nothing: that is the fork server's
preload. In this order a text meets: tokenization.py (of workers), model.py, families/, attention.py, pooling.py.
"""

from embeddaemon.workers.engines.torch_engine.loading import load, preload, warm_up

__all__ = ["load", "preload", "warm_up"]
