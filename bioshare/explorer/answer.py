"""What the explorer shows of a setting, in numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit import theory
from bioshare.circuit.exact import Exact
from bioshare.circuit.loop import literal_steps
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import DivergenceError, Problem, measure_weights
from bioshare.circuit.run import SleepRun
from bioshare.circuit.simulate import simulate
from bioshare.explorer.setting import DT, Setting, Unstable

WATCHED = 3
"""Presentations of which the responses are shown."""

SHOWN = 5
"""Neurons of which the responses are shown."""

RECORDS = 400
"""Records of -log SNR, at most, without that before sleep."""

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
        presentation: of the records, (R,); the first is before sleep, the last the end.
        neg_log_snr: -log SNR, (R,).
        mean_kept: norm of the mean, of that before sleep, (R,).
        mean_drift: distance of the mean from that before sleep, of its norm, (R,).
        theory_minimum: -log SNR where the ideal circuit ends with these weights (Eq. 5).
        theory_end: -log SNR where this circuit ends, if it settles at once and sleeps for ever (Eq. 24).
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
    try:
        problem = prepared(setting)
        run = _sleep(problem, progress)
        records = recorded(run, setting.weights)
        best = int(records.presentation[np.argmin(records.neg_log_snr)])
        now_at = min(best if now_at is None else now_at, setting.presentations)
        now = run.weights if now_at == setting.presentations else _weights_after(problem, now_at, progress)
    except (DivergenceError, ValueError):
        return setting.diverged()
    return Answer(
        setting,
        watch(setting, problem),
        *records,
        theory_minimum(setting),
        theory_end(setting),
        setting.weights,
        now,
        run.weights,
        now_at,
        time.perf_counter() - start,
    )


def prepared(setting: Setting) -> Problem:
    """The whole sleep; raises ValueError where its learning rates are refused."""
    return prepare_sleep(
        setting.weights,
        setting.stimulus,
        setting.circuit,
        setting.rule,
        record_every=record_every(setting),
        presentations=setting.presentations,
        seed=setting.seed,
    )


def _sleep(problem: Problem, progress: Progress | None) -> SleepRun:
    engine = Exact()
    run = SleepRun.of(problem, engine.run(problem, progress or False), engine)
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def _weights_after(problem: Problem, presentations: int, progress: Progress | None) -> Array:
    """The weights (N, K) after the first presentations of a sleep that was checked as a whole.

    A sleep of these presentations alone might be refused for the high learning rates at its start.
    """
    if not presentations:
        return problem.weights[0]
    first = replace(problem, rates=problem.rates[:presentations], record_every=presentations)
    return _sleep(first, progress).weights


class Records(NamedTuple):
    """Records of one or more sleeps; the last is their end. ``mean_`` is of the norm of the mean before sleep.

    Attributes:
        presentation: (R,), from 0.
        neg_log_snr, mean_kept, mean_drift: as in `Answer`, (..., R).
    """

    presentation: NDArray[np.int64]
    neg_log_snr: Array
    mean_kept: Array
    mean_drift: Array


def recorded(run: SleepRun, before: Array) -> Records:
    """The records of a run, with the end where it lies between two of them; ``before`` are the weights (N, K)."""
    at, values = run.presentation, np.stack([run.neg_log_snr, run.mean_norm, run.mean_drift])
    if at[-1] < run.presentations:
        end = np.stack(list(measure_weights(run.weights, before.mean(-2)).values()))
        at, values = np.append(at, run.presentations), np.concatenate([values, end[..., None]], -1)
    curve, norm, drift = values
    return Records(at, curve, norm / norm[..., :1], drift / norm[..., :1])


def record_every(setting: Setting) -> int:
    """Presentations between two records; the end is recorded in any case."""
    return math.ceil(setting.presentations / RECORDS)


def theory_minimum(setting: Setting) -> float:
    """-log SNR at the fixed point of the ideal circuit (Eq. 5) from these weights, with noise as in `theory_end`."""
    return _theory(setting, math.inf)


def theory_end(setting: Setting) -> float:
    """-log SNR at the fixed point of the steady-state circuit (Eq. 24), with noise as in `theory.fixed_point`."""
    return _theory(setting, setting.alpha)


def _theory(setting: Setting, alpha: float) -> float:
    end = theory.fixed_point(setting.weights, np.eye(setting.k**2), setting.gamma, alpha, setting.noise)
    return float(theory.neg_log_snr(end))


def watch(setting: Setting, problem: Problem | None = None) -> Responses:
    """The first presentations step by step; the fixed point is that of the weights at each time step.

    Args:
        setting: a stable one.
        problem: its `prepared` sleep, if there is one already.
    """
    problem = problem or prepared(setting)
    literal, steps = literal_steps(problem), setting.circuit.updates_per_presentation
    r, r_inh, z = [], [], []
    for _, x in islice(problem.blocks(1), WATCHED):
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
    records = recorded(run, setting.weights)
    return records.presentation, records.neg_log_snr
