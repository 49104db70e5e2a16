"""Tables of networks whose constraints are lifted during training (d'Ascoli et al. 2019).

A convolutional network is trained, and keeps its weights after some epochs, the relax times. From each a run goes on
with the same function in a larger space: without shared weights (LC), or fully connected (FC). "dascoli" has the
paper's settings, and rows for the digits; "relax" has networks for two cores: 16 channels, and with the suffix "-wide"
the paper's 64, locally connected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bioshare.bridge import InstantSharing
from bioshare.train.config import SGD, Adam, Snapshot, TrainConfig
from bioshare.train.networks import DAscoliNetwork
from bioshare.train.phases import CircuitOptions, PhaseOptions
from bioshare.train.tables.rows import Paper, Row, Tables


def filter_epochs(epochs: int) -> tuple[int, ...]:
    """Epochs whose weights a fully connected run keeps, for the filters of Fig. 6: the paper's 11 and 78 of 100."""
    return tuple(round(part * epochs) for part in (0.11, 0.78))


def relax_times(epochs: int) -> tuple[int, ...]:
    """Epochs 0, 1, ..., ``epochs`` at logarithmic distances: the paper's 18 for 150 epochs."""
    spaced = np.floor(np.logspace(0, math.log10(epochs), 20) + 1e-9)
    return tuple(sorted({0, *map(int, spaced)}))


SLEEPS: dict[str, PhaseOptions] = {"ws10": InstantSharing(), "ws10-alpha10": CircuitOptions(pool=8)}
"""Options of the sleep after every tenth batch by the end of a row's name."""


def _from_conv(
    conv: TrainConfig,
    rate: float,
    epochs: int,
    times: Mapping[Any, Sequence[int]],
    suffix: str = "",
    top1: Mapping[str, float] | None = None,
) -> dict[str, Row]:
    """The rows of a convolutional network, by name: "fc-18", "lc-18-matched-ws10".

    Args:
        conv: configuration of the convolutional network; with ``padded_columns``, fully connected ones have these.
        rate: learning rate of the networks in larger spaces.
        epochs: epochs of these networks.
        times: relax times by space and variant: "fc", "lc-matched" (rates times the number of positions), "lc-ws10".
            "conv" is the control that goes on without a larger space.
        suffix: suffix of all names.
        top1: accuracies in the paper by name, per cent.
    """
    network: Any = conv.network
    plain, home, printed = replace(conv.optimizer, learning_rate=rate), f"conv{suffix}", top1 or {}
    longer = replace(conv, optimizer=plain, epochs=epochs)
    spaces = {
        "conv": longer,
        "lc": replace(longer, network=replace(network, space="lc")),
        "fc": replace(longer, network=replace(network, space="fc"), snapshots=filter_epochs(epochs)),
    }

    def row(name: str, setting: TrainConfig, same: str, sleep: str = "") -> Row:
        """A row with the references conv and ``same``, the row with the same start without matched rates and sleep."""
        every = 10 if sleep else None
        return Row(setting, every, SLEEPS.get(sleep, InstantSharing()), Paper(printed.get(name)), (home, same))

    rows = {home: row(home, replace(conv, snapshots=relax_times(conv.epochs)), home)}
    rows |= {
        (name := f"{space}n{suffix}"): row(name, spaces[space], name)
        for space in ("lc", "fc")
        if any(kind.startswith(space) for kind in times)
    }
    for kind, chosen in times.items():
        space, *variant = kind.split("-", 1)
        larger, sleep = spaces[space], "".join(variant).removeprefix("matched").removeprefix("-")
        if kind.startswith(f"{space}-matched"):
            larger = replace(larger, optimizer=replace(plain, match_positions=True))  # pyright: ignore[reportCallIssue]
        for time in chosen:
            same = f"{space}-{time}{suffix}"
            name = "-".join([space, str(time), *variant]) + suffix
            setting = replace(larger, start_from=Snapshot(f"../../{home}/seed{{seed}}", time))
            rows[name] = row(name, setting, same, sleep)
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
OTHERS = "conv", "fc-matched", "lc", "lc-matched", "lc-ws10", "lc-ws10-alpha10", "lc-matched-ws10-alpha10"
"""Rows beside the paper's."""
ALL: dict[str, Sequence[int]] = {"fc": relax_times(150)}

TABLES: Tables = {
    "dascoli": [
        _from_conv(PAPER, 0.01, 100, ALL | dict.fromkeys(OTHERS, (0, 3, 18, 150)), top1=TOP1)
        | _from_conv(replace(PAPER, optimizer=Adam(1e-3)), 1e-4, 100, ALL, "-adam"),
        _from_conv(ALEXNET, 0.01, 100, {"fc": relax_times(100)}),
        _from_conv(DIGITS, 0.01, 20, {"fc": (0, 5, 20)} | dict.fromkeys(OTHERS, (5, 20))),
    ],
    "relax": [
        _from_conv(SMALL, 0.01, 15, dict.fromkeys(OTHERS, (0, 3, 30)) | dict.fromkeys(("fc", "lc"), (0, 1, 3, 10, 30)))
        | _from_conv(
            replace(SMALL, network=DAscoliNetwork()),
            0.01,
            15,
            dict.fromkeys(("lc", "lc-ws10-alpha10"), (0, 3, 30)),
            "-wide",
        )
    ],
}
"""The paper has neither rates for Adam nor locally connected networks."""
