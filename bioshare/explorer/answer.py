"""What the explorer shows of a setting, in numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bioshare.circuit import theory
from bioshare.circuit.checks import Array
from bioshare.circuit.loop import literal_steps
from bioshare.circuit.problem import DivergenceError, prepare
from bioshare.circuit.simulate import simulate
from bioshare.explorer.setting import DT, Setting, Unstable

WATCHED = 3
"""Presentations of which the responses are shown."""

SHOWN = 5
"""Neurons of which the responses are shown."""

RECORDS = 400
"""Records of -log SNR, at most."""

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Responses:
    """The first presentations, time step by time step (T), and what the circuit would settle to (Eq. 9).

    Attributes:
        time: milliseconds, (T,).
        r, r_fixed: of the first neurons, (T, n).
        r_inh, r_inh_fixed: of the inhibitory neuron, (T,).
    """

    time: Array
    r: Array
    r_fixed: Array
    r_inh: Array
    r_inh_fixed: Array


@dataclass(frozen=True, eq=False)
class Answer:
    """All that the panels show of a setting.

    Attributes:
        setting: what was asked.
        responses: in the first presentations.
        presentation: of the records, (R,).
        neg_log_snr: -log SNR, (R,).
        mean_kept: norm of the mean, of that before sleep, (R,).
        mean_drift: distance of the mean from that before sleep, of its norm, (R,).
        theory_minimum: -log SNR that the ideal circuit reaches.
        theory_end: -log SNR where this circuit ends, if it settles at once and sleeps for ever (Eq. 24, 25).
        before, now, end: weights, (N, K).
        now_at: the presentation after which the weights are ``now``.
        seconds: what it took.
    """

    setting: Setting
    responses: Responses
    presentation: NDArray[np.int64]
    neg_log_snr: Array
    mean_kept: Array
    mean_drift: Array
    theory_minimum: float
    theory_end: float
    before: Array
    now: Array
    end: Array
    now_at: int
    seconds: float

    @property
    def best(self) -> int:
        """Index of the record with the lowest -log SNR."""
        return int(np.argmin(self.neg_log_snr))


def answer(setting: Setting, now_at: int | None = None, progress: Progress | None = None) -> Answer | Unstable:
    """Simulate a setting with the engine "exact".

    Args:
        setting: the sliders.
        now_at: a presentation to show the weights after; None for that of the lowest -log SNR.
        progress: called with the number of presentations done; what it raises ends the simulation.

    Returns:
        What to show, or why there is nothing to show.
    """
    start = time.perf_counter()
    if trouble := setting.unstable:
        return trouble
    before, circuit, rule = setting.weights, setting.circuit, setting.rule
    sleep = lambda presentations, every: simulate(
        before,
        setting.stimulus,
        circuit,
        rule,
        record_every=every,
        presentations=presentations,
        seed=setting.seed,
        progress=progress or False,
    )
    weights_after = lambda presentations: sleep(presentations, presentations).weights if presentations else before
    try:
        run = sleep(setting.presentations, record_every(setting))
        responses = watch(setting)
        best = int(run.presentation[np.argmin(run.neg_log_snr)])
        now_at = min(best if now_at is None else now_at, setting.presentations)
        now = weights_after(now_at) if now_at < setting.presentations else run.weights
    except (DivergenceError, ValueError) as error:
        return setting.diverged(error)
    size = run.mean_norm[0]
    return Answer(
        setting,
        responses,
        run.presentation,
        run.neg_log_snr,
        run.mean_norm / size,
        run.mean_drift / size,
        float(theory.min_neg_log_snr(setting.gamma)),
        theory_end(setting),
        before,
        now,
        run.weights,
        now_at,
        time.perf_counter() - start,
    )


def record_every(setting: Setting) -> int:
    """Presentations between two records."""
    return math.ceil(setting.presentations / RECORDS)


def theory_end(setting: Setting) -> float:
    """-log SNR at the fixed point of the steady-state circuit (Eq. 24), with noise as in `theory.fixed_point`."""
    end = theory.fixed_point(setting.weights, np.eye(setting.k**2), setting.gamma, setting.alpha, setting.noise)
    return float(theory.neg_log_snr(end))


def watch(setting: Setting) -> Responses:
    """The first presentations step by step; the fixed point is that of the weights at each time step."""
    problem = prepare(
        setting.weights,
        setting.stimulus,
        setting.circuit,
        setting.rule,
        presentations=min(WATCHED, setting.presentations),
        seed=setting.seed,
    )
    steps, literal = setting.circuit.updates_per_presentation, literal_steps(problem)
    r, r_inh, z = [], [], []
    for _, x in problem.blocks(1):
        for weights, rates, inhibition in islice(literal, steps):
            z.append((weights[0] * x[0, 0]).sum(-1))
            r.append(rates[0, :SHOWN])
            r_inh.append(inhibition[0, 0])
    drive = np.array(z)
    fixed = theory.response(drive[..., None], np.ones(1), setting.alpha, setting.bias)
    moments = DT * np.arange(1, len(drive) + 1, dtype=np.float64)
    inhibition = fixed.mean(-1) - setting.bias
    return Responses(moments, np.array(r), fixed[:, :SHOWN], np.array(r_inh), inhibition)


def in_brian2(setting: Setting, progress: Progress | None = None) -> tuple[NDArray[np.int64], Array]:
    """The same sleep, step by step in Brian2: presentations (R,) and -log SNR (R,).

    Raises:
        ValueError: the setting is unstable.
    """
    run = simulate(
        setting.weights,
        setting.stimulus,
        setting.circuit,
        setting.rule,
        engine="brian2",
        record_every=record_every(setting),
        presentations=setting.presentations,
        seed=setting.seed,
        progress=progress or False,
    )
    return run.presentation, run.neg_log_snr
