"""The idea in minutes: digits at random places, learned with and without weight sharing, with and without sleep.

Every training image is seen at one place only. A convolution applies the learned kernel at every place; a locally
connected network does not, unless sleep carries the kernel there. Sharing ties every third position (a 3 x 3 kernel
has nine modules), so that sharing closes part of the gap. Controls could show the opposite: random groups, smaller
weights without sharing, and one mean for all positions, the most that sharing at intervals could do.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

from bioshare.bridge import InstantSharing, Phase, Sleep, neg_log_snr
from bioshare.bridge.controls import LayerMean, RandomGroups, Shrinking
from bioshare.cli import positive
from bioshare.nn import to_locally_connected
from bioshare.progress import shows_bar
from bioshare.text import aligned, mean_and_deviation, number, paired_difference

CANVAS = 14
"""Rows and columns of the input; the digits have 8 x 8 pixels."""

VALIDATION_IMAGES = 397
"""Number of images for the choice of learning rates, the same for every seed; all 1400 further images train or test."""

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Learning rates that a search may try."""

FIRST_LEARNING_RATES = LEARNING_RATES[4:8]
"""Learning rates that a search tries for every network: 0.1 to 3."""

FIRST_SEARCH_SEED = 100
"""First seed of a search; the table has seeds from 0 on."""


@dataclass(frozen=True)
class DemoNetwork:
    """A network of the demo.

    Args:
        name: head of the row in the table.
        learning_rate: learning rate at the start, chosen by `search_learning_rates`.
        phase: change of the weights between steps of learning, if any.
        locally_connected: False for a convolutional network.
        repeated: False for a phase after the first step alone.
    """

    name: str
    learning_rate: float
    phase: Phase | None = None
    locally_connected: bool = True
    repeated: bool = True


PLAIN = DemoNetwork("locally connected", 1.0)

NETWORKS = (
    DemoNetwork("convolutional", 1.0, locally_connected=False),
    PLAIN,
    DemoNetwork("... instant sharing", 1.0, InstantSharing()),
    DemoNetwork("... ideal sleep", 1.0, Sleep.steady_state(pool=1)),
    DemoNetwork("... rate-circuit sleep, alpha = 10", 0.3, Sleep.rate_circuit(alpha=10.0, pool=8)),
    DemoNetwork("... the same, border kept", 1.0, Sleep.rate_circuit(alpha=10.0, pool=8, border="keep")),
    DemoNetwork("... the same, border scaled", 1.0, Sleep.rate_circuit(alpha=10.0, pool=8, border="scale")),
    DemoNetwork("... control: random groups", 0.3, RandomGroups()),
    DemoNetwork("... control: shrunk once, not shared", 0.3, Shrinking(), repeated=False),
    DemoNetwork("... control: one mean for all positions", 0.3, LayerMean()),
)
"""Rows of the table; the learning rates come from ``python -m bioshare demo --tune --seeds 3``."""


@dataclass(frozen=True)
class DemoSettings:
    """Training of all networks.

    Args:
        images: number of training images; all further images, except for validation, are for testing.
        steps: number of steps of SGD with Nesterov momentum 0.9; the learning rate falls to 0 along a cosine.
        batch: images per step.
        every: steps from one phase to the next; the first phase follows the first step.
    """

    images: int = 400
    steps: int = 250
    batch: int = 32
    every: int = 10


@dataclass(frozen=True)
class Trial:
    """One network, trained from one seed.

    Attributes:
        accuracy: percentage of test (or validation) images with the right class.
        neg_log_snr: median over groups, then over layers, at the end; NaN for a convolution.
    """

    accuracy: float
    neg_log_snr: float


@dataclass(frozen=True, repr=False)
class DemoResults:
    """Learning rates and trials of every network, by name; prints as a table."""

    settings: DemoSettings
    learning_rates: dict[str, float]
    trials: dict[str, list[Trial]]

    def __repr__(self) -> str:
        heads = "network", "learning rate", "test accuracy %", f"difference to {PLAIN.name}", "-log SNR"
        plain = [trial.accuracy for trial in self.trials.get(PLAIN.name, [])]
        rows: list[Sequence[str]] = [heads]
        for name, trials in self.trials.items():
            if trials:
                accuracies = [trial.accuracy for trial in trials]
                cells = (
                    f"{self.learning_rates[name]:g}",
                    mean_and_deviation(accuracies),
                    "" if name == PLAIN.name else paired_difference(accuracies, plain),
                    number(statistics.fmean(trial.neg_log_snr for trial in trials)),
                )
                rows.append((name, *cells))
        seeds = max(map(len, self.trials.values()))
        note = f"mean +- standard deviation over {seeds} seeds; differences over the same seeds +- standard error"
        return f"{aligned(rows)}\n{note}\n{self.settings}"


