"""The sleeps of the saved page: a grid over learning rate, noise, alpha and gamma."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from bioshare.checks import Array
from bioshare.circuit.exact.engine import RECORDED, Exact, chunk_length, groups_for
from bioshare.circuit.prepare import check_progress, prepare_sleep
from bioshare.circuit.problem import Outcome, Problem, Progress, measure_weights, reported
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import simulate
from bioshare.explorer.result import NOW
from bioshare.explorer.setting import MOMENTUM, SLIDERS, Setting
from bioshare.progress import shows_bar

PAGE_ALPHAS = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
PAGE_GAMMAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1)
PAGE_NOISES = (0.0, 0.1, 0.3)
RATE_FACTORS = (1 / 3, 1, 10 / 3)
"""Learning rates of the page, divided by the learning rate of the setting."""

RECORDS = 100
"""Number of records on the logarithmic axis of presentations, before duplicates are removed."""

SNAPSHOTS = 5
"""Number of presentations with a snapshot of the weights, two in a factor of ten; one is near `NOW`."""

NEURONS, INPUTS = 24, 9
"""Number of neurons and inputs of a snapshot."""

MAX_PRESENTATIONS = 64
"""Largest number of presentations between two calls of ``progress``."""


@dataclass(frozen=True, eq=False)
class PageData:
    """Sleeps on the grid over learning rate, noise, alpha and gamma, (L, S, A, G); C of the sleeps are stable.

    Attributes:
        setting: the values without an axis, and the values at which the page opens.
        axes: values of ``learning_rate``, ``noise``, ``alpha`` and ``gamma``; the values of the setting are included.
        index: index of a stable sleep, or -1 - j for an unstable sleep with ``reasons[j]``, (L, S, A, G).
        reasons: sentences about unstable settings.
        presentation: number of presentations before each record, (R,), from 0.
        neg_log_snr, mean_kept, mean_drift: as in `SettingResult`, in float32, (C, R).
        snapshot_at: number of presentations before each snapshot, (M,).
        before: weights of the first neurons and inputs before sleep, (n, m).
        weights: the snapshots, and last the weights at the lowest -log SNR, (C, M + 1, n, m). The integers 0 to 255
            stand for low to high, with an error of at most (high - low) / 510; weights outside are clipped.
        low, high: the range of the weights before sleep.
    """

    setting: Setting
    axes: dict[str, Array]
    index: NDArray[np.int32]
    reasons: list[str]
    presentation: NDArray[np.int64]
    neg_log_snr: NDArray[np.float32]
    mean_kept: NDArray[np.float32]
    mean_drift: NDArray[np.float32]
    snapshot_at: NDArray[np.int64]
    before: Array
    weights: NDArray[np.uint8]
    low: float
    high: float


def page_axes(setting: Setting) -> dict[str, Array]:
    """Values of the page's sliders; every value of the setting replaces the nearest value."""
    ends = next(slider for slider in SLIDERS if slider.name == "learning_rate")
    rates = [min(max(factor * setting.learning_rate, ends.low), ends.high) for factor in RATE_FACTORS]
    return {
        "learning_rate": np.unique(_replace_nearest(setting.learning_rate, [float(f"{rate:.3g}") for rate in rates])),
        "noise": np.array([0.0, *_replace_nearest(setting.noise, PAGE_NOISES[1:])] if setting.noise else PAGE_NOISES),
        "alpha": _replace_nearest(setting.alpha, PAGE_ALPHAS),
        "gamma": _replace_nearest(setting.gamma, PAGE_GAMMAS),
    }


def _replace_nearest(value: float, values: Sequence[float]) -> Array:
    replaced = np.array(values, float)
    replaced[np.argmin(np.abs(np.log(replaced / value)))] = value
    return replaced


def record_times(presentations: int) -> NDArray[np.int64]:
    """Number of presentations before each record: 0, and even steps on a logarithmic axis, (R,)."""
    return np.unique([0, *np.geomspace(1, presentations, RECORDS).round().astype(int)])


def snapshot_times(presentations: int) -> NDArray[np.int64]:
    """Number of presentations before each snapshot, (M,): records, including the end of the sleep."""
    at = record_times(presentations)[1:]
    wanted = _replace_nearest(NOW, (presentations / 10 ** (np.arange(SNAPSHOTS) / 2)).tolist())
    return np.unique([at[np.argmin(np.abs(np.log(at / presentation)))] for presentation in wanted])


