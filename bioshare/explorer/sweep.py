"""The map over alpha and gamma: where a sleep ends, how deep it gets, when, and what it costs the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bioshare.checks import Array, real_array
from bioshare.circuit.circuits import RateCircuit
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.simulate import simulate
from bioshare.circuit.theory import max_alpha
from bioshare.explorer.answer import Progress, record_every, recorded
from bioshare.explorer.setting import DT, DURATION, MOMENTUM, Setting

if TYPE_CHECKING:
    import xarray as xr

ALPHAS, GAMMAS = (
    np.array([float(f"{value:.3g}") for value in np.geomspace(*ends)]) for ends in ((0.5, 100, 12), (1e-4, 1, 13))
)
"""Of the map, rounded to the three digits that a slider shows."""


def sweep(
    setting: Setting, alphas: ArrayLike = ALPHAS, gammas: ArrayLike = GAMMAS, progress: Progress | None = None
) -> xr.Dataset:
    """Let the group sleep at every alpha and gamma, all in one call of `bioshare.simulate`.

    Args:
        setting: everything but alpha and gamma.
        alphas, gammas: the grid, (A,) and (G,).
        progress: called with the number of presentations done; what it raises ends the simulation.

    Returns:
        A Dataset over alpha, gamma and presentation: ``neg_log_snr`` and ``mean_kept`` of every record, and
        ``end``, ``best``, ``time_of_best`` (presentations) and ``drift`` (of the mean at the end, of its norm before
        sleep). NaN where alpha is unstable.

    Raises:
        ValueError: no alpha of the grid is stable.
        DivergenceError: the learning rate makes a sleep of the grid diverge.
    """
    import xarray as xr

    alphas, gammas = _axis("alphas", alphas), _axis("gammas", gammas)
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
    records, axes = recorded(run, setting.weights), ("alpha", "gamma", "presentation")
    data = xr.Dataset(
        {"neg_log_snr": (axes, records.neg_log_snr), "mean_kept": (axes, records.mean_kept)},
        {"alpha": alphas[stable], "gamma": gammas, "presentation": records.presentation},
        {name: value for name, value in setting.values().items() if name not in ("alpha", "gamma")},
    )
    data["end"] = data.neg_log_snr.isel(presentation=-1)
    data["best"] = data.neg_log_snr.min("presentation")
    data["time_of_best"] = data.neg_log_snr.idxmin("presentation").astype(float)
    data["drift"] = (("alpha", "gamma"), records.mean_drift[..., -1])
    return data.reindex(alpha=alphas)


def _axis(name: str, values: ArrayLike) -> Array:
    array = np.atleast_1d(real_array(name, values, "a row of positive numbers"))
    if array.ndim != 1 or not np.all((array > 0) & np.isfinite(array)) or np.any(np.diff(array) <= 0):
        raise ValueError(f"{name} must be a row of positive numbers that rise; got {values}")
    return array
