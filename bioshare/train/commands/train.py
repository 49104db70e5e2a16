"""One experiment: ``python -m bioshare train table1/cifar10/lc-ws10``."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro

from bioshare.train.commands.options import Computing, caution, changes, parse
from bioshare.train.commands.text import aligned, number
from bioshare.train.config import TrainConfig
from bioshare.train.experiments import Experiment, find
from bioshare.train.loop import fit

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Options(Computing):
    """Train one experiment of the paper's tables, and print its result beside the paper's.

    Attributes:
        to: folder of the run; None for runs/NAME/seedN.
        resume: go on where the run in this folder stopped.
        tensorboard: write TensorBoard's events into the folder, too.
        config: what to change in the experiment.
    """

    to: Path | None = None
    resume: bool = False
    tensorboard: bool = False
    config: tyro.conf.OmitArgPrefixes[TrainConfig]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name; everything after it is read with the experiment at hand, whose settings are the defaults."""
    parser.add_argument("name", help="an experiment that `list` prints, such as table1/cifar10/lc-ws10")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="`train NAME --help` prints them")


def main(arguments: argparse.Namespace) -> None:
    """Train and print the result."""
    experiment = find(arguments.name)
    options = parse(Options(config=experiment.config), arguments.options, f"train {experiment.name}")
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.to or Path("runs", experiment.home, f"seed{options.config.seed}")
    result = fit(
        options.config,
        folder,
        data=options.data,
        resume=options.resume,
        device=options.device,
        tensorboard=options.tensorboard,
    )
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of this process
        print(report(experiment, options.config, result, folder))


def report(experiment: Experiment, config: TrainConfig, result: xr.Dataset, folder: Path) -> str:
    """Ours beside the paper's."""
    rows = [("test accuracy", "ours", "the paper's", "difference")]
    for name, paper in (("top1", experiment.paper.top1), ("top5", experiment.paper.top5)):
        ours = float(result[name][-1])
        difference = None if paper is None else ours - paper
        rows.append((f"{name.replace('p', 'p-')} %", number(ours), number(paper), number(difference, "+.1f")))
    title = f"{experiment.name}, seed {config.seed}, epoch {result.sizes['epoch']}: {folder}"
    return f"{title}\n{aligned(rows)}{caution(changes(config, experiment.config))}"