def count_sleeps(setting: Setting) -> int:
    """Number of sleeps on the grid, including unstable sleeps."""
    return math.prod(len(axis) for axis in page_axes(setting).values())


def compute_page_data(setting: Setting, progress: Progress = True) -> PageData:
    """Simulate the setting at every point of the grid; all alpha and gamma in one call of `simulate`.

    Args:
        setting: see `PageData`.
        progress: True for a bar, False for nothing, or a function of the number of finished sleeps, at most
            `count_sleeps`; an exception of this function ends the computation.

    Raises:
        ValueError: all sleeps of the grid are unstable.
    """
    check_progress(progress)
    axes = page_axes(setting)
    rates, noises, alphas, gammas = (axis.tolist() for axis in axes.values())
    index, reasons, sleeps = [], [], []
    with tqdm(total=count_sleeps(setting), disable=not shows_bar(progress is True), desc="sleeps", smoothing=0) as bar:
        tell = (lambda done: bar.update(done - bar.n)) if isinstance(progress, bool) else progress
        for rate, noise in product(rates, noises):
            plane = setting.moved(learning_rate=rate, noise=noise)
            settings = [plane.moved(alpha=alpha, gamma=gamma) for alpha, gamma in product(alphas, gammas)]
            for sleep in _simulate_plane(settings, lambda done: tell(len(index) + done)):
                if isinstance(sleep, str):
                    reasons += [] if sleep in reasons else [sleep]
                    index.append(-1 - reasons.index(sleep))
                else:
                    index.append(len(sleeps))
                    sleeps.append(sleep)
    if not sleeps:
        raise ValueError(f"setting must have a stable one near it to show. {reasons[0]}")
    curves, weights = (np.stack(parts) for parts in zip(*sleeps, strict=True))
    before = setting.weights[:NEURONS, :INPUTS]
    low, high = float(before.min()), float(before.max())
    return PageData(
        setting=setting,
        axes=axes,
        index=np.array(index, np.int32).reshape([len(axis) for axis in axes.values()]),
        reasons=reasons,
        presentation=record_times(setting.presentations),
        neg_log_snr=curves[:, 0],
        mean_kept=curves[:, 1],
        mean_drift=curves[:, 2],
        snapshot_at=snapshot_times(setting.presentations),
        before=before,
        weights=np.rint((weights.clip(low, high) - low) / (high - low) * 255).astype(np.uint8),
        low=low,
        high=high,
    )


StoredSleep = tuple[NDArray[np.float32], NDArray[np.float32]]
"""-log SNR, norm and drift of the mean, (3, R), and weights, (M + 1, n, m)."""


def _simulate_plane(settings: list[Setting], tell: Callable[[int], object]) -> list[StoredSleep | str]:
    """Simulate settings with different alpha and gamma; an unstable setting gives a sentence."""
    tell(0)
    refused = {gamma: _rate_is_refused(settings[0].moved(gamma=gamma)) for gamma in {s.gamma for s in settings}}
    sleeps: list[StoredSleep | str] = [
        reason.words if (reason := setting.unstable) else setting.diverged().words if refused[setting.gamma] else ""
        for setting in settings
    ]
    stable = [i for i, reason in enumerate(sleeps) if not reason]
    if stable:
        simulated = _simulate_stable(
            [settings[i] for i in stable], lambda done: tell(len(settings) - len(stable) + done)
        )
        for i, sleep in zip(stable, simulated, strict=True):
            sleeps[i] = sleep
    tell(len(settings))
    return sleeps


def _rate_is_refused(setting: Setting) -> bool:
    """Return True if `simulate` refuses the learning rate, for any alpha and any number of neurons."""
    arguments = setting.weights[:1], setting.stimulus, setting.circuit_at(1.0), setting.rule
    try:
        prepare_sleep(*arguments, presentations=setting.presentations, seed=setting.seed)
    except ValueError:
        return True
    return False


