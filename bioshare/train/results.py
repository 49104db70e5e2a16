"""What a training run leaves: its history as a labelled dataset, with all that it was made with."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from bioshare.files import replacing
from bioshare.machine import processor, versions
from bioshare.train.config import TrainConfig

VERSIONED = ("numpy", "torch", "xarray")
MEANINGS = {
    "train_loss": "cross entropy of the training images, as they were learned",
    "train_accuracy": "of the training images, as they were learned, %",
    "test_loss": "cross entropy of the test images",
    "top1": "test images whose class came first, %",
    "top5": "test images whose class was among the first five, %",
    "learning_rate": "AdamW's",
    "seconds": "wall-clock time of the epoch's training",
    "images_per_second": "in training, repetitions included",
}
"""What is known of an epoch, in the order of the dataset."""


@dataclass
class History:
    """What happened so far; can go to JSON and back.

    Attributes:
        epochs: of every epoch that is complete, the quantities in `MEANINGS`.
        snr: measurements of -log SNR: steps of the optimiser so far, whether right after a sharing, values by layer.
        sharings: how many times the weights were shared.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    snr: list[tuple[int, bool, dict[str, float]]] = field(default_factory=list)
    sharings: int = 0

    def measured(self, steps: int, shared: bool, values: dict[str, float]) -> None:
        """Add -log SNR by layer, after so many steps of the optimiser, before or right after a sharing."""
        self.snr.append((steps, shared, values))

    def to_xarray(self, config: TrainConfig, device: torch.device) -> xr.Dataset:
        """The history with the axes epoch (1 for the first), and for a network that has them snr_step and layer.

        The configuration, the versions, the machine and the date are attributes.
        """
        variables: dict[str, Any] = {
            name: ("epoch", np.array([epoch[name] for epoch in self.epochs], float), {"long_name": meaning})
            for name, meaning in MEANINGS.items()
        }
        coordinates: dict[str, Any] = {"epoch": np.arange(1, len(self.epochs) + 1)}
        if self.snr:
            steps, shared, values = zip(*self.snr, strict=True)
            table = np.array([list(row.values()) for row in values])
            meaning = {"long_name": "log mean_j(var_j / mean_j^2), median over sharing groups"}
            variables["neg_log_snr"] = (("snr_step", "layer"), table, meaning)
            coordinates |= {
                "snr_step": ("snr_step", np.array(steps), {"long_name": "steps of the optimiser so far"}),
                "shared": ("snr_step", np.array(shared, np.int8), {"long_name": "1 right after a sharing"}),
                "layer": list(values[0]),
            }
        facts = {
            "sharings": self.sharings,
            "device": _name(device),
            "machine": f"{processor()}, {torch.get_num_threads()} threads",
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        return xr.Dataset(variables, coordinates, encoded(config) | facts | versions(*VERSIONED))


def encoded(config: TrainConfig) -> dict[str, Any]:
    """A configuration as netCDF's attributes and JSON can hold it."""
    return {field.name: _encoded(getattr(config, field.name)) for field in fields(config)}


def _encoded(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value) if value else "none"
    return "none" if value is None else int(value) if isinstance(value, bool) else value


def refuse_other(config: TrainConfig, found: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on from the file of another configuration.

    Args:
        config: the run that was asked for.
        found: what `encoded` made of the file's.
        path: the file.

    Raises:
        ValueError: fields differ; names them.
    """
    wanted = encoded(config)
    differing = [name for name, value in wanted.items() if name not in found or np.array(found[name]).tolist() != value]
    if differing:
        told = ", ".join(f"{name} was {found.get(name, 'not there')} and is now {wanted[name]}" for name in differing)
        raise ValueError(
            f"config must be that of the run in {path.parent}: {told}. Take another folder (--to), or the same options"
        )


def write_result(path: Path, result: xr.Dataset) -> None:
    """Write a result as netCDF, atomically."""
    with replacing(path) as temporary:
        result.to_netcdf(temporary, engine="h5netcdf")


def read_result(path: Path) -> xr.Dataset:
    """Read a result into memory."""
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
