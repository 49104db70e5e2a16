"""One experiment: ``python -m bioshare train table1/cifar10/lc-ws10``."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import tyro

from bioshare.text import aligned, number
from bioshare.train.commands.options import TIME_UP, Computing, add_name, caution, changes, comparable, parse, plain
from bioshare.train.config import TrainConfig
from bioshare.train.experiments import Experiment, find
from bioshare.train.interrupt import TimeUpError
from bioshare.train.loop import fit

if TYPE_CHECKING:
    import xarray as xr


OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""How PyTorch says so, on a GPU and on a CPU."""


@dataclass(frozen=True)
class OneConfig(TrainConfig):
    """All of it, under names that the command line knows."""

    share_every: Annotated[int | None, tyro.conf.arg(aliases=["--every"])] = None


@dataclass(frozen=True, kw_only=True)
class Options(Computing):
    """Train one experiment of the paper's tables, and print its result beside the paper's.

    Attributes:
        to: folder of the run; None for runs/NAME/seedN.
        resume: go on where the run in this folder stopped.
        record_snr: measure -log SNR after every n-th batch; None for once an epoch.
        tensorboard: write TensorBoard's events into the folder, too.
        config: what to change in the experiment.
    """

    to: Path | None = None
    resume: bool = False
    record_snr: int | None = None
    tensorboard: bool = False
    config: tyro.conf.OmitArgPrefixes[OneConfig]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name and what follows it."""
    add_name(parser, "train")


def main(arguments: argparse.Namespace) -> None:
    """Train and print the result."""
    experiment = find(arguments.name)
    default = Options(config=OneConfig(**asdict(experiment.config)))
    options = parse(default, arguments.options, f"train {experiment.name}")
    config = plain(options.config)
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.to or Path("runs", experiment.home, f"seed{config.seed}")
    try:
        result = fit(
            config,
            folder,
            data=options.data,
            resume=options.resume,
            device=options.device,
            record_snr=options.record_snr,
            tensorboard=options.tensorboard,
            seconds=options.seconds,
            **options.fitting,
        )
    except TimeUpError as error:
        print(f"{error}; the same command with --resume goes on", file=sys.stderr)
        raise SystemExit(TIME_UP) from None
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise MemoryError(f"batch_size={config.batch_size} needs more memory than there is: {error}") from error
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of this process
        print(report(experiment, config, result, folder))


def report(experiment: Experiment, config: TrainConfig, result: xr.Dataset, folder: Path) -> str:
    """Ours beside the paper's; its numbers are left out where the images are others."""
    paper = comparable(experiment, [config]).paper
    rows = [("test accuracy", "ours", "the paper's", "difference")]
    for name, theirs in (("top1", paper.top1), ("top5", paper.top5)):
        ours = float(result[name][-1])
        difference = None if theirs is None else ours - theirs
        rows.append((f"{name.replace('p', 'p-')} %", number(ours), number(theirs), number(difference, "+.1f")))
    title = f"{experiment.name}, seed {config.seed}, epoch {result.sizes['epoch']}: {folder}"
    return f"{title}\n{aligned(rows)}{caution(changes(config, experiment.config))}"
