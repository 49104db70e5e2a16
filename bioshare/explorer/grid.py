"""The sleeps of the stand-alone page: a grid over learning rate, noise, alpha and gamma, computed beforehand."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bioshare.checks import Array
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.prepare import check_progress, prepare_sleep
from bioshare.circuit.problem import Progress
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import simulate
from bioshare.explorer.setting import DT, DURATION, MOMENTUM, SLIDERS, Setting
from bioshare.explorer.watching import INPUTS, NEURONS, Watching

ALPHAS = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
GAMMAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1)
NOISES = (0.0, 0.1, 0.3)
RATES = (1 / 3, 1, 10 / 3)
"""Learning rates, of that of the setting."""

RECORDS = 100
"""Positions on the logarithmic axis of presentations; those that fall on the same presentation are one record."""

SNAPSHOTS = 5
"""Presentations after which the weights of every sleep are kept, two in a factor of ten."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Sleeps over learning rate, noise, alpha and gamma, (L, S, A, G), of which C are stable.

    Attributes:
        setting: everything that has no axis, and the values at which the page opens.
        axes: values of ``learning_rate``, ``noise``, ``alpha`` and ``gamma``, those of the setting among them.
        cell: which of the C sleeps; where there is none -1 - j, for the reason ``words[j]``, (L, S, A, G).
        words: why a sleep is unstable.
        presentation: of the records, (R,), from 0.
        neg_log_snr, mean_kept, mean_drift: as in `Answer`, rounded to float32, (C, R).
        kept_at: presentations after which the weights are kept, (M,).
        before: weights of the first neurons and inputs before sleep, (n, m).
        weights: the same after those presentations, and at last where -log SNR is lowest, (C, M + 1, n, m). 0 to 255
            stand for low to high, so that they are rounded by at most (high - low) / 510; what lies beyond is cut.
        low, high: the range of the weights before sleep.
    """

    setting: Setting
    axes: dict[str, Array]
    cell: NDArray[np.int32]
    words: list[str]
    presentation: NDArray[np.int64]
    neg_log_snr: NDArray[np.float32]
    mean_kept: NDArray[np.float32]
    mean_drift: NDArray[np.float32]
    kept_at: NDArray[np.int64]
    before: Array
    weights: NDArray[np.uint8]
    low: float
    high: float


def axes(setting: Setting) -> dict[str, Array]:
    """The values of the sliders; one of the setting takes the place of the nearest, so that no page grows."""
    ends = next(slider for slider in SLIDERS if slider.name == "learning_rate")
    rates = [min(max(factor * setting.learning_rate, ends.low), ends.high) for factor in RATES]
    return {
        "learning_rate": np.unique(_with(setting.learning_rate, [float(f"{rate:.3g}") for rate in rates])),
        "noise": np.array([0.0, *_with(setting.noise, NOISES[1:])] if setting.noise else NOISES),
        "alpha": _with(setting.alpha, ALPHAS),
        "gamma": _with(setting.gamma, GAMMAS),
    }


def _with(own: float, values: Sequence[float]) -> Array:
    """The values, of which the nearest is replaced: by its ratio, all being positive."""
    replaced = np.array(values, float)
    replaced[np.argmin(np.abs(np.log(replaced / own)))] = own
    return replaced


def records(presentations: int) -> NDArray[np.int64]:
    """Presentations of the records: 0, and then evenly on a logarithmic axis, (R,)."""
    return np.unique([0, *np.geomspace(1, presentations, RECORDS).round().astype(int)])


def snapshots(presentations: int) -> NDArray[np.int64]:
    """Presentations after which the weights are kept, each of them a record, the last one the end, (M,)."""
    at, wanted = records(presentations)[1:], presentations / 10 ** (np.arange(SNAPSHOTS) / 2)
    return np.unique([at[np.argmin(np.abs(np.log(at / presentation)))] for presentation in wanted])


def size(setting: Setting) -> int:
    """How many sleeps the grid has, unstable ones included."""
    return math.prod(len(axis) for axis in axes(setting).values())


def compute(setting: Setting, progress: Progress = True) -> Grid:
    """Let the setting's group sleep at every point of the grid; all alpha and gamma in one call of `simulate`.

    Args:
        setting: see `Grid`.
        progress: True for a bar, False for nothing, or a function that is told how many sleeps are done, of
            `size`; what it raises ends the computation.

    Raises:
        ValueError: all sleeps of the grid are unstable.
    """
    values = axes(setting)
    cell = np.empty([len(axis) for axis in values.values()], np.int32)
    words: list[str] = []
    sleeps: list[_Sleep] = []
    check_progress(progress)
    with _telling(progress, cell.size) as tell:
        for place, (rate, noise) in _points(values["learning_rate"], values["noise"]):
            settings = [
                setting.moved(learning_rate=rate, noise=noise, alpha=alpha, gamma=gamma)
                for _, (alpha, gamma) in _points(values["alpha"], values["gamma"])
            ]
            done = int(np.ravel_multi_index((*place, 0, 0), cell.shape))
            for (i, j), sleep in zip(np.ndindex(cell.shape[2:]), _sleeps(settings, _after(done, tell)), strict=True):
                if isinstance(sleep, str):
                    words += [] if sleep in words else [sleep]
                    cell[(*place, i, j)] = -1 - words.index(sleep)
                else:
                    cell[(*place, i, j)] = len(sleeps)
                    sleeps.append(sleep)
    if not sleeps:
        raise ValueError(f"setting must have a stable one near it to show. {words[0]}")
    return _grid(setting, values, cell, words, sleeps)


Tell = Callable[[int], object]


@contextlib.contextmanager
def _telling(progress: Progress, sleeps: int) -> Iterator[Tell]:
    """What is called with the number of sleeps that are done."""
    if not isinstance(progress, bool):
        yield progress
        return
    with tqdm(total=sleeps, disable=not progress, desc="sleeps", smoothing=0) as bar:
        yield lambda done: bar.update(done - bar.n)


def _after(before: int, tell: Tell) -> Tell:
    """Count from ``before``."""
    return lambda done: tell(before + done)


def _points(*axes: Array) -> Iterable[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Indices and values of the points of a grid."""
    for numbered in product(*(enumerate(axis.tolist()) for axis in axes)):
        indices, values = zip(*numbered, strict=True)
        yield indices, values


