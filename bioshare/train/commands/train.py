"""One experiment: ``python -m bioshare train table1/cifar10/lc-ws10``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bioshare.text import aligned, number
from bioshare.train.commands.options import (
    TIME_UP,
    Computing,
    add_words,
    caution,
    check_used,
    comparable,
    configured,
    read_options,
)
from bioshare.train.config import TrainConfig
from bioshare.train.experiments import Experiment, find
from bioshare.train.fitting import fit
from bioshare.train.interrupt import TimeUpError

if TYPE_CHECKING:
    import xarray as xr

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""Phrases of PyTorch's errors, on a GPU and on a CPU."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name and the words after the name."""
    add_words(parser, "train")


def main(arguments: argparse.Namespace) -> None:
    """Train one experiment of the paper's tables, and print the result beside the paper's."""
    experiment = find(arguments.name)
    own, fitting, given = read_options(f"train {experiment.name}", arguments.options, experiment, Computing)
    one = Computing(**own)
    config, used = configured(experiment, given)
    check_used(given, used, experiment.name)
    if one.threads:
        torch.set_num_threads(one.threads)
    folder = one.to or Path("runs", experiment.home, f"seed{config.seed}")
    try:
        result = fit(config, folder, seconds=one.minutes and 60 * one.minutes, **fitting)
    except TimeUpError as error:
        print(f"{error}; the same command with --resume goes on", file=sys.stderr)
        raise SystemExit(TIME_UP) from None
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise MemoryError(f"batch_size={config.batch_size} needs more memory than there is: {error}") from error
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of this process
        print(run_report(experiment, config, result, folder))


def run_report(experiment: Experiment, config: TrainConfig, result: xr.Dataset, folder: Path) -> str:
    """Our accuracy beside the paper's, without the paper's for different images."""
    paper = comparable(experiment, [config]).paper
    rows = [("test accuracy", "ours", "the paper's", "difference")]
    for name, theirs in (("top1", paper.top1), ("top5", paper.top5)):
        ours = float(result[name][-1])
        difference = None if theirs is None else ours - theirs
        rows.append((f"{name.replace('p', 'p-')} %", number(ours), number(theirs), number(difference, "+.1f")))
    title = f"{experiment.name}, seed {config.seed}, epoch {result.sizes['epoch']}: {folder}"
    return f"{title}\n{aligned(rows)}{caution([(config, experiment.config)])}"