@dataclass(frozen=True, repr=False)
class LearningRateSearch:
    """Validation accuracies of every network by learning rate; prints as a table with the best rate of every network.

    Attributes:
        seeds: number of seeds.
        accuracies: percentages of right validation images, a value for every seed, by network and learning rate.
    """

    seeds: int
    accuracies: dict[str, dict[float, list[float]]]

    def best(self, network: str) -> float:
        """Return the learning rate with the highest mean accuracy."""
        tried = self.accuracies[network]
        return max(tried, key=lambda rate: statistics.fmean(tried[rate]))

    def __repr__(self) -> str:
        rates = sorted({rate for tried in self.accuracies.values() for rate in tried})
        rows = [("network", *(f"{rate:g}" for rate in rates), "best")]
        for name, tried in self.accuracies.items():
            cells = [mean_and_deviation(tried[rate]) if rate in tried else "" for rate in rates]
            rows.append((name, *cells, f"{self.best(name):g}"))
        note = f"validation accuracy % by learning rate, mean +- standard deviation over {self.seeds} seeds"
        return f"{aligned(rows)}\n{note}"


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
    learning_rates = {network.name: network.learning_rate for network in networks}
    results = DemoResults(settings, learning_rates, {network.name: [] for network in networks})
    total = len(seeds) * len(networks) * settings.steps
    with tqdm(total=total, disable=not shows_bar(progress), unit="step", leave=False) as bar:
        try:
            for seed in seeds:
                for network in networks:
                    bar.set_description(f"seed {seed}, {network.name}")
                    results.trials[network.name].append(_trial(network, settings, seed, bar))
        except KeyboardInterrupt:
            if not any(results.trials.values()):
                raise
    return results


def search_learning_rates(
    seeds: Sequence[int] = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + 3),
    settings: DemoSettings | None = None,
    networks: Sequence[DemoNetwork] = NETWORKS,
    progress: bool = True,
) -> LearningRateSearch:
    """Search the learning rate with the highest mean validation accuracy, by the same rule for every network.

    The first rates are `FIRST_LEARNING_RATES`; the rate below and the rate above the best follow, until both have been
    tried. At an end of `LEARNING_RATES` the search stops.

    Args:
        seeds: seeds different from the seeds of the table.
        settings: training of all networks; None for the defaults.
        networks: networks whose own learning rates play no part.
        progress: show a bar.
    """
    settings = settings or DemoSettings()
    search = LearningRateSearch(len(seeds), {network.name: {} for network in networks})
    with tqdm(disable=not shows_bar(progress), unit="step", leave=False) as bar:
        for network in networks:
            tried, due = search.accuracies[network.name], list(FIRST_LEARNING_RATES)
            while due:
                for rate in due:
                    bar.set_description(f"learning rate {rate:g}, {network.name}")
                    candidate = replace(network, learning_rate=rate)
                    trials = [_trial(candidate, settings, seed, bar, validation=True) for seed in seeds]
                    tried[rate] = [trial.accuracy for trial in trials]
                best = LEARNING_RATES.index(search.best(network.name))
                due = [rate for rate in LEARNING_RATES[max(best - 1, 0) : best + 2] if rate not in tried]
    return search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    parser.add_argument("--seeds", type=positive, default=5, help="number of seeds (default: %(default)s)")
    steps = DemoSettings.steps
    parser.add_argument("--steps", type=positive, default=steps, help="training steps (default: %(default)s)")
    tune = f"search every row's learning rate on validation images, with seeds from {FIRST_SEARCH_SEED} on"
    parser.add_argument("--tune", action="store_true", help=tune)


def main(arguments: argparse.Namespace) -> None:
    """Run the demo or the search of the learning rates, and print a table."""
    torch.set_num_threads(1)  # the layers are so small that a second thread costs more than it brings
    work, first = (search_learning_rates, FIRST_SEARCH_SEED) if arguments.tune else (run_demo, 0)
    print(work(range(first, first + arguments.seeds), DemoSettings(steps=arguments.steps)))


def _trial(network: DemoNetwork, settings: DemoSettings, seed: int, bar: tqdm, validation: bool = False) -> Trial:
    """Train a network and test it; the state of torch's global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images, labels, test_images, test_labels = _placed_digits(settings.images, validation)
        model = _convolutions()
        if network.locally_connected:
            model = to_locally_connected(model, (1, CANVAS, CANVAS), layout="channels_last")
        optimizer = torch.optim.SGD(model.parameters(), network.learning_rate, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        every = settings.every if network.repeated else settings.steps
        for step in range(settings.steps):
            chosen = torch.randint(len(images), (settings.batch,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
            if network.phase and step % every == 0:
                network.phase.change(model, seed * settings.steps + step)
            bar.update()
    with torch.no_grad():
        predicted = model.eval()(test_images).argmax(1)
    accuracy = 100 * (predicted == test_labels).double().mean().item()
    return Trial(accuracy, statistics.median(neg_log_snr(model).values()) if network.locally_connected else math.nan)


def _convolutions() -> nn.Sequential:
    """Two 3 x 3 convolutions at stride 1, and a linear readout of the average over positions."""
    block = lambda inputs, outputs: (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
    return nn.Sequential(*block(1, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _placed_digits(training: int, validation: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then test (or validation) images and labels, each image at a random place."""
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    fixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held_out, others = fixed[:VALIDATION_IMAGES], fixed[VALIDATION_IMAGES:]
    others = others[torch.randperm(len(others))]
    order = torch.cat([others[:training], held_out if validation else others[training:]])
    images, labels = _placed(images[order].float().view(-1, 8, 8) / 16), labels[order]
    return images[:training], labels[:training], images[training:], labels[training:]


def _placed(images: Tensor) -> Tensor:
    """Images (n, 8, 8), each at a random place of the canvas, (n, 1, CANVAS, CANVAS)."""
    room = CANVAS - images.shape[-1]
    views = nn.functional.pad(images, (room,) * 4).unfold(1, CANVAS, 1).unfold(2, CANVAS, 1)
    row, column = torch.randint(room + 1, (2, len(images)))
    return views[torch.arange(len(images)), row, column][:, None]
