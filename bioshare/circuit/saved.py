"""Parameters of a sleep from the attributes and coordinates of a stored result."""

from __future__ import annotations

import ast
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bioshare.checks import shown
from bioshare.circuit.circuits import Circuit, RateCircuit, SteadyState
from bioshare.circuit.mirror.circuit import MirrorCircuit
from bioshare.circuit.rules import Gated, Hebbian, InverseDecay, InverseSqrtDecay, Schedule, Tabulated
from bioshare.circuit.stimuli import Gaussian, Grid, Stimulus
from bioshare.files import expanded

if TYPE_CHECKING:
    import xarray as xr

SCHEDULES = {schedule.__name__: schedule for schedule in (InverseDecay, InverseSqrtDecay, Gated)}
STIMULI = {"Gaussian": Gaussian, "Grid": Grid}


def loaded(path: str | os.PathLike[str], run: str, variables: tuple[str, ...]) -> xr.Dataset:
    """The data of a stored run, with the given variables, or an error that names the path."""
    import xarray as xr

    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the name of a file; got {shown(path)}")
    expected = f"path must be a file of {run}.to_xarray().to_netcdf(path)"
    try:
        data = xr.load_dataset(expanded(path))
    except ValueError as error:
        raise ValueError(f"{expected}; {error}") from error
    if not set(variables) <= set(data) or "circuit" not in data.attrs:
        raise ValueError(f"{expected}; got {path}")
    return data


def built(text: str, classes: dict[str, Any]) -> Any:
    """The object of a text such as ``InverseDecay(scale=0.5, offset=1000.0)``; None for any other text."""
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in classes and not call.args:
            arguments = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
            return classes[call.func.id](**arguments)
    except (SyntaxError, ValueError, TypeError):
        pass
    return None


def saved_mirror_circuit(data: xr.Dataset) -> MirrorCircuit:
    """The circuit of a stored mirror."""
    parameters: dict[str, Any] = {
        field.name: _parameter(data, field.name) for field in dataclasses.fields(MirrorCircuit)
    }
    if isinstance(parameters["gate"], str):
        parameters["gate"] = None
    return MirrorCircuit(**parameters)


def saved_circuit(data: xr.Dataset) -> Circuit:
    """The circuit of a stored sleep."""
    circuit = {"SteadyState": SteadyState, "RateCircuit": RateCircuit}[data.attrs["circuit"]]
    names = [field.name for field in dataclasses.fields(circuit) if _has(data, field.name)]
    parameters = {name: _parameter(data, name) for name in names}
    if "inhibitory_bias" in parameters:
        parameters["inhibitory_bias"] = bool(parameters["inhibitory_bias"])
    return circuit(**parameters)


def saved_rule(data: xr.Dataset) -> Hebbian:
    """The rule of a stored sleep; a function without a name has become the rates that it returned."""
    rate: Schedule | float
    if "learning_rate" in data:
        rate = Tabulated(data["learning_rate"].values)
    elif isinstance(stored := data.attrs["learning_rate"], str):
        rate = built(stored, SCHEDULES)
    else:
        rate = float(stored)
    return Hebbian(_parameter(data, "gamma"), _parameter(data, "momentum"), learning_rate=rate)


def saved_stimulus(data: xr.Dataset) -> Stimulus | str | None:
    """The stimulus of a stored sleep, the text of one that only the program knew, or None for an array."""
    text = data.attrs["stimulus"]
    return None if text == "an array" else built(text, STIMULI) or text


def names_itself(schedule: Any) -> bool:
    """True for a schedule whose text is enough to make the schedule again."""
    return built(repr(schedule), SCHEDULES) is not None


def _has(data: xr.Dataset, name: str) -> bool:
    return name in data.coords or name in data.attrs


def _parameter(data: xr.Dataset, name: str) -> Any:
    """A number, or an array over the leading axes of the weights with length 1 where nothing varies."""
    if name not in data.coords:
        return data.attrs[name].item() if hasattr(data.attrs[name], "item") else data.attrs[name]
    lead = data["weights"].dims[:-2]
    values = data[name].transpose(*(dim for dim in lead if dim in data[name].dims))
    return np.reshape(values.values, [data.sizes[dim] if dim in values.dims else 1 for dim in lead])
