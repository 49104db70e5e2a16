"""The experiments by name: ``python -m bioshare list 'table1/cifar10/*'``."""

from __future__ import annotations

import argparse
from itertools import groupby
from operator import attrgetter

from bioshare.text import aligned, number
from bioshare.train.experiments import TABLES, Experiment, matching

HEADS = (
    ("", "learning", "weight", "top-1", "", "max -", "top-5", "", "max -"),
    ("name", "rate", "decay", "%", "diff", "min", "%", "diff", "min"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``list``."""
    help_text = "names that match or begin with it, such as table1 or '*/cifar10/lc*' (default: all)"
    parser.add_argument("pattern", nargs="?", default="*", help=help_text)


def main(arguments: argparse.Namespace) -> None:
    """Print names, hyperparameters and the paper's numbers."""
    experiments = matching(arguments.pattern)
    print("The paper's numbers. Accuracy is a mean over the runs, diff the difference to conv, all in per cent.")
    for table, rows in groupby(experiments, attrgetter("table")):
        print(f"\nTable {table}: {TABLES[table]}")
        print(aligned([*HEADS, *map(_row, rows)]))


def _row(experiment: Experiment) -> tuple[str, ...]:
    optimizer, paper = experiment.setting.optimizer, experiment.paper
    hyperparameters = (f"{optimizer.learning_rate:g}", f"{optimizer.weight_decay:g}")
    top1 = (number(paper.top1), number(paper.top1_diff, "+.1f"), number(paper.top1_range))
    top5 = (number(paper.top5), number(paper.top5_diff, "+.1f"), number(paper.top5_range))
    return (experiment.name, *hyperparameters, *top1, *top5)
