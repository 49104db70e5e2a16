"""The sleep of a setting in numbers: responses, -log SNR, mean and weights; and the map over alpha and gamma."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bioshare.checks import Array, real_array, whole
from bioshare.circuit import theory
from bioshare.circuit.exact import Exact
from bioshare.circuit.loop import literal_steps
from bioshare.circuit.prepare import prepare_sleep
from bioshare.circuit.problem import DivergenceError, Problem
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.run import SleepRun
from bioshare.circuit.simulate import simulate
from bioshare.explorer.setting import DT, MOMENTUM, Setting, Unstable

if TYPE_CHECKING:
    import xarray as xr

RESPONSE_PRESENTATIONS, RESPONSE_NEURONS = 3, 5
"""The responses of the first neurons in the first presentations are shown."""

MAX_RECORDS = 400
"""The largest number of records of -log SNR after the start."""

ALPHAS, GAMMAS = (
    np.array([float(f"{value:.3g}") for value in np.geomspace(*ends)]) for ends in ((0.5, 100, 12), (1e-4, 1, 13))
)
"""Axes of the map, with the three digits of a slider."""

NOW = 100
"""Presentations before the first weights "now": halfway in many sleeps, where the weights still differ."""

ProgressFunction = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Responses:
    """Responses in the first presentations at T time steps, and the fixed points of Eq. 9.

    Attributes:
        time: milliseconds, (T,).
        r, r_fixed: the first n excitatory neurons, (T, n).
        r_inh, r_inh_fixed: the inhibitory neuron, (T,).
    """

    time: Array
    r: Array
    r_fixed: Array
    r_inh: Array
    r_inh_fixed: Array


@dataclass(frozen=True, eq=False)
class SettingResult:
    """All numbers of a setting that the panels show.

    Attributes:
        setting: the setting of the sliders.
        responses: the first presentations, time step by time step.
        presentation: number of presentations before each record, (R,), from 0 to the end.
        neg_log_snr: -log SNR, (R,).
        mean_kept, mean_drift: norm of the mean, and distance from the mean before sleep, divided by the norm before
            sleep, (R,).
        theory_minimum: -log SNR at the fixed point of the ideal circuit (Eq. 5).
        theory_end: -log SNR at the end of an endless sleep of this circuit, which learns while its rates settle (Eq. 24
            with `theory.while_settling`).
        before, now, end: weights before sleep, after ``now_at`` presentations, and after sleep, (N, K).
        now_at: number of presentations before ``now``.
        seconds: computing time.
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


def simulate_setting(
    setting: Setting, now_at: int | None = None, progress: ProgressFunction | None = None
) -> SettingResult | Unstable:
    """Simulate a setting with the engine "exact".

    Args:
        setting: the values of the sliders.
        now_at: number of presentations before the weights ``now``; None for the lowest -log SNR.
        progress: called with the number of finished presentations; an exception of this function ends the simulation.

    Returns:
        The numbers of the panels, or the reason why the setting is unstable.
    """
    if now_at is not None:
        whole("now_at", now_at, "a number of presentations", at_least=0)
    start = time.perf_counter()
    if reason := setting.unstable:
        return reason
    try:
        problem = prepare_sleep(**simulate_arguments(setting))
        run = _run_exact(problem, progress)
        records = records_of(run)
        best = int(records[0][np.argmin(records[1])])
        now_at = min(best if now_at is None else now_at, setting.presentations)
        if now_at in (0, setting.presentations):
            now = run.weights if now_at else setting.weights
        else:  # prepare might refuse the first learning rates by themselves
            first = replace(problem, rates=problem.rates[:now_at], record_every=now_at)
            now = _run_exact(first, progress).weights
    except (DivergenceError, ValueError):
        return setting.diverged()
    return SettingResult(
        setting,
        first_responses(setting, problem),
        *records,
        theory_minimum(setting),
        theory_end(setting),
        setting.weights,
        now,
        run.weights,
        now_at,
        time.perf_counter() - start,
    )


def simulate_arguments(setting: Setting) -> dict[str, Any]:
    """The arguments of `bioshare.simulate` for a setting."""
    return {
        "weights": setting.weights,
        "stimuli": setting.stimulus,
        "circuit": setting.circuit,
        "rule": setting.rule,
        "record_every": record_every(setting),
        "presentations": setting.presentations,
        "seed": setting.seed,
    }


def _run_exact(problem: Problem, progress: ProgressFunction | None) -> SleepRun:
    engine = Exact()
    run = SleepRun.of(problem, engine.run(problem, progress or False), engine)
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def records_of(run: SleepRun) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """Presentation (R,), -log SNR (..., R), and norm and drift of the mean, divided by the norm before, (..., R)."""
    norm = run.mean_norm[..., :1]
    return run.presentation, run.neg_log_snr, run.mean_norm / norm, run.mean_drift / norm


