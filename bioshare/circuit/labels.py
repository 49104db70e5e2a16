"""The labels of a stored sleep: long names and units of every variable and coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np

LONG_NAMES = {
    "neg_log_snr": "log mean_j(var_j / mean_j^2)",
    "mean_norm": "norm of the mean weight vector",
    "mean_drift": "distance of the mean from that before sleep",
    "summed_rate": "learning rates until then, summed",
    "weights": "weights after sleep",
    "r": "responses after the last update",
    "r_inh": "response of the inhibitory neuron",
    "weights_recorded": "weights in time",
    "r_recorded": "responses in time",
    "r_inh_recorded": "response of the inhibitory neuron in time",
    "learning_rate": "learning rates of all weight updates",
    "presentation": "presentations before the record",
    "update": "weight updates before the sample",
    "time": "time of the sample",
    "alpha": "strength of the inhibition",
    "gamma": "strength of the pull to the weights before sleep",
    "momentum": "momentum",
    "tau": "membrane time constant",
    "bias": "rate without input",
    "feedback": "feedback weights after the mirror",
    "angle": "angle between feedback and forward weights",
    "ratio": "norm of the feedback weights over the norm of the forward weights",
    "y": "rates of the forward neurons after the last time step",
    "below": "rates of the feedback cells below after the last time step",
    "above": "rates of the feedback cells above after the last time step",
    "tau_crosstalk": "time constant of the feedback cells",
    "baseline": "rate without input",
    "rate": "learning rate per millisecond",
    "decay": "decay of the feedback weights inside the rate",
}
UNITS = {"tau": "ms", "tau_crosstalk": "ms", "time": "ms", "rate": "ms-1", "angle": "degree"}


def labels(name: str) -> dict[str, str]:
    """Long name and unit of a variable; the unit of a number without dimension is 1."""
    return {"long_name": LONG_NAMES[name], "units": UNITS.get(name, "1")}


def named_axes(lead: tuple[int, ...], parameters: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the leading axes, and the varying parameters as coordinates."""
    names: list[str | None] = [None] * len(lead)
    varying = {name: value for name, value in parameters.items() if isinstance(value, np.ndarray)}
    # a parameter that varies along a single axis gives the axis a name
    for name, value in varying.items():
        axes = [axis + len(lead) - value.ndim for axis, length in enumerate(value.shape) if length > 1]
        if len(axes) == 1 and names[axes[0]] is None:
            names[axes[0]] = name
    unnamed = iter(["run"] + [f"run_{i}" for i in range(1, len(lead))])
    dims = tuple(name or next(unnamed) for name in names)
    coordinates = {}
    for name, value in varying.items():
        aligned = value.reshape((1,) * (len(lead) - value.ndim) + value.shape)
        axes = tuple(axis for axis, length in enumerate(aligned.shape) if length > 1)
        squeezed = aligned.reshape([aligned.shape[axis] for axis in axes])
        coordinates[name] = (tuple(dims[axis] for axis in axes), squeezed)
    return dims, coordinates
