"""Who may be in memory: budgets, leases, eviction and the measurements behind them.

Everything here decides and is pure, except ``probes.py``, which alone reads the machine. ``core.py`` is the decider.
"""
