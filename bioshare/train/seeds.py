"""Seeds of a run: every random number is a function of the run's seed, the purpose and the moment."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Purpose = Literal["order", "crops", "subset", "validation", "step", "sleep", "pool", "feedback"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def seeded(purpose: Purpose, seed: int, *when: int) -> np.random.Generator:
    """An independent generator for every purpose, seed and moment."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *when)))


def seed_at(purpose: Purpose, seed: int, *when: int) -> int:
    """An independent seed for every purpose, seed of a run, and moment (a step, or a step and a process)."""
    return int(seeded(purpose, seed, *when).integers(2**63))
