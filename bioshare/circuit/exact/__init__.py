"""Engine "exact": a sleep without approximation, many presentations at once.

stepping.py derives the mathematics; engine.py is the way through a sleep.
"""

from bioshare.circuit.exact.engine import Exact, SleepMap, sleep_map

__all__ = ["Exact", "SleepMap", "sleep_map"]
