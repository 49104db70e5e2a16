"""The idea in minutes: digits at random places, learned with and without weight sharing, with and without sleep.

Every training image is seen at one place only. A convolution applies the learned kernel at every place; a locally
connected network does not, unless sleep carries the kernel there. Sharing ties every third position (a 3 x 3 kernel
has nine modules), so that sharing closes part of the gap.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

from bioshare.bridge import InstantSharing, Sleep, neg_log_snr
from bioshare.circuit.circuits import RateCircuit, SteadyState
from bioshare.circuit.rules import Gated, Hebbian
from bioshare.circuit.stimuli import grid
from bioshare.cli import positive
from bioshare.nn import to_locally_connected
from bioshare.text import aligned, mean_and_deviation, number

CANVAS = 14
"""Rows and columns of the input; the digits have 8 x 8 pixels."""


def rate_circuit_sleep() -> Sleep:
    """One cycle of the grid through the rate circuit at alpha = 10, after a presentation in which the circuit settles.

    The summed learning rate of a presentation, momentum included, is 100 x 5e-4 / (1 - 0.95) = 1: deviations fall
    to about 1/e, and the mean to exp(-1/11) = 0.91.
    """
    rule = Hebbian(gamma=0.0, momentum=0.95, learning_rate=Gated(5e-4))
    return Sleep(RateCircuit(alpha=10.0), rule, grid(), presentations=lambda inputs: inputs + 1)


def ideal_sleep() -> Sleep:
    """One cycle of the grid through the ideal circuit, each presentation removing 1 - 1/e of the deviations."""
    rule = Hebbian(gamma=0.0, momentum=0.0, learning_rate=1 - math.exp(-1))
    return Sleep(SteadyState(), rule, grid(), presentations=lambda inputs: inputs)


@dataclass(frozen=True)
class DemoNetwork:
    """One network of the demo: a name, and the phase between steps of learning, if any."""

    name: str
    locally_connected: bool = True
    sharing: InstantSharing | Sleep | None = None


NETWORKS = (
    DemoNetwork("convolutional", locally_connected=False),
    DemoNetwork("locally connected"),
    DemoNetwork("... instant sharing", sharing=InstantSharing()),
    DemoNetwork("... ideal sleep", sharing=ideal_sleep()),
    DemoNetwork("... rate-circuit sleep, alpha = 10", sharing=rate_circuit_sleep()),
)


@dataclass(frozen=True)
class DemoSettings:
    """Training of all networks.

    Args:
        images: number of training images; all further images are for testing.
        steps: number of steps of SGD with Nesterov momentum 0.9; the learning rate falls to 0 along a cosine.
        batch: images per step.
        every: steps from one sleep to the next; the first sleep follows the first step.
        learning_rate: learning rate at the start.
    """

    images: int = 400
    steps: int = 250
    batch: int = 32
    every: int = 10
    learning_rate: float = 0.3


@dataclass
class Trial:
    """One network, trained from one seed.

    Attributes:
        accuracy: percentage of test images with the right class.
        neg_log_snr: median over groups, then over layers, at the end; NaN for a convolution.
        seconds: time of all optimiser steps.
        sleeps: seconds of every sleep.
    """

    accuracy: float = math.nan
    neg_log_snr: float = math.nan
    seconds: float = 0.0
    sleeps: list[float] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class DemoResults:
    """The trials of every network, by name; prints as a table."""

    settings: DemoSettings
    trials: dict[str, list[Trial]]

    def __repr__(self) -> str:
        rows = [("network", "test accuracy %", "-log SNR", "ms / step", "ms / sleep", "% asleep")]
        for name, trials in self.trials.items():
            if trials:
                steps = sum(trial.seconds for trial in trials)
                sleeps = [seconds for trial in trials for seconds in trial.sleeps]
                cells = (
                    mean_and_deviation([trial.accuracy for trial in trials]),
                    number(statistics.fmean(trial.neg_log_snr for trial in trials)),
                    number(1e3 * steps / (len(trials) * self.settings.steps)),
                    number(1e3 * statistics.fmean(sleeps) if sleeps else None),
                    number(100 * sum(sleeps) / (steps + sum(sleeps)) if sleeps else None, ".0f"),
                )
                rows.append((name, *cells))
        seeds = max(map(len, self.trials.values()))
        return f"{aligned(rows)}\nmean +- standard deviation over {seeds} seeds; {self.settings}"


def run_demo(
    seeds: Iterable[int] = range(5),
    settings: DemoSettings | None = None,
    networks: Sequence[DemoNetwork] = NETWORKS,
    progress: bool = True,
) -> DemoResults:
    """Train every network from every seed; after Ctrl-C the results are the complete trials.

    Args:
        seeds: each seed draws the split into training and test images, the places, the weights and the batches. The
            state of torch's global generator is restored.
        settings: training of all networks; None for the defaults.
        networks: the rows of the table.
        progress: show a bar.
    """
    seeds, settings = list(seeds), settings or DemoSettings()
    results = DemoResults(settings, {network.name: [] for network in networks})
    total = len(seeds) * len(networks) * settings.steps
    with tqdm(total=total, disable=not progress, unit="step", leave=False) as bar:
        try:
            for seed in seeds:
                for network in networks:
                    bar.set_description(f"seed {seed}, {network.name}")
                    with torch.random.fork_rng(devices=[]):
                        torch.manual_seed(seed)
                        results.trials[network.name].append(_trial(network, settings, seed, bar))
        except KeyboardInterrupt:
            if not any(results.trials.values()):
                raise
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    parser.add_argument("--seeds", type=positive, default=5, help="number of seeds (default: %(default)s)")
    steps = DemoSettings.steps
    parser.add_argument("--steps", type=positive, default=steps, help="training steps (default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    torch.set_num_threads(1)  # the layers are so small that a second thread costs more than it brings
    print(run_demo(range(arguments.seeds), DemoSettings(steps=arguments.steps)))


def _trial(network: DemoNetwork, settings: DemoSettings, seed: int, bar: tqdm) -> Trial:
    images, labels, test_images, test_labels = _placed_digits(settings.images)
    model = _convolutions()
    if network.locally_connected:
        model = to_locally_connected(model, (1, CANVAS, CANVAS))
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    trial = Trial()
    for step in range(settings.steps):
        start = time.perf_counter()
        chosen = torch.randint(len(images), (settings.batch,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
        trial.seconds += time.perf_counter() - start
        if network.sharing and step % settings.every == 0:
            report = network.sharing(model, seed=seed * settings.steps + step)
            trial.sleeps.append(sum(layer.seconds for layer in report.layers))
        bar.update()
    with torch.no_grad():
        predicted = model.eval()(test_images).argmax(1)
    trial.accuracy = 100 * (predicted == test_labels).double().mean().item()
    if network.locally_connected:
        trial.neg_log_snr = statistics.median(neg_log_snr(model).values())
    return trial


def _convolutions() -> nn.Sequential:
    """Two 3 x 3 convolutions at stride 1, and a linear readout of the average over positions."""
    block = lambda inputs, outputs: (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
    return nn.Sequential(*block(1, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _placed_digits(training: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels, each image at a random place."""
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(labels))
    images, labels = _placed(images[order].float().view(-1, 8, 8) / 16), labels[order]
    return images[:training], labels[:training], images[training:], labels[training:]


def _placed(images: Tensor) -> Tensor:
    """Images (n, 8, 8), each at a random place of the canvas, (n, 1, CANVAS, CANVAS)."""
    room = CANVAS - images.shape[-1]
    views = nn.functional.pad(images, (room,) * 4).unfold(1, CANVAS, 1).unfold(2, CANVAS, 1)
    row, column = torch.randint(room + 1, (2, len(images)))
    return views[torch.arange(len(images)), row, column][:, None]