def record_every(setting: Setting) -> int:
    """Number of presentations between two records."""
    return math.ceil(setting.presentations / MAX_RECORDS)


def theory_minimum(setting: Setting) -> float:
    """-log SNR at the fixed point of the ideal circuit (Eq. 5), with noise as in `theory.fixed_point`."""
    return _end(setting, math.inf, setting.gamma)


def theory_end(setting: Setting) -> float:
    """-log SNR at the fixed point of this circuit, which learns while its rates settle, with noise."""
    circuit = setting.circuit
    h, updates = float(circuit.dt_over_tau), circuit.updates_per_presentation
    return _end(setting, *theory.while_settling(setting.alpha, setting.gamma, h, updates))


def _end(setting: Setting, alpha: ArrayLike, gamma: ArrayLike) -> float:
    end = theory.fixed_point(setting.weights, np.eye(setting.k**2), gamma, alpha, setting.noise)
    return float(theory.neg_log_snr(end))


def first_responses(setting: Setting, problem: Problem | None = None) -> Responses:
    """Responses of a stable setting; the fixed point at a time step belongs to the weights of this time step."""
    problem = problem or prepare_sleep(**simulate_arguments(setting))
    literal, steps = literal_steps(problem), setting.circuit.updates_per_presentation
    r, r_inh, z = [], [], []
    for _, x in islice(problem.blocks(1), RESPONSE_PRESENTATIONS):
        for weights, rates, inhibition in islice(literal, steps):
            z.append((weights[0] * x[0, 0]).sum(-1))  # w_i^T x, (N,)
            r.append(rates[0, :RESPONSE_NEURONS])
            r_inh.append(inhibition[0, 0])
    drive = np.array(z)
    fixed = theory.response(drive[..., None], np.ones(1), setting.alpha, setting.bias)  # Eq. 9, (T, N)
    time = DT * np.arange(1, len(drive) + 1, dtype=np.float64)
    inhibition = fixed.mean(-1) - (setting.bias - setting.circuit.resting_inhibition)  # Eq. 8b at rest, (T,)
    return Responses(time, np.array(r), fixed[:, :RESPONSE_NEURONS], np.array(r_inh), inhibition)


def sweep(
    setting: Setting, alphas: ArrayLike = ALPHAS, gammas: ArrayLike = GAMMAS, progress: ProgressFunction | None = None
) -> xr.Dataset:
    """Simulate a setting at every alpha and gamma, in one call of `bioshare.simulate`.

    Args:
        setting: all values but alpha and gamma.
        alphas, gammas: axes of the map, (A,) and (G,).
        progress: called with the number of finished presentations; an exception of this function ends the simulation.

    Returns:
        A Dataset over alpha, gamma and presentation: ``neg_log_snr`` and ``mean_kept`` at every record, and over alpha
        and gamma ``end``, ``best``, ``time_of_best`` (presentations) and ``drift`` (of the mean at the end, divided by
        the norm before sleep). NaN where alpha is unstable.

    Raises:
        ValueError: no alpha is stable.
        DivergenceError: the learning rate makes a sleep diverge.
    """
    import xarray as xr

    alphas, gammas = _check_axis("alphas", alphas), _check_axis("gammas", gammas)
    stable = alphas < theory.max_alpha(DT, setting.tau)
    if not stable.any():
        raise ValueError(f"alphas must have one below {float(theory.max_alpha(DT, setting.tau)):g}; got {alphas}")
    run = simulate(
        setting.weights,
        setting.stimulus,
        setting.circuit_at(alphas[stable][:, None]),
        Hebbian(gammas, MOMENTUM, learning_rate=setting.rule.learning_rate),
        record_every=record_every(setting),
        presentations=setting.presentations,
        seed=setting.seed,
        progress=progress or False,
    )
    presentation, neg_log_snr, mean_kept, mean_drift = records_of(run)
    axes = ("alpha", "gamma", "presentation")
    data = xr.Dataset(
        {"neg_log_snr": (axes, neg_log_snr), "mean_kept": (axes, mean_kept)},
        {"alpha": alphas[stable], "gamma": gammas, "presentation": presentation},
        {name: +value for name, value in setting.values().items() if name not in ("alpha", "gamma")},  # no bool: netCDF
    )
    data["end"] = data.neg_log_snr.isel(presentation=-1)
    data["best"] = data.neg_log_snr.min("presentation")
    data["time_of_best"] = data.neg_log_snr.idxmin("presentation").astype(float)
    data["drift"] = (("alpha", "gamma"), mean_drift[..., -1])
    return data.reindex(alpha=alphas)


def _check_axis(name: str, values: ArrayLike) -> Array:
    array = np.atleast_1d(real_array(name, values, "a row of positive numbers"))
    if array.ndim != 1 or not np.all((array > 0) & np.isfinite(array)) or np.any(np.diff(array) <= 0):
        raise ValueError(f"{name} must be a row of positive numbers that rise; got {values}")
    return array