def _simulate_stable(settings: list[Setting], tell: Callable[[int], object]) -> list[StoredSleep | str]:
    """Simulate settings with stable circuits in one call; a diverging sleep gives a sentence."""
    first = settings[0]
    engine = SnapshotEngine(record_times(first.presentations))
    alphas, gammas = (np.array([getattr(setting, name) for setting in settings]) for name in ("alpha", "gamma"))
    simulate(
        first.weights,
        first.stimulus,
        first.circuit_at(alphas),
        Hebbian(gammas, MOMENTUM, learning_rate=first.rule.learning_rate),
        engine,
        record_every=first.presentations,
        presentations=first.presentations,
        seed=first.seed,
        progress=lambda done: tell(len(settings) * done // first.presentations),
    )
    snapshots = np.searchsorted(engine.presentation, snapshot_times(first.presentations)).tolist()
    curves = engine.curves.swapaxes(0, 1).copy()  # (B, 3, R)
    curves[:, 1:] /= engine.curves[1, :, None, :1]  # divided by the norm before sleep, (B, 1, 1)
    curves = curves.astype(np.float32)
    return [
        setting.diverged().words
        if diverged
        else (curves[b], engine.weights[[*snapshots, curves[b, 0].argmin()], b].astype(np.float32))
        for b, (setting, diverged) in enumerate(zip(settings, engine.diverged, strict=True))
    ]


@dataclass
class SnapshotEngine:
    """The engine "exact" with snapshots of the weights, for `bioshare.simulate` with a single record at the end.

    A group with diverging weights does not stop the other groups: no DivergenceError is raised. The curves of a
    diverged group are NaN, and the weights return to the weights before sleep.

    Args:
        presentation: number of presentations before each snapshot, (R,), from 0 to the end of the sleep.

    Attributes:
        curves: -log SNR, norm of the mean and drift of the mean at the snapshots, (3, B, R).
        weights: weights of the first neurons and inputs, (R, B, n, m).
        diverged: mask of the diverged groups, (B,).
    """

    presentation: NDArray[np.int64]
    curves: Array = field(default_factory=lambda: np.empty(0))
    weights: Array = field(default_factory=lambda: np.empty(0))
    diverged: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    @torch.no_grad()
    def run(self, problem: Problem, progress: Progress = True) -> Outcome:
        """Simulate a checked sleep."""
        engine = Exact(threads=torch.get_num_threads() if problem.per_neuron else None)
        groups = groups_for(problem, engine)
        self.diverged = np.zeros(len(problem.weights), bool)
        self.curves = np.full((3, len(self.diverged), len(self.presentation)), np.nan)
        self.weights = np.zeros((len(self.presentation), *problem.weights[:, :NEURONS, :INPUTS].shape))
        mean = problem.weights.mean(-2)  # before sleep, (B, K)
        inputs, length = problem.drawn(1), min(MAX_PRESENTATIONS, chunk_length(problem))
        times = {*self.presentation.tolist(), *range(0, problem.presentations, length)}
        snapshot = {presentation: i for i, presentation in enumerate(self.presentation.tolist())}
        end = problem.weights, problem.weights[..., 0], problem.weights[:, 0, 0]
        with engine.torch_threads(problem.weights.size), reported(progress, problem.presentations) as tell:
            state = groups.at_rest()
            for start, stop in [(0, 0), *pairwise(sorted(times))]:
                if stop:
                    x = np.concatenate([x for _, x in islice(inputs, stop - start)], 1)  # (S, T, K) or (S, T, N, K)
                    state, within, *_ = groups.advance(state, x, start, [])
                    self.diverged |= ~np.asarray(within).all(1)
                    tell(stop)
                if stop in snapshot:
                    weights, r, r_inh = map(np.asarray, groups.end(state))
                    end = np.where(self.diverged[:, None, None], problem.weights, weights), r, r_inh
                    measured = list(measure_weights(end[0], mean).values())
                    self.curves[..., snapshot[stop]] = np.where(self.diverged, np.nan, measured)
                    self.weights[snapshot[stop]] = end[0][:, :NEURONS, :INPUTS]
                if self.diverged.all():
                    break
            tell(problem.presentations)
        records: dict[str, Array] = dict(zip(RECORDED, self.curves[..., [0, -1]], strict=True))
        return Outcome(*end, records, problem.presentations)
