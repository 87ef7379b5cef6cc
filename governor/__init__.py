"""Who may be in memory: budgets, leases, eviction and the measurements behind them.

Everything here decides and is pure, except ``probes.py`` and what it reads the machine with: ``cgroups.py``,
``kernel_files.py``, ``nvml.py`` and ``stalls.py``. ``core.py`` is the decider.
"""
