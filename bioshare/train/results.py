"""What a training run leaves: its history as a labelled dataset, with all that it was made with."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bioshare.bridge import SleepReport
from bioshare.files import replacing
from bioshare.machine import processor, versions
from bioshare.train.config import TrainConfig

RESULT = "result.nc"
"""The name of its file in the folder of a run."""

VERSIONED = ("numpy", "torch", "xarray")
MEANINGS = {
    "train_loss": "cross entropy of the training images, as they were learned",
    "train_accuracy": "of the training images, as they were learned, %",
    "test_loss": "cross entropy of the test images",
    "top1": "test images whose class came first, %",
    "top5": "test images whose class was among the first five, %",
    "learning_rate": "AdamW's",
    "seconds": "wall-clock time of the epoch's training",
    "sleep_seconds": "the part of it in which weights were shared",
    "images_per_second": "in training, repetitions included",
    "test_seconds": "wall-clock time of the test after the epoch, and of measuring -log SNR there",
}
"""What is known of an epoch, in the order of the dataset; NaN in runs that are older than the quantity."""

SPENT = ("seconds", "test_seconds")
"""What adds up to the wall-clock time of an epoch."""

DRIFTS = {
    "spread": "root of the summed variance of a sharing group after sleep over that before, median over groups",
    "mean_norm": "norm of a group's mean as the circuit left it over that before sleep, median over groups",
    "mean_angle": "angle between a group's means before and after sleep, in degrees, median over groups",
}
"""What is known of a sharing that was measured, besides -log SNR; fields of `bioshare.bridge.LayerReport`."""


@dataclass
class History:
    """What happened so far.

    Attributes:
        epochs: of every epoch that is complete, the quantities in `MEANINGS`.
        sharings: how many times the weights were shared.
        layers: the names of those whose -log SNR is measured.
        snr: measurements of -log SNR: steps of the optimiser so far, whether right after a sharing, values by layer.
        drifts: of sharings that were measured: steps of the optimiser so far, and the `DRIFTS`, each by layer.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    sharings: int = 0
    layers: list[str] = field(default_factory=list)
    snr: list[tuple[int, bool, list[float]]] = field(default_factory=list)
    drifts: list[tuple[int, list[list[float]]]] = field(default_factory=list)

    def add_snr(self, steps: int, shared: bool, values: Mapping[str, float]) -> None:
        """Add -log SNR by layer, after so many steps of the optimiser, before or right after a sharing."""
        self.layers = list(values)
        self.snr.append((steps, shared, list(values.values())))

    def add_sharing(self, steps: int, report: SleepReport) -> None:
        """Add what was measured of a sharing after so many steps: -log SNR before and after, and the drift."""
        for shared, name in ((False, "neg_log_snr_before"), (True, "neg_log_snr_after")):
            self.add_snr(steps, shared, {layer.name: getattr(layer, name) for layer in report.layers})
        self.drifts.append((steps, [[getattr(layer, name) for layer in report.layers] for name in DRIFTS]))

    def tensors(self) -> dict[str, Tensor]:
        """The measurements: steps (n,), whether after a sharing (n,), and values (n, layers); of the drift, too."""
        steps, shared, values = zip(*self.snr, strict=True) if self.snr else ((), (), ())
        asleep, drifts = zip(*self.drifts, strict=True) if self.drifts else ((), ())
        layers = len(self.layers)
        return {
            "drift.steps": torch.tensor(asleep, dtype=torch.int64),
            "drift.values": torch.tensor(drifts, dtype=torch.float64).view(len(asleep), len(DRIFTS), layers),
            "snr.steps": torch.tensor(steps, dtype=torch.int64),
            "snr.shared": torch.tensor(shared, dtype=torch.bool),
            "snr.values": torch.tensor(values, dtype=torch.float64).view(len(steps), layers),
        }

    def facts(self) -> dict[str, Any]:
        """All but the measurements, as JSON can hold it."""
        return {"epochs": self.epochs, "sharings": self.sharings, "layers": self.layers}

    @classmethod
    def restored(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> History:
        """A history from its `facts` and `tensors`; others are ignored."""
        columns = (tensors[f"snr.{name}"].tolist() for name in ("steps", "shared", "values"))
        drifts = (
            tensors[f"drift.{name}"].tolist() if f"drift.{name}" in tensors else [] for name in ("steps", "values")
        )
        return cls(**facts, snr=list(zip(*columns, strict=True)), drifts=list(zip(*drifts, strict=True)))

    def write_to(self, writer: Any, since: int) -> None:
        """Write the last epoch for TensorBoard, and what was measured since so many steps, layer by layer.

        Values that aren't finite, as -log SNR right after instant sharing, have no place in a curve.
        """
        for name, value in self.epochs[-1].items():
            writer.add_scalar(name, value, len(self.epochs))
        measured = [(steps, f"neg_log_snr{'_shared' * shared}", values) for steps, shared, values in self.snr]
        measured += [(steps, name, row) for steps, rows in self.drifts for name, row in zip(DRIFTS, rows, strict=True)]
        for steps, name, values in measured:
            for layer, value in zip(self.layers, values, strict=True):
                if steps >= since and math.isfinite(value):
                    writer.add_scalar(f"{name}/{layer}", value, steps)

    def to_xarray(self, config: TrainConfig, device: torch.device) -> xr.Dataset:
        """The history with the axes epoch (1 for the first), and where they are known snr_step, layer and sleep_step.

        The configuration, the versions, the machine and the date are attributes.
        """
        variables: dict[str, Any] = {
            name: ("epoch", np.array([epoch.get(name, np.nan) for epoch in self.epochs]), {"long_name": meaning})
            for name, meaning in MEANINGS.items()
        }
        coordinates: dict[str, Any] = {"epoch": np.arange(1, len(self.epochs) + 1)}
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
            "sharings": self.sharings,
            "device": _name(device),
            "machine": f"{processor()}, {torch.get_num_threads()} threads",
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        return xr.Dataset(variables, coordinates, encoded(config) | facts | versions(*VERSIONED))


def encoded(config: TrainConfig) -> dict[str, Any]:
    """A configuration as netCDF's attributes can hold it."""
    return {field.name: _encoded(getattr(config, field.name)) for field in fields(config)}


def _encoded(value: Any) -> Any:
    """A field's value, or what netCDF or JSON made of it, as an attribute."""
    plain = np.array(value).tolist()
    if plain is None or plain == []:
        return "none"
    if isinstance(plain, list) and len(plain) == 1:  # netCDF knows no list of one
        return plain[0]
    return int(plain) if isinstance(plain, bool) else plain


def refuse_other(config: TrainConfig, found: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on from the file of another configuration.

    Args:
        config: the run that was asked for.
        found: the fields in the file, of a result or a checkpoint. One that is newer than the file had its default.
        path: the file.

    Raises:
        ValueError: fields differ; names them.
    """
    wanted = encoded(config)
    was = encoded(TrainConfig()) | {name: _encoded(found[name]) for name in wanted if name in found}
    differing = [f"{name} was {was[name]} and is now {value}" for name, value in wanted.items() if was[name] != value]
    if differing:
        raise ValueError(
            f"config must be that of the run in {path.parent}: {', '.join(differing)}. Take another folder (--to), or "
            "the same options"
        )


def write_result(path: Path, result: xr.Dataset) -> None:
    """Write a result as netCDF, atomically."""
    with replacing(path) as temporary:
        result.to_netcdf(temporary, engine="h5netcdf")


def read_result(path: Path) -> xr.Dataset:
    """Read a result into memory.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except OSError as error:
        raise ValueError(
            f"{path} is damaged: {error}. Move it away; a checkpoint beside it is all a run needs"
        ) from error


def seconds_spent(result: xr.Dataset) -> xr.DataArray:
    """Wall-clock time of all epochs of a run, or of several along further axes; tests count where they were timed."""
    return result[[name for name in SPENT if name in result]].to_array().sum(["variable", "epoch"])


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
