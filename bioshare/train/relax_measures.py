"""What a run in a larger space has moved: parts of the weights, curvature and masked accuracies, at the start and end.

The measurements of a finished run lie beside the result, and are made once; a run that went on to more epochs is
measured again, and so is one that an earlier `VERSION` has measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn.functional import cross_entropy

from bioshare.checks import machine_memory
from bioshare.nn import deviation, gradient_norm, keeping, top_eigenvalue
from bioshare.nn.deviation import PARTS
from bioshare.nn.fully_connected import FullyConnected2d
from bioshare.text import aligned
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import load, test_batches, training_batches
from bioshare.train.evaluation import evaluate
from bioshare.train.networks import DAscoliNetwork
from bioshare.train.results import RESULT, read_result, write_result
from bioshare.train.saving import CHECKPOINT, network_in, snapshot_network
from bioshare.train.snapshot import snapshot_name, snapshots_in
from bioshare.train.stored import UnreadableRunError, config_of

RELAXATION = "relaxation.nc"
"""Name of the file in the folder of a run."""
VERSION = 2
"""Version of the measurements. 1 had the gradient and the Hessian of the first 1,000 images, often of one class."""
CURVATURE_IMAGES = 1000
"""Number of training images, drawn by the seed of the run, under the Hessian."""
CURVATURE_BATCH = 500
"""Number of images whose patches are in memory at a time."""
VECTORS = 10
"""Number of vectors of Lanczos; the Hessian is left out where half of the memory does not hold them."""
PIXELS = "input_channel", "pixel_row", "pixel_column"
TOLERANCE = 1e-2
"""Largest residual of the top eigenvalue as a fraction of the value."""

MEANINGS = {
    **PARTS,
    "delta": "norm of the weights outside the kernels over the norm of all weights of these layers",
    "train_loss": "cross entropy of all training images",
    "top1": "test images whose class came first, %",
    "top1_local": "the same with the weights inside the kernels alone",
    "top1_off_local": "the same with the weights outside the kernels alone",
    "gradient_norm": "norm of the gradient of this loss",
    "top_eigenvalue": f"largest eigenvalue of the Hessian of the loss of {CURVATURE_IMAGES} training images, or of all",
    "residual": "residual of this eigenvalue",
    "filter": "weights from all pixels to one output of the first layer",
    "filter_between": "the same after some epochs, where the run has kept its weights",
}
"""Quantities and their meanings, all but the last at the start and at the end of a run."""


def relaxed(config: TrainConfig) -> bool:
    """True for a run in a larger space, in which there is something to measure."""
    return isinstance(config.network, DAscoliNetwork) and config.network.space != "conv"


def relaxation(folder: Path, data: Path | None = None) -> xr.Dataset:
    """Measure a finished run in a larger space at the start and at the end, or read the measurements.

    Args:
        folder: folder of the run, with the checkpoint.
        data: folder of the prepared data sets, as for `bioshare.train.fit`.

    Returns:
        The quantities of `MEANINGS` along the axis when, "start" and "end"; norms of parts also by layer, and the
        filter of a fully connected network by pixel.
    """
    if known := stored_relaxation(folder):
        return known
    metadata = checkpoint.read_metadata(folder / CHECKPOINT)
    config = config_of(metadata.get("config"), folder / CHECKPOINT)
    first = config.build_network(**metadata["network"], snapshot=snapshot_network(config, folder, metadata["network"]))
    found = xr.concat(
        [_measured(model, config, data) for model in (first, network_in(folder / CHECKPOINT))],
        xr.Variable("when", ["start", "end"]),
    )
    kept = snapshots_in(folder)
    if "filter" in found and kept:
        filters = [_filter(network_in(folder / snapshot_name(epoch))) for epoch in kept]
        found["filter_between"] = ("kept_epoch", *PIXELS), np.array(filters)
        found["kept_epoch"] = kept
    for name, meaning in MEANINGS.items():
        if name in found:
            found[name].attrs["long_name"] = meaning
    config_now = read_result(folder / RESULT).attrs["config"]
    write_result(folder / RELAXATION, found.assign_attrs(config=config_now, version=VERSION))
    return found


def stored_relaxation(folder: Path) -> xr.Dataset | None:
    """The measurements of a run as it is; None without a file, for a damaged one, and for one of an earlier version."""
    path, text = folder / RELAXATION, read_result(folder / RESULT).attrs.get("config")
    try:
        known = read_result(path)
    except (FileNotFoundError, UnreadableRunError):
        return None
    return known if (known.attrs.get("config"), known.attrs.get("version")) == (text, VERSION) else None


def _measured(model: nn.Module, config: TrainConfig, data: Path | None) -> xr.Dataset:
    """The quantities of a network."""
    dataset, cpu = load(config.dataset_name, data), torch.device("cpu")
    tests = test_batches(dataset, config, cpu)
    training = training_batches(dataset, replace(config, padding=0, flip=False), cpu)  # in an order drawn by the seed
    x, y = next(replace(training, batch_size=CURVATURE_IMAGES).epoch(0))
    batches = [*zip(x.split(CURVATURE_BATCH), y.split(CURVATURE_BATCH), strict=True)]
    report = deviation(model)
    parts = report.to_xarray()
    values: dict[str, Any] = {f"layer_{name}": ("layer", parts[name].values) for name in (*PARTS, "delta")}
    values |= {name: getattr(report.total, name) for name in (*PARTS, "delta")}
    values |= {"train_loss": evaluate(model, training)["test_loss"], "top1": evaluate(model, tests)["top1"]}
    for part in ("local", "off-local"):
        with keeping(model, part):
            values[f"top1_{part.replace('-', '_')}"] = evaluate(model, tests)["top1"]
    values["gradient_norm"] = gradient_norm(model, training.epoch(0), cross_entropy)
    values |= dict.fromkeys(("top_eigenvalue", "residual"), math.nan)
    if 8 * (VECTORS + 4) * sum(p.numel() for p in model.parameters()) < machine_memory() / 2:
        top = top_eigenvalue(model, batches, cross_entropy, TOLERANCE, VECTORS)
        values |= {"top_eigenvalue": top.value, "residual": top.residual}
    if (weights := _filter(model)) is not None:
        values["filter"] = PIXELS, weights
    return xr.Dataset(values, {"layer": [row.name for row in report.layers]}, {"curvature_images": len(x)})


def _filter(model: nn.Module) -> np.ndarray | None:
    """The weights from all pixels to an output in the middle of the first fully connected layer; None without one."""
    dense = next((layer for layer in model.modules() if isinstance(layer, FullyConnected2d)), None)
    return dense and dense.filter(0, *(size // 2 for size in dense.output_size)).detach().numpy()


def report(measured: Mapping[tuple[str, int], xr.Dataset], rows: Sequence[str]) -> str:
    """A table of the means over seeds; an arrow leads from the start to the end of a run."""
    heads = "network", "delta", "unshared / shared", "local %", "off-local %", "gradient", "top eigenvalue"
    lines = []
    for row in rows:
        runs = [one for (name, _), one in measured.items() if name == row]
        if not runs:
            continue
        mean = lambda name, when, runs=runs: sum(float(one[name].sel(when=when)) for one in runs) / len(runs)
        moved = lambda name, mean=mean: f"{mean(name, 'start'):.3g} -> {mean(name, 'end'):.3g}"
        ratio = mean("unshared", "end") / mean("shared", "end")
        parts = [f"{mean(name, 'end'):.1f}" for name in ("top1_local", "top1_off_local")]
        lines.append([row, moved("delta"), f"{ratio:.4f}", *parts, moved("gradient_norm"), moved("top_eigenvalue")])
    return aligned([[*heads], *lines]) if lines else ""


def stacked(measured: Mapping[tuple[str, int], xr.Dataset], rows: Sequence[str], seeds: int) -> xr.Dataset:
    """The measurements of all runs by "relaxed_" and name, with the axes row and seed; NaN for a missing run."""
    named = {key: one.rename({name: f"relaxed_{name}" for name in one.data_vars}) for key, one in measured.items()}
    runs = [one.expand_dims({"row": [row], "seed": [seed]}) for (row, seed), one in named.items()]
    how: Any = {"join": "outer", "compat": "no_conflicts", "combine_attrs": "drop_conflicts"}
    return cast(xr.Dataset, xr.combine_by_coords(runs, **how)).reindex(row=list(rows), seed=range(seeds))
