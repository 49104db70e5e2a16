"""`simulate_mirror`: check a mirror, call an engine, return a MirrorRun."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bioshare.checks import Array, choice
from bioshare.circuit.labels import labels, named_axes
from bioshare.circuit.mirror.circuit import MirrorCircuit
from bioshare.circuit.mirror.problem import Inputs, angle_and_ratio, prepare_mirror
from bioshare.circuit.prepare import check_progress
from bioshare.circuit.problem import Progress, reported
from bioshare.circuit.saved import loaded, saved_mirror_circuit, saved_stimulus
from bioshare.circuit.stimuli import Stimulus
from bioshare.circuit.views import mirror_figure
from bioshare.machine import versions

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

ENGINES = {"exact": "exact:mirror_exact", "brian2": "brian:mirror_brian", "loop": "loop:mirror_loop"}


@dataclass(frozen=True, eq=False, repr=False)
class MirrorRun:
    """Result of `bioshare.simulate_mirror`; the leading axes (...) belong to the weights and the parameters.

    Attributes:
        weights: W, (..., N, K).
        feedback: B after the mirror, (..., N, K), in the order of W.
        angle: angle between B and W in degrees, before the mirror, after every recorded presentation and at the end,
            (..., records); NaN where B is 0.
        ratio: norm of B over the norm of W, (..., records).
        presentation: number of presentations before each record, (records,), from 0.
        y, below, above: rates after the last time step of the forward neurons (..., N), and of the feedback cells (...,
            K) and (..., N).
        circuit, engine: the arguments.
        stimulus, seed: source of the inputs; None for an array of inputs; the text of a function in a run from a file.
        presentations: number of complete presentations.
        interrupted: True if Ctrl-C stopped the mirror early.
    """

    weights: Array
    feedback: Array
    angle: Array
    ratio: Array
    presentation: NDArray[np.int64]
    y: Array
    below: Array
    above: Array
    circuit: MirrorCircuit
    engine: str
    stimulus: Stimulus | str | None
    seed: int | None
    presentations: int
    interrupted: bool = False

    def __repr__(self) -> str:
        angle, ratio = map(np.median, angle_and_ratio(self.feedback, self.weights))
        inputs = f"{self.stimulus}, seed {self.seed}" if self.stimulus else "stimuli from an array"
        return (
            f"MirrorRun: weights {self.weights.shape}, {self.presentations} presentations, angle to W {angle:.2f} deg, "
            f"|B| / |W| {ratio:.3g} (median)\n  {self.circuit}\n  {inputs}\n  engine {self.engine}"
        )

    def to_xarray(self) -> xr.Dataset:
        """The run as a Dataset with labelled axes, in the manner of `bioshare.SleepRun.to_xarray`."""
        import xarray as xr

        lead, coordinates = named_axes(self.weights.shape[:-2], self.circuit.fields())
        synapses, neurons = (*lead, "neuron", "input"), (*lead, "neuron")
        axes = {"weights": synapses, "feedback": synapses, "y": neurons, "above": neurons}
        axes |= {"below": (*lead, "input")} | dict.fromkeys(("angle", "ratio"), (*lead, "presentation"))
        describe = lambda name: labels(name) | ({"long_name": "forward weights"} if name == "weights" else {})
        coordinates["presentation"] = (("presentation",), self.presentation)
        scalars = {name: value for name, value in self.circuit.fields().items() if isinstance(value, float)}
        attributes: dict[str, Any] = scalars | {
            "circuit": "MirrorCircuit",
            "gate": "none" if self.circuit.gate is None else self.circuit.gate,
            "engine": self.engine,
            "stimulus": str(self.stimulus) if self.stimulus else "an array",
            "seed": "none" if self.seed is None else self.seed,
            "presentations": self.presentations,
            "interrupted": int(self.interrupted),
        }
        return xr.Dataset(
            {name: (dims, getattr(self, name), describe(name)) for name, dims in axes.items()},
            {name: (*entry, describe(name)) for name, entry in coordinates.items()},
            attributes | versions("numpy", "brian2", "xarray"),
        )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> MirrorRun:
        """The run of a netCDF file written by ``run.to_xarray().to_netcdf(path)``, see `bioshare.SleepRun.load`.

        Raises:
            ValueError: the file has no mirror.
        """
        data = loaded(path, "MirrorRun", ("weights", "feedback", "above"))
        names = ("weights", "feedback", "angle", "ratio", "presentation", "y", "below", "above")
        arrays: dict[str, Any] = {name: data[name].values for name in names}
        seed = data.attrs["seed"]
        return MirrorRun(
            **arrays,
            circuit=saved_mirror_circuit(data),
            engine=data.attrs["engine"],
            stimulus=saved_stimulus(data),
            seed=None if isinstance(seed, str) else int(seed),
            presentations=int(data.attrs["presentations"]),
            interrupted=bool(data.attrs.get("interrupted", False)),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Angle and ratio as a data frame of pandas with one row for every record of every leading entry."""
        return self.to_xarray()[["angle", "ratio"]].to_dataframe().reset_index()

    def plot(self) -> Figure:
        """Draw the angle and the ratio of norms against the presentation, a line for every leading entry."""
        return mirror_figure(self)


