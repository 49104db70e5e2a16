"""Every row of the paper's Tables 1-12 by name: how it was trained, and what came out; and a table of our own.

The table "sleep" is one that the paper lacks: networks whose sleep is simulated, beside those of Table 1.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, Literal

from bioshare.train import paper_tables
from bioshare.train.config import TrainConfig
from bioshare.train.paper_tables import cells

TableName = int | Literal["sleep"]
"""A number of the paper's, or our own."""


@dataclass(frozen=True)
class Paper:
    """What the paper prints for a row, in per cent; None where it prints nothing.

    Attributes:
        top1, top5: test accuracy, a mean over 5 runs (ImageNet: 1 run). No top1: the paper has no such row.
        top1_diff, top5_diff: printed difference to the convolutional network.
        top1_range, top5_range: maximum minus minimum over the runs (Tables 6-8).
    """

    top1: float | None = None
    top5: float | None = None
    top1_diff: float | None = None
    top5_diff: float | None = None
    top1_range: float | None = None
    top5_range: float | None = None


@dataclass(frozen=True)
class Experiment:
    """A row of a table.

    Attributes:
        name: "table1/cifar10/lc-ws10" or "sleep/cifar10/lc-ws10-ideal": table, dataset, row.
        config: how it is trained, in the setting of the table; seed 0.
        paper: the paper's numbers.
        home: the name under which the tables show it first. Rows of one home are the same runs: those of Table 4
            are Table 1's, of Table 7 the ranges, of Table 10 the hyperparameters.
    """

    name: str
    config: TrainConfig
    paper: Paper
    home: str

    @property
    def table(self) -> TableName:
        """The table's name in `TABLES`."""
        name = self.name.split("/")[0]
        return "sleep" if name == "sleep" else int(name.removeprefix("table"))

    @property
    def row(self) -> str:
        """The network's name within its table and dataset, "lc-ws10"."""
        return self.name.split("/", 2)[2]


@dataclass(frozen=True)
class Table:
    """What a table is about.

    Attributes:
        shows: the quantity that it prints.
        setting: whose runs: padding 0, 4 or 8 of CIFAR and TinyImageNet, or ImageNet.
        runs: how many seeds the paper had, and how many are trained by default.
        note: what else to know of it.
    """

    shows: Literal["accuracy", "max - min", "hyperparameters"]
    setting: int | Literal["imagenet"]
    runs: int = 5
    note: str = ""

    def __str__(self) -> str:
        setting = "ImageNet" if self.setting == "imagenet" else f"padding {self.setting}"
        return f"{self.shows}, {setting}, {self.runs} run{'s' * (self.runs > 1)}{self.note and f' ({self.note})'}"


TABLES: dict[TableName, Table] = {
    1: Table("accuracy", 4),
    2: Table("accuracy", "imagenet", runs=1),
    3: Table("accuracy", 0),
    4: Table("accuracy", 4),
    5: Table("accuracy", 8),
    6: Table("max - min", 0),
    7: Table("max - min", 4),
    8: Table("max - min", 8),
    9: Table("hyperparameters", 0),
    10: Table("hyperparameters", 4),
    11: Table("hyperparameters", 8),
    12: Table("accuracy", "imagenet", runs=1),
    "sleep": Table("accuracy", 4, note="Table 1; simulated sleep is not in the paper"),
}

SMALL: dict[str, Any] = {"network": "resnet20", "batch_size": 512, "epochs": 200, "milestones": (100 / 200, 150 / 200)}
IMAGENET: dict[str, Any] = SMALL | {"network": "resnet18", "batch_size": 256, "padding": 0}
NOISE = 0.01
"""Its power in all inputs of ResNet-20's widest layers, 576 x 0.01^2, is 6 % of the grid's."""
IN_TIME = {f"alpha{alpha}": {"sleep": "circuit", "alpha": float(alpha)} for alpha in (5, 10, 50)}
NIGHTS: dict[str, dict[str, Any]] = IN_TIME | {"ideal": {"sleep": "ideal"}}
NOISY = {f"{name}-noise": night | {"noise": NOISE} for name, night in NIGHTS.items()}
UNSCALED = {f"{name}-unscaled": IN_TIME[name] | {"rescale": False} for name in ("alpha10", "alpha50")}
SLEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "lc-ws1": NIGHTS | NOISY,
    "lc-ws10": NIGHTS | NOISY | UNSCALED,
    "lc-ws100": NIGHTS | NOISY,
}
"""Rows of the paper -> what our own table adds to their names -> how the weights sleep there."""

PRINTED = {
    0: (paper_tables.TABLE_3, paper_tables.TABLE_6, paper_tables.TABLE_9),
    4: (paper_tables.TABLE_1, paper_tables.TABLE_7, paper_tables.TABLE_10),
    8: (paper_tables.TABLE_5, paper_tables.TABLE_8, paper_tables.TABLE_11),
}


@dataclass(frozen=True)
class Grid:
    """A grid search of Appendix B.

    Attributes:
        learning_rates, weight_decays: its axes.
        epochs, milestones: its schedule.
        skipped: (learning rate, weight decay) that the paper left out.
    """

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    epochs: int
    milestones: tuple[float, ...]
    skipped: tuple[tuple[float, float], ...] = ()


