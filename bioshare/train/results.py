"""Results of training runs: the history of a run as a labelled dataset, and the histories of many runs in one."""

from __future__ import annotations

import datetime
import io
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bioshare.checks import whole
from bioshare.files import replacing
from bioshare.machine import processor, versions
from bioshare.train.config import TrainConfig
from bioshare.train.signals import Signals
from bioshare.train.stored import UnreadableRunError, check_file, check_same, config_of, config_text

RESULT = "result.nc"
"""Name of the file of a result in the folder of a run."""

VERSIONED = ("numpy", "torch", "xarray")
MEANINGS = {
    "train_loss": "cross entropy of the training images, as they were learned",
    "train_accuracy": "training images whose class came first, as they were learned, %",
    "test_loss": "cross entropy of the test images",
    "top1": "test images whose class came first, %",
    "top5": "test images whose class was among the first five, %",
    "learning_rate": "learning rate of the epoch",
    "seconds": "wall-clock time of the epoch's training",
    "sleep_seconds": "part of the training time spent in phases",
    "images_per_second": "training images per second, repetitions included",
    "test_seconds": "wall-clock time of the test after the epoch, and of measuring -log SNR and angles there",
}
"""Quantities of an epoch and their meanings, in the order of the dataset."""

SPENT = ("seconds", "test_seconds")
"""Parts of the wall-clock time of an epoch."""

DRIFTS = {
    "spread": "root of the summed variance of a sharing group after sleep over that before, median over groups",
    "mean_norm": "norm of a group's mean as the circuit left it over that before sleep, median over groups",
    "mean_angle": "angle between a group's means before and after sleep, in degrees, median over groups",
}
"""Measurements of a phase besides -log SNR: fields of `bioshare.bridge.LayerReport` and their meanings."""

Key = TypeVar("Key", bound=tuple[Any, ...])