def simulate_mirror(
    weights: ArrayLike,
    stimuli: Inputs,
    circuit: MirrorCircuit,
    engine: str = "exact",
    record_every: int = 1,
    *,
    feedback: ArrayLike | None = None,
    presentations: int | None = None,
    seed: int | None = None,
    progress: Progress = True,
) -> MirrorRun:
    """Let feedback weights learn forward weights from noise: a layer in mirror mode, in time.

    Args:
        weights: W, (..., N, K): N neurons with K inputs; leading axes are layers, runs and grid points. W stays.
        stimuli: inputs x (..., P, K), or a Stimulus without noise, drawn anew for every leading entry of the weights,
            or a function of (presentations, inputs, rng) to an array (presentations, inputs). Leading axes of stimuli,
            weights and parameters broadcast.
        circuit: a `MirrorCircuit`.
        engine: "exact", "brian2" (at run time, with the code generation target in Brian2's preferences), or "loop"
            (every step in NumPy).
        record_every: presentations between two records of angle and ratio; the end is a record, too.
        feedback: B before the mirror, (..., N, K) in the order of W; None for 0.
        presentations: P, with a Stimulus or a function.
        seed: seed of the Stimulus or the function; the same seed gives the same bytes.
        progress: True shows a bar when the mirror takes longer than two seconds, False shows nothing. A function is
            called with the number of complete presentations at every record; an error in the function ends the mirror.

    Returns:
        B after the mirror, and the records. After Ctrl-C the run holds the presentations until the last record, with a
        warning.

    Raises:
        TypeError, ValueError: an argument makes no sense; nothing was simulated.

    Example:
        >>> w = np.random.default_rng(0).normal(size=(20, 9))
        >>> run = simulate_mirror(w, np.eye(9), MirrorCircuit(gate=20.0, tau_crosstalk=1.0))
        >>> bool(run.angle[-1] < 1)
        True
    """
    choice("engine", engine, ENGINES)
    check_progress(progress)
    problem = prepare_mirror(weights, stimuli, circuit, feedback, record_every, presentations, seed)
    module, name = ENGINES[engine].split(":")
    simulated = getattr(importlib.import_module(f"bioshare.circuit.mirror.{module}"), name)
    begun = 0, *angle_and_ratio(problem.feedback, problem.weights)
    records, state = [begun], None
    try:
        with reported(progress, problem.stops[-1]) as report:
            for stop, after in simulated(problem):
                record = stop, *angle_and_ratio(after.feedback, problem.weights)
                records, state = [*records, record], after  # both or none, wherever Ctrl-C comes
                report(stop)
    except KeyboardInterrupt:
        if state is None:
            raise
    assert state is not None, "a mirror has at least one presentation"
    presentation, angle, ratio = (np.stack(values, -1) for values in zip(*records, strict=True))
    done, interrupted = int(presentation[-1]), bool(presentation[-1] < problem.stops[-1])
    if interrupted:
        warnings.warn(
            f"interrupted after {done} of {problem.stops[-1]} presentations; "
            "the run holds what was computed until then",
            RuntimeWarning,
            stacklevel=2,
        )
    return MirrorRun(
        problem.weights, state.feedback, angle, ratio, presentation, state.y, state.below, state.above,
        circuit, engine, problem.stimulus, seed, done, interrupted,
    )  # fmt: skip
