"""The map over alpha and gamma: -log SNR at the end, the lowest -log SNR, its time, and the drift of the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, real_array
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import simulate
from bioshare.circuit.theory import max_alpha
from bioshare.explorer.result import ProgressFunction, record_every, records_of
from bioshare.explorer.setting import DT, DURATION, MOMENTUM, Setting

if TYPE_CHECKING:
    import xarray as xr

ALPHAS, GAMMAS = (
    np.array([float(f"{value:.3g}") for value in np.geomspace(*ends)]) for ends in ((0.5, 100, 12), (1e-4, 1, 13))
)
"""Axes of the map, with the three digits of a slider."""


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
    stable = alphas < max_alpha(DT, setting.tau)
    if not stable.any():
        raise ValueError(f"alphas must have one below {float(max_alpha(DT, setting.tau)):g}; got {alphas}")
    run = simulate(
        setting.weights,
        setting.stimulus,
        RateCircuit(alphas[stable][:, None], setting.tau, setting.bias, DT, DURATION),
        Hebbian(gammas, MOMENTUM, learning_rate=setting.rule.learning_rate),
        record_every=record_every(setting),
        presentations=setting.presentations,
        seed=setting.seed,
        progress=progress or False,
    )
    presentation, neg_log_snr, mean_kept, mean_drift = records_of(run, setting.weights)
    axes = ("alpha", "gamma", "presentation")
    data = xr.Dataset(
        {"neg_log_snr": (axes, neg_log_snr), "mean_kept": (axes, mean_kept)},
        {"alpha": alphas[stable], "gamma": gammas, "presentation": presentation},
        {name: value for name, value in setting.values().items() if name not in ("alpha", "gamma")},
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
