"""``precision = "int8"`` on the CPU: weights of 8 bits, activations of 8 bits by scales that were found beforehand.

``arithmetic.py`` computes, ``forward.py`` is the pass through a model, ``encoder.py`` makes its weights. At a load
``calibration.py`` looks at activations in float32 (``observing.py``), chooses (``choosing.py``) a plan (``plan.py``),
measures what it is worth, and keeps it in a file (``scales.py``).
"""
