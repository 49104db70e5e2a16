"""Seeds made of seeds."""

from __future__ import annotations

import numpy as np


def derived(*entropy: int) -> int:
    """A seed made of non-negative integers, another one for others but for the chance of 2^-64 that two agree.

    Some tuples are the same to it: those of the same words of 32 bits, such as (2^32 + 1,) and (1, 1); and those that
    differ only in zeros at the end and have no more than four words, such as (5, 18) and (5, 18, 0).
    """
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
