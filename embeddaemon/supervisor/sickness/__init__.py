"""Whoever is ill: texts that kill, wrong vectors, processes that hang, models that fail; and what health says."""