@dataclass
class History:
    """The past of a run.

    Attributes:
        epochs: the quantities in `MEANINGS` for every complete epoch.
        sharings: number of phases so far.
        layers: names of the layers whose -log SNR is measured.
        snr: measurements of -log SNR: steps of the optimiser so far, whether right after a phase, values by layer.
        drifts: measurements of phases: steps of the optimiser so far, and the `DRIFTS`, each by layer.
        signals: angles of the learning signals of a network with feedback weights or direct feedback.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    sharings: int = 0
    layers: list[str] = field(default_factory=list)
    snr: list[tuple[int, bool, list[float]]] = field(default_factory=list)
    drifts: list[tuple[int, list[list[float]]]] = field(default_factory=list)
    signals: Signals = field(default_factory=Signals)

    def add_snr(self, steps: int, shared: bool, values: Mapping[str, float]) -> None:
        """Add -log SNR by layer, after so many steps of the optimiser, before or right after a phase."""
        self.layers = list(values)
        self.snr.append((steps, shared, list(values.values())))

    def add_report(self, steps: int, report: Any) -> bool:
        """Add the measurements of a phase after so many steps; False for a report without -log SNR of the layers."""
        layers = getattr(report, "layers", ())
        if [layer.name for layer in layers] != self.layers or not layers:
            return False
        for shared, name in ((False, "neg_log_snr_before"), (True, "neg_log_snr_after")):
            self.add_snr(steps, shared, {layer.name: getattr(layer, name) for layer in layers})
        self.drifts.append((steps, [[getattr(layer, name) for layer in layers] for name in DRIFTS]))
        return True

    def tensors(self) -> dict[str, Tensor]:
        """The measurements of -log SNR, steps (n,), shared (n,), values (n, layers), and of the drift."""
        steps, shared, values = zip(*self.snr, strict=True) if self.snr else ((), (), ())
        asleep, drifts = zip(*self.drifts, strict=True) if self.drifts else ((), ())
        layers = len(self.layers)
        return {
            "drift.steps": torch.tensor(asleep, dtype=torch.int64),
            "drift.values": torch.tensor(drifts, dtype=torch.float64).view(len(asleep), len(DRIFTS), layers),
            "snr.steps": torch.tensor(steps, dtype=torch.int64),
            "snr.shared": torch.tensor(shared, dtype=torch.bool),
            "snr.values": torch.tensor(values, dtype=torch.float64).view(len(steps), layers),
        } | self.signals.tensors()

    def facts(self) -> dict[str, Any]:
        """All but the measurements, in the types of JSON."""
        facts = {"epochs": self.epochs, "sharings": self.sharings, "layers": self.layers}
        return facts | self.signals.facts()

    @classmethod
    def restored(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> History:
        """A history from `facts` and `tensors`; other tensors are ignored.

        Raises:
            LookupError, TypeError, ValueError: a part lacks, or has another form.
        """
        snr, drifts = (
            list(zip(*(tensors[name].tolist() for name in names), strict=True))
            for names in (("snr.steps", "snr.shared", "snr.values"), ("drift.steps", "drift.values"))
        )
        own = {name: value for name, value in facts.items() if name != "feedback_layers"}
        signals = Signals.restored(facts.get("feedback_layers", []), tensors, len(facts["epochs"]))
        history = cls(**own, snr=snr, drifts=drifts, signals=signals)
        whole("sharings", history.sharings, "a number of phases", at_least=0)
        layers = len(history.layers)
        shapes = {"snr.values": (len(snr), layers), "drift.values": (len(drifts), len(DRIFTS), layers)}
        if any(tuple(tensors[name].shape) != shape for name, shape in shapes.items()):
            raise ValueError(f"history must have a value of -log SNR for each of {layers} layers")
        for epoch in history.epochs:
            if epoch.keys() != MEANINGS.keys() or not all(isinstance(value, int | float) for value in epoch.values()):
                raise ValueError(f"history must have for every epoch the numbers {', '.join(MEANINGS)}")
        return history

    def line(self, total: int) -> str:
        """The last of so many epochs as a line of a log."""
        epoch = self.epochs[-1]
        learned = f"loss {epoch['train_loss']:.3f}, {epoch['train_accuracy']:.1f} % correct"
        tested = f"test {epoch['top1']:.1f} % correct"
        return f"epoch {len(self.epochs)}/{total}: {learned}; {tested}; {epoch['seconds']:.1f} s"

    def write_to(self, writer: Any, since: int) -> None:
        """Write the last epoch for TensorBoard, and the measurements since so many steps, layer by layer.

        Values that aren't finite, as -log SNR right after instant sharing, have no place in a curve.
        """
        for name, value in self.epochs[-1].items():
            writer.add_scalar(name, value, len(self.epochs))
        for name, value in self.signals.scalars():
            if math.isfinite(value):
                writer.add_scalar(name, value, len(self.epochs))
        measured = [(steps, f"neg_log_snr{'_shared' * shared}", values) for steps, shared, values in self.snr]
        measured += [(steps, name, row) for steps, rows in self.drifts for name, row in zip(DRIFTS, rows, strict=True)]
        for steps, name, values in measured:
            for layer, value in zip(self.layers, values, strict=True):
                if steps >= since and math.isfinite(value):
                    writer.add_scalar(f"{name}/{layer}", value, steps)
        writer.flush()

    def to_xarray(self, config: TrainConfig, device: torch.device) -> xr.Dataset:
        """The history with the axes epoch (1 for the first), and others where something was measured.

        The others are feedback_layer (angles), snr_step and layer (-log SNR), and sleep_step (drifts of phases).
        Attributes are the configuration as one JSON text, the versions, the machine and the date.
        """
        variables: dict[str, Any] = {
            name: ("epoch", np.array([epoch[name] for epoch in self.epochs]), {"long_name": meaning})
            for name, meaning in MEANINGS.items()
        }
        coordinates: dict[str, Any] = {"epoch": np.arange(1, len(self.epochs) + 1)}
        if angles := self.signals.variables(len(self.epochs)):
            variables |= angles
            coordinates["feedback_layer"] = self.signals.layers
        if self.snr:
            tensors = {name: tensor.numpy() for name, tensor in self.tensors().items()}
            steps, shared, table = (tensors[f"snr.{name}"] for name in ("steps", "shared", "values"))
            meaning = {"long_name": "log mean_j(var_j / mean_j^2), median over sharing groups"}
            variables["neg_log_snr"] = (("snr_step", "layer"), table, meaning)
            coordinates |= {
                "snr_step": ("snr_step", steps, {"long_name": "steps of the optimiser so far"}),
                "shared": ("snr_step", shared.astype(np.int8), {"long_name": "1 right after a sharing"}),
                "layer": self.layers,
            }
            if self.drifts:
                coordinates["sleep_step"] = ("sleep_step", tensors["drift.steps"], coordinates["snr_step"][2])
                for name, values in zip(DRIFTS, tensors["drift.values"].swapaxes(0, 1), strict=True):
                    variables[name] = (("sleep_step", "layer"), values, {"long_name": DRIFTS[name]})
        facts = {
            "config": config_text(config),
            "sharings": self.sharings,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "machine": f"{processor()}, {torch.get_num_threads()} threads",
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        return xr.Dataset(variables, coordinates, facts | versions(*VERSIONED))


def write_result(path: Path, result: xr.Dataset) -> None:
    """Write a result as netCDF, atomically; a checksum follows the end of the netCDF file, where readers ignore it."""
    data = bytes(result.to_netcdf(engine="h5netcdf"))  # in memory: HDF5 would lock the file, and expand a ~
    with replacing(path) as temporary:
        temporary.write_bytes(data + _seal(data))


def read_result(path: Path, sealed: bool = True) -> xr.Dataset:
    """Read a result into memory.

    Args:
        path: the file.
        sealed: refuse a file without a checksum, as older versions wrote.

    Raises:
        UnreadableRunError: the file is damaged, or has no checksum.
    """
    check_file(path)
    data = path.read_bytes()  # HDF5 would lock the file
    length = len(_seal(b""))
    data, seal = data[:-length], data[-length:]
    try:
        if seal != _seal(data):
            if sealed or seal.startswith(SEAL):
                raise ValueError("its checksum is not that of its contents")
            data += seal
        return xr.load_dataset(io.BytesIO(data), engine="h5netcdf")
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise UnreadableRunError(
            f"{path} is damaged, or was written by an older version of bioshare: {error}. Move it away; a checkpoint "
            "beside it is all a run needs"
        ) from error


SEAL = b"\nCRC-32 "


def _seal(data: bytes) -> bytes:
    """The line after the contents of a result; CRC-32 finds every change of up to 32 neighbouring bits."""
    return SEAL + f"{zlib.crc32(data):08x}\n".encode()


def complete(folder: Path, config: TrainConfig | None = None, longer: bool = False) -> xr.Dataset | None:
    """The result of a run with all epochs; None for a run that hasn't begun or ended.

    Args:
        folder: folder of the run.
        config: configuration of the run; None for any.
        longer: allow ``config`` to have more epochs than the run, which then hasn't ended.

    Raises:
        ValueError: the folder holds a run of another configuration.
        UnreadableRunError: the result is damaged, lacks a quantity, or was written by another version of bioshare.
    """
    if not (path := folder / RESULT).exists():
        return None
    result = read_result(path)
    if config:
        check_same(config, result.attrs.get("config"), path, longer)
    epochs = (config or config_of(result.attrs.get("config"), path)).epochs
    if lacking := [name for name in MEANINGS if name not in result or result[name].dims != ("epoch",)]:
        raise UnreadableRunError(f"{path} must have {', '.join(lacking)} for every epoch. Move it away")
    return result if result.sizes["epoch"] == epochs else None


def gather(results: Mapping[Key, xr.Dataset], axes: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    """Stack the histories of runs along new leading axes.

    Args:
        results: by their values along the axes, in the order of ``axes``.
        axes: name and values of every new axis.

    Returns:
        Every numeric variable along exactly the axis epoch, without the names of new axes, with the axes (..., epoch),
        from epoch 1; every variable along epoch and feedback_layer, as float32; and ``neg_log_snr``, the median over
        layers, where measured once an epoch. NaN where a run is missing or shorter, or lacks the variable. Attributes
        are the common ones of all runs, and ``shared_config``, the common fields of their configurations as JSON.
    """
    runs = [
        _per_epoch(result, axes).expand_dims({name: [value] for name, value in zip(axes, key, strict=True)})
        for key, result in results.items()
    ]
    named = [name for one in runs if "feedback_layer" in one for name in one["feedback_layer"].values.tolist()]
    layers = {"feedback_layer": list(dict.fromkeys(named))} if named else {}  # from the input to the output
    runs = [one.reindex(layers) if "feedback_layer" in one else one for one in runs]
    how: Any = {"join": "outer", "compat": "no_conflicts", "combine_attrs": "drop_conflicts"}
    stacked = cast(xr.Dataset, xr.combine_by_coords(runs, **how))
    stacked.attrs |= shared_config(results.values())
    epochs = range(1, max(result.sizes["epoch"] for result in results.values()) + 1)
    wanted = {name: np.array(values) for name, values in ({**axes, "epoch": epochs} | layers).items()}  # no objects
    return stacked.reindex(wanted).assign_coords(wanted)


def shared_config(results: Iterable[xr.Dataset]) -> dict[str, str]:
    """The fields that the configurations of all results have in common, as JSON in an attribute ``shared_config``."""
    configs = [json.loads(result.attrs["config"]) for result in results if "config" in result.attrs]
    common = {name: value for name, value in (configs or [{}])[0].items() if all(one[name] == value for one in configs)}
    return {"shared_config": json.dumps(common)} if common else {}


def _per_epoch(result: xr.Dataset, axes: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    """The numeric variables of a run along epoch, counted from 1, alone or with feedback_layer."""
    names = [
        name
        for name, values in result.data_vars.items()
        if values.dims == ("epoch",) and np.issubdtype(values.dtype, np.number) and name not in axes
    ]
    by_layer = [name for name, values in result.data_vars.items() if values.dims == ("epoch", "feedback_layer")]
    history = result[names].reset_coords(drop=True).merge(result[by_layer].astype(np.float32))
    history = history.assign_coords(epoch=range(1, result.sizes["epoch"] + 1))
    once_an_epoch = result.sizes.get("snr_step") == result.sizes["epoch"] + 1  # and at the start
    if once_an_epoch and "neg_log_snr" in result and "neg_log_snr" not in axes:
        ends = result["neg_log_snr"].dropna("layer", how="all").median("layer").values[1:]
        history["neg_log_snr"] = "epoch", ends, {"long_name": "-log SNR at the epoch's end, median over layers"}
    return history


def seconds_spent(result: xr.Dataset) -> xr.DataArray:
    """Wall-clock time of all epochs of a run, or of several along further axes; tests count where they were timed."""
    return result[[name for name in SPENT if name in result]].to_array().sum(["variable", "epoch"])