_CIFAR = {"weight_decays": (1e-2, 1e-4), "epochs": 200, "milestones": (100 / 200, 150 / 200)}
_TINY = {"weight_decays": (1e-2, 1e-4), "epochs": 50, "milestones": (25 / 50, 37 / 50)}
_IMAGENET = {"epochs": 20, "milestones": (10 / 20, 15 / 20)}
GRIDS = {
    ("cifar", "conv"): Grid((1e-1, 5e-2, 1e-2, 5e-3), **_CIFAR),
    ("cifar", "lc"): Grid((1e-3, 5e-4, 1e-4, 5e-5), **_CIFAR),
    ("tinyimagenet", "conv"): Grid((5e-3, 1e-3, 5e-4), **_TINY),
    ("tinyimagenet", "lc"): Grid((1e-3, 5e-4), **_TINY),
    ("imagenet", "conv"): Grid((1e-3, 5e-4), (1e-2, 1e-4, 1e-6), **_IMAGENET),
    ("imagenet", "lc"): Grid((1e-3, 5e-4, 1e-4, 5e-5), (1e-2,), **_IMAGENET),
    ("imagenet", "1st-layer-conv"): Grid((1e-3, 5e-4), (1e-2, 1e-4, 1e-6), **_IMAGENET, skipped=((1e-3, 1e-2),)),
}


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none; the message has the nearest names.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}{_nearest(name)}. `python -m bioshare list` prints all names")
    return EXPERIMENTS[name]


def matching(pattern: str = "*") -> list[Experiment]:
    """The experiments whose name a shell pattern matches, or begins with: "table1", "*/cifar10/lc*".

    Raises:
        ValueError: there is none.
    """
    start = pattern.rstrip("/") + "/"
    found = [one for name, one in EXPERIMENTS.items() if fnmatchcase(name, pattern) or name.startswith(start)]
    if not found:
        raise ValueError(f"no experiment matches {pattern!r}{_nearest(pattern)}. Names read table1/cifar10/lc-ws10")
    return found


def grid(experiment: Experiment) -> list[TrainConfig]:
    """The grid search behind an experiment's learning rate and weight decay: a configuration per point.

    The validation split is held out and tested on, in the schedule of the search. The paper tuned "1st layer
    conv" only for LC and LC with sharing after every batch; its other rows get the same grid.
    """
    config, search = experiment.config, grid_of(experiment)
    shared = dataclasses.replace(config, epochs=search.epochs, milestones=search.milestones, validation=True)
    return [
        dataclasses.replace(shared, learning_rate=rate, weight_decay=decay)
        for rate, decay in product(search.learning_rates, search.weight_decays)
        if (rate, decay) not in search.skipped
    ]


def grid_of(experiment: Experiment) -> Grid:
    """The axes and the schedule of an experiment's grid search."""
    config = experiment.config
    dataset = "cifar" if config.dataset in ("cifar10", "cifar100") else config.dataset
    network = "1st-layer-conv" if config.keep_first else "lc" if config.locally_connected else "conv"
    return GRIDS[dataset, network]


def _experiments() -> Iterable[Experiment]:
    """All rows, table after table."""
    homes: dict[tuple[object, ...], str] = {}
    for number, table in TABLES.items():
        if number == "sleep":
            yield from _sleeping()
            continue
        for (dataset, row), (config, paper) in _trained(table.setting, number).items():
            name = f"table{number}/{dataset}/{row}"
            home = homes.setdefault((table.setting, dataset, row), name)
            yield Experiment(name, config, paper, home)


def _trained(setting: int | Literal["imagenet"], number: int) -> dict[tuple[str, str], tuple[TrainConfig, Paper]]:
    """(dataset, row) -> how it was trained, and the paper's numbers."""
    if isinstance(setting, int):
        (accuracy, spread, tuned), shared = map(cells, PRINTED[setting]), SMALL | {"padding": setting}
    else:
        accuracy, spread = cells(paper_tables.TABLE_2 if number == 2 else paper_tables.TABLE_12), {}
        tuned, shared = cells(paper_tables.IMAGENET_HYPERPARAMETERS), IMAGENET
    return {
        key: (
            TrainConfig(**shared, dataset=key[0], **_connectivity(key[1]), **tuned[key]),  # type: ignore[arg-type]
            Paper(**printed, **spread.get(key, {})),
        )
        for key, printed in accuracy.items()
    }


def _sleeping() -> Iterable[Experiment]:
    """The rows of our own table: Table 1's of CIFAR-10 without repetitions, and the same runs with simulated sleep.

    What sleeps has the learning rate and the weight decay of instant sharing at the same intervals.
    """
    table = {row: found for (dataset, row), found in _trained(4, 1).items() if dataset == "cifar10"}
    for row in ("conv", "lc"):
        yield Experiment(f"sleep/cifar10/{row}", *table[row], home=f"table1/cifar10/{row}")
    for row, sleeps in SLEEPS.items():
        instant, paper = table[row]
        yield Experiment(f"sleep/cifar10/{row}", instant, paper, home=f"table1/cifar10/{row}")
        for name, sleep in sleeps.items():
            name = f"sleep/cifar10/{row}-{name}"
            yield Experiment(name, dataclasses.replace(instant, **sleep), Paper(), home=name)


def _connectivity(row: str) -> dict[str, Any]:
    """The fields of TrainConfig that a row's name stands for."""
    repetitions, every = re.search(r"-(\d+)reps", row), re.search(r"-ws(\d+)", row)
    return {
        "locally_connected": row.startswith("lc"),
        "keep_first": int(row.endswith("/1st-layer-conv")),
        "repetitions": int(repetitions[1]) if repetitions else 1,
        "share_every": int(every[1]) if every else None,
    }


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, EXPERIMENTS, cutoff=0.5)
    return f"; near it: {', '.join(close)}" if close else ""


EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _experiments()}
"""By name, in the order of the tables and of their rows."""
