"""Tables of networks whose constraints are lifted during training (d'Ascoli et al. 2019).

A convolutional network is trained, and keeps its weights after some epochs, the relax times. From each a run goes on
with the same function in a larger space: without shared weights (LC), or fully connected (FC). "dascoli" has the
paper's settings, and rows for the digits; "relax" has networks for two cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from bioshare.bridge import InstantSharing
from bioshare.checks import choice, flag, whole
from bioshare.nn import dascoli, to_fully_connected, to_locally_connected
from bioshare.nn.dascoli import DAscoliName
from bioshare.nn.fully_connected import FullyConnected2d
from bioshare.train.config import SGD, Adam, Network, Snapshot, TrainConfig
from bioshare.train.phases import CircuitOptions, PhaseOptions

Space = Literal["conv", "lc", "fc"]


@dataclass(frozen=True)
class DAscoliNetwork(Network):
    """A network of d'Ascoli et al. (2019), convolutional or in a larger space.

    Attributes:
        name: "vanilla" or "alexnet", see `bioshare.nn.dascoli`.
        channels: channels of the first convolution.
        space: "conv", "lc" for locally connected layers, or "fc" for fully connected layers.
        padded_columns: fully connected layers have weights from the zeros around an image, too, as in the paper's code.
    """

    name: DAscoliName = "vanilla"
    channels: int = 64
    space: Space = "conv"
    padded_columns: bool = False

    def __post_init__(self) -> None:
        choice("name", self.name, get_args(DAscoliName))
        whole("channels", self.channels, "a number of channels", at_least=1)
        choice("space", self.space, get_args(Space))
        flag("padded_columns", self.padded_columns)

    def build(self, num_classes: int, input_size: tuple[int, int, int]) -> nn.Module:
        """The network for images of ``input_size``, with PyTorch's default initialisation in its own space."""
        model = dascoli(self.name, num_classes, input_size, self.channels)
        if self.space == "lc":
            return to_locally_connected(model, input_size, layout="channels_last")
        model = self.embed(model, input_size)
        for layer in model.modules():
            if isinstance(layer, FullyConnected2d):
                bound = 1 / math.sqrt(layer.weight.shape[1])
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.uniform_(layer.bias, -bound, bound)  # pyright: ignore[reportArgumentType] (all have a bias)
        return model

    def embed(self, model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
        """The network with the function of a convolutional network, in the space of this network."""
        if self.space == "lc":
            return to_locally_connected(model, input_size, "copy", layout="channels_last")
        return to_fully_connected(model, input_size, self.padded_columns) if self.space == "fc" else model


@dataclass(frozen=True)
class RelaxedRow:
    """A row of a table.

    Attributes:
        setting: configuration without sleep.
        references: rows for paired differences: the convolutional network, and the row with the same start but without
            matched rates and sleep.
        every: interval of the phase in batches; None for never.
        sleep: options of the phase.
        top1: the paper's accuracy in per cent, or None.
    """

    setting: TrainConfig
    references: tuple[str, str]
    every: int | None = None
    sleep: PhaseOptions = field(default_factory=InstantSharing)
    top1: float | None = None


def relax_times(epochs: int) -> tuple[int, ...]:
    """Epochs 0, 1, ..., ``epochs`` at logarithmic distances: the paper's 18 for 150 epochs."""
    spaced = np.floor(np.logspace(0, math.log10(epochs), 20) + 1e-9)
    return tuple(sorted({0, *map(int, spaced)}))


SLEEPS: dict[str, tuple[int, PhaseOptions]] = {
    "ws10": (10, InstantSharing()),
    "ws10-alpha10": (10, CircuitOptions(pool=8)),
}
"""Interval and options of the sleep by the variant of a row."""


def _rows(
    conv: TrainConfig,
    rate: float,
    epochs: int,
    times: Mapping[str, Sequence[int]],
    suffix: str = "",
    top1: Mapping[str, float] | None = None,
) -> dict[str, RelaxedRow]:
    """The rows of a convolutional network, by name: "fc-18", "lc-18-ws10".

    Args:
        conv: configuration of the convolutional network; with ``padded_columns``, fully connected ones have these.
        rate: learning rate of the networks in larger spaces.
        epochs: epochs of these networks.
        times: relax times by space and variant: "fc", "lc-matched" (rates times the number of positions), "lc-ws10".
        suffix: suffix of all names.
        top1: accuracies in the paper by name, per cent.
    """
    network: Any = conv.network
    plain, home, printed = replace(conv.optimizer, learning_rate=rate), f"conv{suffix}", top1 or {}
    wide = replace(conv, network=replace(network, space="fc"), optimizer=plain, epochs=epochs)
    rows = {
        home: RelaxedRow(replace(conv, snapshots=relax_times(conv.epochs)), (home, home), top1=printed.get(home)),
        f"fcn{suffix}": RelaxedRow(wide, (home, f"fcn{suffix}"), top1=printed.get(f"fcn{suffix}")),
    }
    for kind, chosen in times.items():
        space, _, variant = kind.partition("-")
        optimizer: Any = replace(plain, match_positions=True) if variant == "matched" else plain
        larger = replace(wide, network=replace(network, space=space), optimizer=optimizer)
        for time in chosen:
            same = f"{space}-{time}{suffix}"
            name = f"{space}-{time}-{variant}{suffix}" if variant else same
            setting = replace(larger, start_from=Snapshot(f"../../{home}/seed{{seed}}", time))
            every, sleep = SLEEPS.get(variant, (None, InstantSharing()))
            rows[name] = RelaxedRow(setting, (home, same), every, sleep, printed.get(name))
    return rows


PLAIN = SGD(0.1, 0.0, 0.0, nesterov=False)
"""The paper's optimiser: stochastic gradient descent without momentum and weight decay, at a constant rate."""
PAPER = TrainConfig(
    "cifar10", DAscoliNetwork(padded_columns=True), PLAIN, milestones=(), epochs=150, batch_size=250, padding=0
)
ALEXNET = replace(PAPER, dataset="cifar100", network=DAscoliNetwork("alexnet", padded_columns=True), epochs=100)
SMALL = replace(PAPER, network=DAscoliNetwork(channels=16), train_images=10_000, epochs=30, batch_size=50)
"""As many steps in an epoch as in the paper."""
DIGITS = replace(PAPER, dataset="digits", network=DAscoliNetwork(channels=8), epochs=20, batch_size=32)

TOP1 = {"conv": 72.0, "fcn": 57.5, "fc-0": 62.5}
"""Accuracies in the paper's Sec. 4 for CIFAR-10, per cent. "fcn" is of Sec. 4.1; the protocol says about 55."""
LC = "lc", "lc-matched", "lc-ws10", "lc-ws10-alpha10"
FEW, SOME = (0, 3, 18, 150), (0, 1, 3, 10, 30)

TABLES: dict[str, dict[str, dict[str, RelaxedRow]]] = {
    "dascoli": {
        "cifar10": {
            **_rows(PAPER, 0.01, 100, {"fc": relax_times(150), "fc-matched": FEW} | dict.fromkeys(LC, FEW), top1=TOP1),
            **_rows(replace(PAPER, optimizer=Adam(1e-3)), 1e-4, 100, {"fc": relax_times(150)}, "-adam"),
        },
        "cifar100": _rows(ALEXNET, 0.01, 100, {"fc": relax_times(100)}),
        "digits": _rows(DIGITS, 0.01, 20, {"fc": (0, 5, 20), "fc-matched": (5,)} | dict.fromkeys(LC, (5,))),
    },
    "relax": {"cifar10": _rows(SMALL, 0.01, 15, {"fc": SOME, "fc-matched": (0, 3, 30)} | dict.fromkeys(LC, SOME))},
}
"""Rows by table, data set and name. The paper has neither rates for Adam nor locally connected networks."""
