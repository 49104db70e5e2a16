"""The result of a sleep: weights, records and parameters, with labelled axes on request."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bioshare.checks import Array
from bioshare.circuit.circuits import Circuit, RateCircuit
from bioshare.circuit.labels import labels, named_axes
from bioshare.circuit.problem import Engine, Outcome, Problem, measure_weights
from bioshare.circuit.recording import RECORDABLE
from bioshare.circuit.rules import Hebbian
from bioshare.circuit.saved import loaded, names_itself, saved_circuit, saved_rule, saved_stimulus
from bioshare.circuit.stimuli import Stimulus
from bioshare.circuit.views import sleep_figure, sleep_table
from bioshare.machine import versions

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

VERSIONED = ("numpy", "torch", "numba", "brian2", "xarray")


@dataclass(frozen=True, eq=False, repr=False)
class SleepRun:
    """Result of `bioshare.simulate`; the leading axes (...) belong to the weights and the parameters.

    Attributes:
        weights: after sleep, (..., N, K).
        neg_log_snr: log mean_j(var_j / mean_j^2), natural log, before sleep, after every recorded presentation, and
            of ``weights`` at the end, (..., records).
        mean_norm: Euclidean norm of the mean weight vector, (..., records).
        mean_drift: distance of the mean weight vector from the mean before sleep, (..., records).
        presentation: number of presentations before each record, (records,), from 0.
        summed_rate: sum of the learning rates of all updates before each record, (records,).
        rates: learning rates of all updates, (presentations, updates per presentation).
        r, r_inh: responses after the last update, (..., N) and (...).
        circuit, rule, engine: the arguments; in a run from a file the engine is a text.
        stimulus, seed: source of the inputs; None for an array of inputs.
        presentations: number of complete presentations.
        interrupted: True if Ctrl-C stopped the sleep early.
        seconds: wall-clock time of each phase of the engine.
        recorded: samples in time of the quantities to record: "r" (..., samples, N), "r_inh" (..., samples) and
            "weights" (..., samples, N, K); the first sample is the state before sleep.
        update: number of weight updates before each sample, (samples,), from 0.
    """

    weights: Array
    neg_log_snr: Array
    mean_norm: Array
    mean_drift: Array
    presentation: NDArray[np.int64]
    summed_rate: Array
    rates: Array
    r: Array
    r_inh: Array
    circuit: Circuit
    rule: Hebbian
    engine: Engine | str
    stimulus: Stimulus | str | None
    seed: int | None
    presentations: int
    interrupted: bool
    seconds: dict[str, float] = field(default_factory=dict)
    recorded: dict[str, Array] = field(default_factory=dict)
    update: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @staticmethod
    def of(problem: Problem, outcome: Outcome, engine: Engine) -> SleepRun:
        """Give an engine's outcome the leading axes of the problem."""
        shape = lambda array: array.reshape(problem.batch + array.shape[1:])
        measured = outcome.records
        presentation = problem.record_every * np.arange(measured["neg_log_snr"].shape[-1])
        if presentation[-1] < outcome.presentations:  # the end is a record, too
            end = measure_weights(outcome.weights, problem.weights.mean(-2))
            measured = {name: np.append(values, end[name][:, None], -1) for name, values in measured.items()}
            presentation = np.append(presentation, outcome.presentations)
        records = {name: shape(values) for name, values in measured.items()}
        summed = np.concatenate([[0.0], problem.rates.sum(-1).cumsum()])
        if missing := [name for name in problem.sampling.names if name not in outcome.recorded]:
            raise ValueError(f"record must be left out: the engine {engine!r} has not recorded {', '.join(missing)}")
        samples = next((values.shape[1] for values in outcome.recorded.values()), 0)
        return SleepRun(
            weights=shape(outcome.weights),
            r=shape(outcome.r),
            r_inh=shape(outcome.r_inh),
            presentation=presentation,
            summed_rate=summed[presentation],
            rates=problem.rates[: outcome.presentations],
            circuit=problem.circuit,
            rule=problem.rule,
            engine=engine,
            stimulus=problem.stimulus,
            seed=problem.seed,
            presentations=outcome.presentations,
            interrupted=outcome.presentations < problem.presentations,
            seconds=outcome.seconds,
            recorded={name: shape(values) for name, values in outcome.recorded.items()},
            update=problem.sampling.every * np.arange(samples),
            **records,
        )

    @property
    def time(self) -> Array:
        """Time of each sample of ``recorded`` in milliseconds, (samples,); a SteadyState has none."""
        if not isinstance(self.circuit, RateCircuit):
            raise AttributeError("a SteadyState has no time; use update, the number of presentations before a sample")
        return self.circuit.dt * self.update.astype(np.float64)

    def __repr__(self) -> str:
        start, end = np.median(self.neg_log_snr[..., 0]), np.median(self.neg_log_snr[..., -1])
        done = f"{self.presentations} presentations{', interrupted' if self.interrupted else ''}"
        inputs = f"{self.stimulus}, seed {self.seed}" if self.stimulus else "stimuli from an array"
        return (
            f"SleepRun: weights {self.weights.shape}, {done}, -log SNR {start:.2f} to {end:.2f} (median)\n"
            f"  {self.circuit}\n  {self.rule}\n  {inputs}\n  {self.engine}"
        )

    def to_xarray(self) -> xr.Dataset:
        """The run as a Dataset with the axes run, gamma, alpha, presentation, neuron, input.

        An axis with exactly one varying parameter has the parameter's name and values; the remaining leading axes
        are called run (run_1, run_2, ... from the second). Every scalar parameter, the seed and the versions are
        attributes, also after ``to_netcdf(path)``; variables have a long_name and units. A learning rate that is a
        function without a name is stored as the rates that it returned.

        Several settings or seeds are best one call with leading axes. To join runs of several calls, give each a
        coordinate: ``xr.concat([run.to_xarray().assign_coords(seed=run.seed) for run in runs], "seed",
        combine_attrs="drop_conflicts")``.
        """
        import xarray as xr

        lead, coordinates = named_axes(self.weights.shape[:-2], self._parameters())
        axes = {"r": (*lead, "neuron"), "r_inh": lead, "weights": (*lead, "neuron", "input")}
        variables = {name: (axes[name], getattr(self, name)) for name in axes}
        for name in ("neg_log_snr", "mean_norm", "mean_drift"):
            variables[name] = ((*lead, "presentation"), getattr(self, name))
        variables["summed_rate"] = (("presentation",), self.summed_rate)
        coordinates["presentation"] = (("presentation",), self.presentation)
        for name, values in self.recorded.items():
            variables[f"{name}_recorded"] = ((*lead, "update", *axes[name][len(lead) :]), values)
        if self.recorded:
            coordinates["update"] = (("update",), self.update)
            if isinstance(self.circuit, RateCircuit):
                coordinates["time"] = (("update",), self.time)
        if callable(self.rule.learning_rate) and not names_itself(self.rule.learning_rate):
            variables["learning_rate"] = (("weight_update",), self.rates.ravel())
        variables, coordinates = (
            {name: (*entry, labels(name)) for name, entry in entries.items()} for entries in (variables, coordinates)
        )
        return xr.Dataset(variables, coordinates, self._attributes())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> SleepRun:
        """The run of a netCDF file written by ``run.to_xarray().to_netcdf(path)``.

        Engine and functions come back as texts, learning rates of a function as `rules.Tabulated`.

        Raises:
            ValueError: the file has no sleep.
        """
        data = loaded(path, "SleepRun", ("neg_log_snr", "weights", "r_inh"))
        names = ("weights", "neg_log_snr", "mean_norm", "mean_drift", "presentation", "summed_rate", "r", "r_inh")
        arrays: dict[str, Any] = {name: data[name].values for name in names}
        recorded = {name: data[f"{name}_recorded"].values for name in RECORDABLE if f"{name}_recorded" in data}
        seed, circuit, rule = data.attrs["seed"], saved_circuit(data), saved_rule(data)
        updates = int(data.attrs["presentations"]), circuit.updates_per_presentation
        return SleepRun(
            **arrays,
            rates=rule.rates(updates[0] * updates[1]).reshape(updates),
            circuit=circuit,
            rule=rule,
            engine=data.attrs["engine"],
            stimulus=saved_stimulus(data),
            seed=None if isinstance(seed, str) else int(seed),
            presentations=updates[0],
            interrupted=bool(data.attrs["interrupted"]),
            recorded=recorded,
            update=data["update"].values if recorded else np.zeros(0, np.int64),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """The records as a data frame of pandas with one row for every record of every leading entry."""
        records = ["neg_log_snr", "mean_norm", "mean_drift", "summed_rate"]
        return self.to_xarray()[records].to_dataframe().reset_index()

    def plot(self) -> Figure:
        """Draw -log SNR and what is left of the mean against the presentation, a line for every leading entry.

        Runs with equal parameters look alike. A notebook shows the figure; a script saves it, as in
        ``run.plot().savefig("sleep.png")``.
        """
        return sleep_figure(self)

    def _repr_html_(self) -> str:
        return sleep_table(self)

    def _parameters(self) -> dict[str, Any]:
        return self.circuit.fields() | self.rule.fields()

    def _attributes(self) -> dict[str, Any]:
        parameters = self._parameters().items()
        attributes: dict[str, Any] = {
            name: int(value) if isinstance(value, bool) else value  # netCDF has no truth values
            for name, value in parameters
            if isinstance(value, int | float)
        }
        rate = self.rule.learning_rate
        if callable(rate):
            attributes["learning_rate"] = getattr(rate, "__qualname__", None) or " ".join(repr(rate).split())
        attributes |= {
            "circuit": type(self.circuit).__name__,
            "engine": str(self.engine),
            "stimulus": str(self.stimulus) if self.stimulus else "an array",
            "seed": "none" if self.seed is None else self.seed,
            "presentations": self.presentations,
            "interrupted": int(self.interrupted),
        }
        return attributes | versions(*VERSIONED)
