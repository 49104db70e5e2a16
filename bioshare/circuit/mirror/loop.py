"""Engine "loop" of a mirror: the equations step by step in NumPy, every synapse at every step. The oracle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bioshare.circuit.mirror.problem import MirrorProblem, MirrorState


def mirror_loop(problem: MirrorProblem) -> Iterator[tuple[int, MirrorState]]:
    """Yield (presentations, state) at every stop."""
    w, circuit = problem.weights, problem.circuit
    lift = lambda scalar, axes=1: np.reshape(scalar, np.shape(scalar) + (1,) * axes)
    beta, h, h_crosstalk = map(lift, (circuit.baseline, circuit.dt / circuit.tau, circuit.dt / circuit.tau_crosstalk))
    y, below = (np.zeros((*problem.batch, length)) + beta for length in w.shape[-2:])
    b, above = problem.feedback.copy(), y
    for presentation in range(problem.stimuli.shape[-2]):
        x = problem.stimuli[..., presentation, :]
        drive = np.einsum("...nk,...k->...n", w, x) + beta
        for step in range(circuit.steps):
            y = y + h * (-y + drive)
            below = below + h_crosstalk * (-below + x + beta)
            above = above + h_crosstalk * (-above + y)
            if step >= circuit.steps - circuit.updates_per_presentation:
                hebb = (above - beta)[..., :, None] * (below - beta)[..., None, :]
                b = b + circuit.dt * lift(circuit.rate, 2) * (hebb - lift(circuit.decay, 2) * b)
        if presentation + 1 in problem.stops:
            yield presentation + 1, MirrorState(b, y, below, above)
