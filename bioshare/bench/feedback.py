"""Training steps with feedback weights and without, and mirrors: ``python -m bioshare bench feedback``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bioshare.bench.harness import BenchTable, add_common_options, turns
from bioshare.bench.networks import NETWORKS, NetworkForm, TrainingStep, add_network_options, bench_network
from bioshare.bridge import Mirror
from bioshare.cli import positive
from bioshare.nn import with_direct_feedback, with_feedback

FEEDBACK_COLUMNS = "work 40 s | seconds 9 .3g | of the plain step 17 .2f"

MIRRORS = {
    "mirror, 2,048 Gaussian inputs": Mirror(samples=2048),
    "mirror, 128 Gaussian inputs": Mirror(samples=128),
    "mirror, grid (exact)": Mirror.exact(),
}
"""Changes of all feedback weights of a network, by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench feedback``."""
    add_network_options(parser)
    parser.add_argument("--batch", type=positive, help="(default: the paper's)")
    add_common_options(parser, repeats=3)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a row for every training step and every mirror, of the convolutional and of the LC network."""
    paper, device = NETWORKS[arguments.network], torch.device(arguments.device)
    side, batch, dtype = arguments.image or paper.side, arguments.batch or paper.batch, arguments.dtype
    print(
        f"{paper.title} at {side} x {side}, batch {batch}, {dtype} on {device}, {arguments.threads} threads, medians "
        f"of {arguments.repeats}.\nA step is forward, backward and AdamW; a mirror changes the feedback weights of all "
        "layers\n"
    )
    table, image = BenchTable(FEEDBACK_COLUMNS), (3, side, side)
    forms: dict[str, NetworkForm] = {"conv": "conv", "LC": "auto"}
    for title, form in forms.items():
        make = partial(bench_network, arguments.network, form, device, side)
        mirrored = with_feedback(make())
        steps = {
            "training step": make(),
            "step, feedback weights": mirrored,
            "step, direct feedback": with_direct_feedback(make(), image),
        }
        works: dict[str, Callable[[], object]] = {
            name: TrainingStep(model, image, batch, dtype) for name, model in steps.items()
        }
        works |= {name: partial(mirror.change, mirrored, 0) for name, mirror in MIRRORS.items()}
        for work in works.values():
            work()
        plain = None
        for name, seconds in turns(works, arguments.repeats, device):
            plain = plain or seconds
            table.add({"work": f"{title}: {name}", "seconds": seconds, "of the plain step": seconds / plain})
    return table.records
