"""The idea in minutes: digits at random places, learned with and without weight sharing, with and without sleep.

Every training image is seen at one place only. A convolution knows what it has learned at every other place; a
locally connected network doesn't, unless sleep carries it there. Sharing ties every third position (a 3 x 3 kernel
has nine modules), so that it closes part of the gap.
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

CANVAS = 14
"""Rows and columns of the input; the digits have 8."""


def rate_circuit_sleep() -> Sleep:
    """One cycle of the grid through the rate circuit at alpha = 10, after one presentation for it to settle.

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
class Network:
    """A row of the table: whether the network is locally connected, and how it shares."""

    name: str
    locally_connected: bool = True
    sharing: InstantSharing | Sleep | None = None


NETWORKS = (
    Network("convolutional", locally_connected=False),
    Network("locally connected"),
    Network("... instant sharing", sharing=InstantSharing()),
    Network("... ideal sleep", sharing=ideal_sleep()),
    Network("... rate-circuit sleep, alpha = 10", sharing=rate_circuit_sleep()),
)


@dataclass(frozen=True)
class Settings:
    """What all networks have in common.

    Args:
        images: for training; all others test.
        steps: of SGD with Nesterov momentum 0.9; the learning rate falls to 0 along a cosine.
        batch: images per step.
        every: steps from one sleep to the next; the first follows the first step.
        learning_rate: at the start.
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
        accuracy: percentage of the test images that it names.
        neg_log_snr: at the end: median over groups, then over layers; NaN for a convolution.
        seconds: of all steps of the optimiser.
        sleeps: seconds of every sleep.
    """

    accuracy: float = math.nan
    neg_log_snr: float = math.nan
    seconds: float = 0.0
    sleeps: list[float] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class Results:
    """The trials of every network, by name; prints as a table."""

    settings: Settings
    trials: dict[str, list[Trial]]

    def __repr__(self) -> str:
        heads = ("network", "test accuracy %", "-log SNR", "ms / step", "ms / sleep", "% asleep")
        rows = [heads, *(self._row(name, trials) for name, trials in self.trials.items() if trials)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        seeds = max(map(len, self.trials.values()))
        return "\n".join([*lines, f"mean +- standard deviation over {seeds} seeds; {self.settings}"])

    def _row(self, name: str, trials: list[Trial]) -> tuple[str, ...]:
        accuracies = [trial.accuracy for trial in trials]
        spread = statistics.stdev(accuracies) if len(trials) > 1 else math.nan
        snr = statistics.fmean(trial.neg_log_snr for trial in trials)
        steps = sum(trial.seconds for trial in trials)
        sleeps = [seconds for trial in trials for seconds in trial.sleeps]
        return (
            name,
            f"{statistics.fmean(accuracies):.1f} +- {spread:.1f}",
            "" if math.isnan(snr) else f"{snr:.1f}",
            f"{1e3 * steps / (len(trials) * self.settings.steps):.1f}",
            f"{1e3 * statistics.fmean(sleeps):.1f}" if sleeps else "",
            f"{100 * sum(sleeps) / (steps + sum(sleeps)):.0f}" if sleeps else "",
        )


def run(
    seeds: Iterable[int] = range(5),
    settings: Settings | None = None,
    networks: Sequence[Network] = NETWORKS,
    progress: bool = True,
) -> Results:
    """Train every network from every seed; Ctrl-C ends it with the trials that are complete.

    Args:
        seeds: each draws the split into training and test images, their places, the weights and the batches. The
            state of torch's global generator stays as it was.
        settings: what all networks have in common; None for the defaults.
        networks: the rows of the table.
        progress: show a bar.
    """
    seeds, settings = list(seeds), settings or Settings()
    results = Results(settings, {network.name: [] for network in networks})
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
    """The options of the command line."""
    parser.add_argument("--seeds", type=positive, default=5, help="how many seeds (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=Settings.steps, help="training steps (default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    torch.set_num_threads(1)  # the layers are so small that a second thread costs more than it brings
    print(run(range(arguments.seeds), Settings(steps=arguments.steps)))


def _trial(network: Network, settings: Settings, seed: int, bar: tqdm) -> Trial:
    images, labels, test_images, test_labels = _digits(settings.images)
    model = _model()
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
        named = model.eval()(test_images).argmax(1)
    trial.accuracy = 100 * (named == test_labels).double().mean().item()
    if network.locally_connected:
        trial.neg_log_snr = statistics.median(neg_log_snr(model).values())
    return trial


def _model() -> nn.Sequential:
    """Two 3 x 3 convolutions at stride 1, and a linear readout of their average over the positions."""
    block = lambda inputs, outputs: (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
    return nn.Sequential(*block(1, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _digits(training: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels, each image at a random place of its own."""
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
