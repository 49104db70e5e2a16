"""Seeds made of seeds."""

from __future__ import annotations

import numpy as np


def derived(*entropy: int) -> int:
    """A seed of its own for every tuple of non-negative integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
