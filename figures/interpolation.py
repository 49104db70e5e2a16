"""Paths from a convolutional network to fully connected ones that start from it (d'Ascoli et al. 2019, Fig. 13).

The folder has the runs of ``python -m bioshare table relax`` or ``dascoli`` with their checkpoints, such as
runs/relax/cifar10. A row of panels is a relax time t; left, the loss of training images, right, the test accuracy. The
paths lead from the convolutional network (0) to the fully connected one that started at t (1), both at the end of their
training, seed 0: the straight line and an elastic string (`bioshare.nn.string_path`) between the weights, and the mean
of both outputs.

By default on 1,000 training images, drawn by the seed, with five points, for two cores; ``--full`` takes all training
images and eleven points. The measurements are stored beside the picture; given that file, the script draws without
measuring.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from convergence import AMBER, HERE, NAVY
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.cli import path
from bioshare.nn import interpolated, string_path
from bioshare.train import checkpoint, evaluate
from bioshare.train.data import load, test_batches, training_batches
from bioshare.train.results import read_result, write_result
from bioshare.train.saving import CHECKPOINT, network_in
from bioshare.train.stored import config_of

IMAGES, POINTS = 1000, 5
LOOKS = {"line": ("#c1502e", "--"), "string": (NAVY, "-"), "outputs": (AMBER, ":")}
"""Colours and lines of the paths."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=path, help="folder of runs, such as runs/relax/cifar10, or a file of this script")
    parser.add_argument("--rows", nargs="*", help="rows such as fc-0 (default: all of plain fully connected networks)")
    parser.add_argument("--full", action="store_true", help="all training images, eleven points")
    parser.add_argument("--data", type=path, help="folder of the prepared data sets")
    parser.add_argument("--to", type=path, default=HERE / "interpolation", help="path without an ending")
    args = parser.parse_args(arguments)
    args.to.parent.mkdir(parents=True, exist_ok=True)
    if args.runs.is_file():
        data = read_result(args.runs)
    else:
        found = {file.parts[-3] for file in args.runs.glob(f"*/seed0/{CHECKPOINT}")}
        plain = sorted((row for row in found if re.fullmatch(r"fc-\d+", row)), key=lambda row: int(row[3:]))
        rows = args.rows or plain
        if not rows or set(rows) - found or "conv" not in found:
            parser.error(f"runs must be a folder with checkpoints of conv and of rows such as fc-0; got {args.runs}")
        points, images = (11, None) if args.full else (POINTS, IMAGES)
        measured = [paths(args.runs / "conv", args.runs / row, points, images, args.data) for row in rows]
        data = xr.concat(measured, xr.Variable("row", rows))
        write_result(args.to.with_name(f"{args.to.name}.nc"), data)
    figure = drawn(data)
    for ending, facts in {".png": {}, ".svg": {"Date": None}}.items():
        figure.savefig(args.to.with_name(f"{args.to.name}{ending}"), metadata=facts)
    plt.close(figure)


def paths(conv: Path, dense: Path, points: int, images: int | None, data: Path | None = None) -> xr.Dataset:
    """Measure the losses and accuracies along all paths between two runs.

    Args:
        conv, dense: folders of the rows of the convolutional and of the fully connected network.
        points: number of points on a path.
        images: number of training images, filled up to whole batches; None for all.
        data: folder of the prepared data sets.
    """
    file = dense / "seed0" / CHECKPOINT
    metadata = checkpoint.read_metadata(file)
    config, size = config_of(metadata.get("config"), file), tuple(metadata["network"]["input_size"])
    first, second = config.network.embed(network_in(conv / "seed0" / CHECKPOINT), size).eval(), network_in(file)
    dataset, cpu = load(config.dataset_name, data), torch.device("cpu")
    tests = test_batches(dataset, config, cpu)
    drawn_batches = training_batches(dataset, replace(config, padding=0, flip=False), cpu)  # by the seed of the run
    training = [*islice(drawn_batches.epoch(0), images and -(-images // config.batch_size))]
    parts = np.linspace(0, 1, points)
    networks = {
        "line": [interpolated(first, second, float(part)) for part in parts],
        "string": string_path(first, second, training, cross_entropy, points),
        "outputs": [interpolated(first, second, float(part), "outputs").eval() for part in parts],
    }
    losses = [[mean_loss(model, training) for model in models] for models in networks.values()]
    top1 = [[evaluate(model, tests)["top1"] for model in models] for models in networks.values()]
    values = {"train_loss": (("path", "part"), losses), "top1": (("path", "part"), top1)}
    return xr.Dataset(values, {"path": [*networks], "part": parts}, {"train_images": sum(len(y) for _, y in training)})


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The mean cross entropy of all images."""
    total = sum(float(cross_entropy(model(x), y, reduction="sum")) for x, y in batches)
    return total / sum(len(y) for _, y in batches)


def drawn(data: xr.Dataset) -> Figure:
    """Draw a row of two panels for every row of the table."""
    rows = [str(row) for row in data["row"].values]
    figure, axes = plt.subplots(len(rows), 2, figsize=(7, 2.4 * len(rows)), layout="constrained", squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for ax, name, title in zip(line, ("train_loss", "top1"), ("training loss", "test accuracy, %"), strict=True):
            for kind, (color, style) in LOOKS.items():
                values = data[name].sel(row=row, path=kind)
                ax.plot(data["part"], values, color=color, linestyle=style, marker="o", markersize=3, label=kind)
            ax.set_title(f"{row}: {title}", loc="left")
    for ax in axes[-1]:
        ax.set(xlabel="convolutional (0) to fully connected (1)")
    axes[0, 0].legend(fontsize="small", handlelength=3)
    return figure


if __name__ == "__main__":
    main()