@dataclass(frozen=True, eq=False)
class _Sleep:
    """Of one sleep: -log SNR, norm of the mean and drift (3, R), and weights (M + 1, n, m)."""

    curves: NDArray[np.float32]
    weights: NDArray[np.float32]


def _sleeps(settings: list[Setting], tell: Tell) -> list[_Sleep | str]:
    """The sleeps of settings that differ in alpha and gamma only, or why they are unstable."""
    found: list[_Sleep | str] = [trouble.words if (trouble := setting.unstable) else "" for setting in settings]
    refused = _refused(settings[0], {setting.gamma for setting in settings}, tell)
    for i, setting in enumerate(settings):
        if not found[i] and setting.gamma in refused:
            found[i] = setting.diverged().words
    left = [i for i, words in enumerate(found) if not words]
    before = len(settings) - len(left)
    for i, sleep in zip(left, _together([settings[i] for i in left], _after(before, tell)), strict=True):
        found[i] = sleep
    tell(len(settings))
    return found


def _refused(setting: Setting, gammas: set[float], tell: Tell) -> set[float]:
    """The gammas with which `simulate` refuses the learning rate, to which alpha and other neurons do not matter."""
    tell(0)
    circuit = RateCircuit(1.0, setting.tau, setting.bias, DT, DURATION)
    rule = Hebbian(np.array(sorted(gammas)), MOMENTUM, learning_rate=setting.rule.learning_rate)
    arguments = (setting.weights[:1], setting.stimulus, circuit, rule)
    try:
        prepare_sleep(*arguments, presentations=setting.presentations, seed=setting.seed)
    except ValueError:
        if len(gammas) == 1:
            return gammas
        return set().union(*(_refused(setting, {gamma}, tell) for gamma in gammas))
    return set()


def _together(settings: list[Setting], tell: Tell) -> list[_Sleep | str]:
    """The sleeps of settings whose circuits are stable, in one call, or why they diverge."""
    if not settings:
        return []
    first = settings[0]
    engine = Watching(records(first.presentations))
    alphas, gammas = (np.array([getattr(setting, name) for setting in settings]) for name in ("alpha", "gamma"))
    simulate(
        first.weights,
        first.stimulus,
        RateCircuit(alphas, first.tau, first.bias, DT, DURATION),
        Hebbian(gammas, MOMENTUM, learning_rate=first.rule.learning_rate),
        engine,
        record_every=first.presentations,
        presentations=first.presentations,
        seed=first.seed,
        progress=lambda done: tell(len(settings) * done // first.presentations),
    )
    sleeps = zip(settings, engine.lost, _kept(engine), strict=True)
    return [setting.diverged().words if lost else sleep for setting, lost, sleep in sleeps]


def _kept(engine: Watching) -> list[_Sleep]:
    """What the page needs of sleeps that were watched, lost ones included."""
    at = engine.presentation
    kept = [int(np.searchsorted(at, presentation)) for presentation in snapshots(int(at[-1]))]
    curves = engine.curves.swapaxes(0, 1).astype(np.float32)
    curves[:, 1:] = (engine.curves[1:] / engine.curves[1, :, :1]).swapaxes(0, 1)
    return [
        _Sleep(its_curves, engine.weights[[*kept, int(its_curves[0].argmin())], b].astype(np.float32))
        for b, its_curves in enumerate(curves)
    ]


def _grid(
    setting: Setting, values: dict[str, Array], cell: NDArray[np.int32], words: list[str], sleeps: list[_Sleep]
) -> Grid:
    curves, weights = (np.stack(parts) for parts in zip(*((s.curves, s.weights) for s in sleeps), strict=True))
    before = setting.weights[:NEURONS, :INPUTS]
    low, high = float(before.min()), float(before.max())
    return Grid(
        setting=setting,
        axes=values,
        cell=cell,
        words=words,
        presentation=records(setting.presentations),
        neg_log_snr=curves[:, 0],
        mean_kept=curves[:, 1],
        mean_drift=curves[:, 2],
        kept_at=snapshots(setting.presentations),
        before=before,
        weights=np.rint((weights.clip(low, high) - low) / (high - low) * 255).astype(np.uint8),
        low=low,
        high=high,
    )
