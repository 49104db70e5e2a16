"""One sleep of a whole network in every form, against a training step: ``python -m bioshare bench bridge``.

Costs of a sleep are timed on a network in training; effects on the weights are measured once, on a network that was
never trained.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from bioshare.bench.harness import BenchTable, add_common_options, available_bytes, timed, turns
from bioshare.bench.networks import NETWORKS, TrainingStep, add_network_options, bench_network
from bioshare.bridge import HebbianSharing, InstantSharing, Phase, Sleep, SleepReport
from bioshare.bridge.geometry import inputs_of
from bioshare.circuit.stimuli import gaussian, grid, noise
from bioshare.cli import positive
from bioshare.nn import LocallyConnected2d

TIMES = 5
"""Presentations for every input of a neuron."""

EVERY = 10
"""Training steps between two sleeps, in the column of how much slower training gets."""

NOISE = 0.01
"""Standard deviation of the noise that every neuron adds to the grid."""

SEED = 0
"""Seed of the sleep whose effect is measured."""

BRIDGE_COLUMNS = (
    "phase 42 s | seconds 9 .3g | steps 9 .3g | slower % 8 .2f | maps 4 d | % of time 9 .0f | pool MB 7 .1f | "
    "spread 6 .4f | |mean| 6 .4f | -log SNR before 15 .2f | after 5 .2f"
)

MEDIANS = {
    "spread": "spread",
    "|mean|": "mean_norm",
    "-log SNR before": "neg_log_snr_before",
    "after": "neg_log_snr_after",
}
"""Columns for the effect of a sleep, and the fields of a report's layers whose medians are in the columns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench bridge``."""
    add_network_options(parser)
    parser.add_argument("--batch", type=positive, help="(default: the paper's)")
    parser.add_argument("--pool", type=positive, default=4, help="sleeps in the pool (default: %(default)s)")
    parser.add_argument("--relayed", action="store_true", help="also with relayed patterns: a map for each layer")
    parser.add_argument("--noise", action="store_true", help="also with noise of every neuron: very slow, timed once")
    add_common_options(parser, repeats=3)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a row for the training steps and for every kind of sleep.

    Raises:
        MemoryError: the network does not fit; nothing was measured.
    """
    paper, device = NETWORKS[arguments.network], torch.device(arguments.device)
    side, batch, dtype = arguments.image or paper.side, arguments.batch or paper.batch, arguments.dtype
    make = partial(bench_network, arguments.network, side=side)
    weights = sum(weight.numel() for weight in make("auto", "meta").parameters())
    title = f"LC {paper.title} at {side} x {side}"
    check_memory(title, weights, device)
    print(
        f"{title}, {weights / 1e6:.1f} million weights, batch {batch}, {dtype} on {device}, "
        f"{arguments.threads} threads, medians of {arguments.repeats}.\n"
        f"Every sleep has {TIMES} presentations per input and a seed of its own. slower: training with a sleep every "
        f"{EVERY} steps.\nmaps: simulated in a sleep, and their share of the time. The rest are medians over layers; "
        "spread within groups and\n|mean| are ratios of after to before a sleep\n"
    )
    table, model = BenchTable(BRIDGE_COLUMNS), make("auto", device)
    steps = {
        "training step": TrainingStep(model, (3, side, side), batch, dtype),
        "training step, convolutional": TrainingStep(make("conv", device), (3, side, side), batch, dtype),
    }
    phases = timed_phases(arguments.pool, arguments.relayed)
    fresh = lambda phase: phase(make("auto", device), SEED, progress=False)
    for name, seconds, reports in timed_steps(model, steps, phases, arguments.repeats, device):
        add_sleep_row(table, name, seconds, reports, fresh(phases[name]) if reports else None)
    if arguments.noise:
        noisy_sleep = Sleep.steady_state(times=TIMES, stimulus=noise(grid(shuffle=True), NOISE))
        seconds, report = timed(partial(fresh, noisy_sleep))
        add_sleep_row(table, f"ideal sleep, noise of {NOISE}, once", seconds, [report], report)
    return table.records


def timed_steps(
    model: nn.Module, steps: dict[str, TrainingStep], phases: dict[str, Phase], repeats: int, device: torch.device
) -> Iterator[tuple[str, float, list[SleepReport]]]:
    """Name and median seconds of training steps, and of phases of the model, with the reports of all turns."""
    reports: dict[str, list[SleepReport]] = {name: [] for name in phases}
    seeds = itertools.count(SEED + 1)

    def sleep(name: str) -> None:
        reports[name].append(phases[name](model, next(seeds), progress=False, measure=False))

    for step in steps.values():
        step()  # the optimiser makes its moments
    for phase in phases.values():
        warm_up_phase(phase, model)
    works: dict[str, Callable[[], object]] = {**steps, **{name: partial(sleep, name) for name in phases}}
    for name, seconds in turns(works, repeats, device):
        yield name, seconds, reports.get(name, [])


def timed_phases(pool: int, relayed: bool) -> dict[str, Phase]:
    """The phases in the table, by name."""
    circuit = partial(Sleep.rate_circuit, times=TIMES)
    phases: dict[str, Phase] = {
        "direct averaging": InstantSharing(),
        "batched Hebbian updates": HebbianSharing(),
        "ideal sleep": Sleep.steady_state(times=TIMES),
        "rate circuit, alpha = 10": circuit(10.0),
        "rate circuit, alpha = 10, Gaussian": circuit(10.0, stimulus=gaussian()),
        "rate circuit, alpha = 50": circuit(50.0),
        f"rate circuit, alpha = 10, from a pool of {pool}": circuit(10.0, pool=pool),
    }
    if relayed:
        phases["rate circuit, alpha = 10, relayed"] = circuit(10.0, stimulus=gaussian(), patterns="relayed")
    return phases


def warm_up_phase(phase: Phase, model: nn.Module) -> None:
    """Let libraries load, and simulate the maps of a pool.

    Small layers of two neurons suffice, since a map depends on the number of inputs only.
    """
    pool = (phase.pool if isinstance(phase, Sleep) else None) or 0
    layers = [layer for layer in model.modules() if isinstance(layer, LocallyConnected2d)]
    inputs = sorted({inputs_of(layer) for layer in layers}) if pool else [9]
    small = nn.ModuleList(LocallyConnected2d(many, 1, 1, input_size=(1, 2)) for many in inputs).to(layers[0].weight)
    for seed in itertools.count():
        if phase(small, seed, progress=False, measure=False).pool_maps >= len(inputs) * pool:
            return


def add_sleep_row(
    table: BenchTable, name: str, seconds: float, reports: Sequence[SleepReport], effect: SleepReport | None
) -> None:
    """Add a row, with the costs in some reports and with the effect in a report; a training step has neither."""
    step = table.records[0]["seconds"] if table.records else seconds
    row = {"phase": name, "seconds": seconds, "steps": seconds / step}
    if effect:
        last, map_seconds = reports[-1], statistics.median(report.map_seconds for report in reports)
        row |= layer_medians(effect) | {
            "slower %": 100 * seconds / (EVERY * step),
            "maps": last.maps,
            "% of time": 100 * map_seconds / seconds if map_seconds else None,
            "pool MB": last.pool_bytes / 1e6 if last.pool_bytes else None,
        }
    table.add(row)


def layer_medians(report: SleepReport) -> dict[str, float]:
    """The medians over the layers with sharing groups."""
    layers = [layer for layer in report.layers if layer.modules]
    return {head: statistics.median(getattr(layer, field) for layer in layers) for head, field in MEDIANS.items()}


def check_memory(title: str, weights: int, device: torch.device) -> None:
    """Refuse a network too large for the memory.

    Raises:
        MemoryError: there is too little memory for weights, gradients, two moments and a second network.
    """
    needed, there = 5 * 4 * weights, available_bytes(device)
    if there is not None and needed > there:
        raise MemoryError(
            f"{title} needs {needed / 1e9:.1f} GB on {device} for weights, gradients, two moments and a second "
            f"network, and more for activations; there are {there / 1e9:.1f} GB. Take another --network, or a smaller "
            "--image"
        )
