"""Engine "loop": Eq. 4 and 8 step by step in NumPy, every weight at every step. The oracle, and the baseline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bioshare.checks import Array, choice
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.problem import Outcome, Problem, Progress, divergence, measure_weights, reported
from bioshare.circuit.recording import Recording


def literal_steps(problem: Problem, rectified: bool = False) -> Iterator[tuple[Array, Array, Array]]:
    """Yield (weights, r, r_inh) after every weight update; the arrays are updated in place.

    Shapes: weights (B, N, K), r (B, N), r_inh (B, 1). With ``rectified`` the input currents of Eq. 8 are cut at 0.
    """
    rule, circuit = problem.rule, problem.circuit
    w_init, w = problem.weights, problem.weights.copy()
    m = np.zeros_like(w)
    gamma, momentum = (problem.flat(value)[:, None, None] for value in (rule.gamma, rule.momentum))
    bias = circuit.bias if isinstance(circuit, RateCircuit) else 0.0
    alpha, h, bias = (problem.flat(value)[:, None] for value in (circuit.alpha, circuit.dt_over_tau, bias))
    rest = problem.flat(circuit.resting_inhibition)[:, None]
    r, r_inh = rest.repeat(w.shape[1], 1), rest.copy()
    for presentation, x in problem.blocks(1):
        # x is (B, N, K) with noise, else (B, 1, K)
        x = x[:, 0] if problem.per_neuron else x[:, :1]
        for eta in problem.rates[presentation]:
            # z_i = w_i . x, (B, N)
            z = (w * x).sum(-1) if problem.per_neuron else (w @ x.mT)[..., 0]
            if isinstance(circuit, RateCircuit) and rectified:  # [current]_+ in place of the current
                current, inhibitory = z - alpha * (r_inh - rest) + bias, r.mean(-1, keepdims=True) - (bias - rest)
                r, r_inh = r + h * (np.maximum(current, 0) - r), r_inh + h * (np.maximum(inhibitory, 0) - r_inh)
            elif isinstance(circuit, RateCircuit):  # Eq. 8, forward Euler: both from the old state
                r, r_inh = (
                    r + h * (-r + z - alpha * (r_inh - rest) + bias),
                    r_inh + h * (-r_inh + r.mean(-1, keepdims=True) - (bias - rest)),
                )
            else:  # Eq. 9
                r_inh = z.mean(-1, keepdims=True) / (1 + alpha)
                r = z - z.mean(-1, keepdims=True) + r_inh
            # Eq. 4: m <- beta m - eta ((r - b) x + gamma (w - w_init)), w <- w + m, both (B, N, K)
            m *= momentum
            m -= (eta * (r - bias))[..., None] * x
            m -= eta * gamma * (w - w_init)
            w += m
            yield w, r, r_inh


@dataclass(frozen=True)
class Loop:
    """Settings of the engine "loop".

    Args:
        rectified: True for rates >= 0 in a `RateCircuit`: the input currents of Eq. 8a and 8b are cut at 0,
            tau dr_i/dt = -r_i + [z_i - alpha r_inh + b]_+ and tau dr_inh/dt = -r_inh + [mean_j r_j - b]_+, and in the
            same way with ``inhibitory_bias``. The bias is then at least 0: learned is r - b, and a silent neuron below
            a threshold, b < 0, would learn from a response that it does not have.
    """

    rectified: bool = False

    def __post_init__(self) -> None:
        choice("rectified", self.rectified, (True, False))

    def _check_circuit(self, problem: Problem) -> None:
        if self.rectified and not isinstance(problem.circuit, RateCircuit):
            raise ValueError(f"rectified must be False without a RateCircuit; got {problem.circuit}")
        if self.rectified and isinstance(problem.circuit, RateCircuit) and np.any(np.less(problem.circuit.bias, 0)):
            raise ValueError(f"bias must be >= 0 for rectified rates, whose rest it is; got {problem.circuit}")

    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate a checked sleep step by step."""
        self._check_circuit(problem)
        start, steps = time.perf_counter(), problem.circuit.updates_per_presentation
        mean_init = problem.weights.mean(-2)
        records = [measure_weights(problem.weights, mean_init)]
        state: tuple[Array, Array, Array] | None = None
        done, recording = 0, Recording(problem)
        try:
            with reported(progress, problem.presentations) as tell, np.errstate(over="ignore", invalid="ignore"):
                for update, (w, r, r_inh) in enumerate(literal_steps(problem, self.rectified), 1):
                    if recording.due(update):
                        recording.add(w, r, r_inh[:, 0])
                    if update % steps:
                        continue
                    if not np.abs(w).max() < problem.bound:
                        size = np.nan_to_num(np.abs(w), nan=np.inf).max((1, 2))
                        raise divergence(problem, done, int(np.argmax(size)))
                    state, done = (w.copy(), r, r_inh[:, 0]), done + 1
                    if done % problem.record_every == 0:
                        records.append(measure_weights(w, mean_init))
                    tell(done)
        except KeyboardInterrupt:
            if state is None:
                raise
        assert state is not None, "a sleep has at least one presentation"
        stacked = {name: np.stack([record[name] for record in records], -1) for name in records[0]}
        seconds = {"run": time.perf_counter() - start}
        return Outcome(*state, stacked, done, seconds, recording.until(done * steps))
