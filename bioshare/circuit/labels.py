"""The labels of a stored sleep: long names and units of every variable and coordinate."""

from __future__ import annotations

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
}
MILLISECONDS = ("tau", "time")


def labels(name: str) -> dict[str, str]:
    """Long name and unit of a variable; the unit of a number without dimension is 1."""
    return {"long_name": LONG_NAMES[name], "units": "ms" if name in MILLISECONDS else "1"}
