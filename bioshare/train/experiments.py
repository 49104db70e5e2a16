"""Every row of the paper's Tables 1-12 by name, with its configuration and the printed numbers; and tables of our own.

The table "sleep", which the paper lacks, has networks whose sleep is simulated beside the networks of Table 1. The
tables of `bioshare.train.miniature` are small enough for two cores.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from bioshare.bridge import InstantSharing
from bioshare.train import feedback_tables, miniature, paper_tables, patch_tables, relax_tables
from bioshare.train.config import AdamW, Convolutional, Every, LocallyConnected, TrainConfig
from bioshare.train.phases import (
    CircuitOptions,
    IdealOptions,
    NoisyCircuitOptions,
    NoisyIdealOptions,
    PhaseOptions,
    phase_of,
)

TableName = int | str
"""A number of the paper's table, or the name of a table of our own."""


@dataclass(frozen=True)
class Paper:
    """The numbers that the paper prints for a row, in per cent; None for a blank.

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
        setting: configuration without sleep, in the setting of the table; seed 0. Further phases follow the sleep.
        every: interval of the phase in batches, ws(n); None for a network that never shares.
        sleep: options of the phase, see `bioshare.train.phases.PHASES`.
        paper: the paper's numbers.
        home: the name under which the tables show the runs first. Rows of one home are the same runs: Table 4 shows
            the runs of Table 1 again, Table 7 their ranges, Table 10 their hyperparameters.
        count, first: as for `bioshare.train.config.Every`.
        references: rows in place of the table's references.
    """

    name: str
    setting: TrainConfig
    every: int | None
    sleep: PhaseOptions
    paper: Paper
    home: str
    count: Literal["epoch", "run"] = "epoch"
    first: int = 0
    references: tuple[str, ...] = ()

    @property
    def config(self) -> TrainConfig:
        """The configuration of the run with seed 0."""
        if self.every is None:
            return self.setting
        first = Every(self.every, phase_of(self.sleep, self.setting.seed), self.count, self.first)
        return dataclasses.replace(self.setting, phases=(first, *self.setting.phases))

    @property
    def table(self) -> TableName:
        """The table's name in `TABLES`."""
        name = self.name.split("/")[0]
        return int(name.removeprefix("table")) if name.startswith("table") else name

    @property
    def row(self) -> str:
        """The network's name within its table and dataset, "lc-ws10"."""
        return self.name.split("/", 2)[2]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or of our own.

    Attributes:
        shows: quantity in the cells.
        setting: padding 0, 4 or 8 of CIFAR and TinyImageNet; ImageNet; or a small setting.
        runs: number of seeds in the paper, and by default.
        note: a remark for the title.
        references: rows from which the table shows differences over the same seeds.
    """

    shows: Literal["accuracy", "max - min", "hyperparameters"]
    setting: int | Literal["ImageNet", "16 x 16", "small images"]
    runs: int = 5
    note: str = ""
    references: tuple[str, ...] = ("conv",)

    def __str__(self) -> str:
        setting = f"padding {self.setting}" if isinstance(self.setting, int) else self.setting
        return f"{self.shows}, {setting}, {self.runs} run{'s' * (self.runs > 1)}{self.note and f' ({self.note})'}"


TABLES: dict[TableName, PaperTable] = {
    1: PaperTable("accuracy", 4),
    2: PaperTable("accuracy", "ImageNet", runs=1),
    3: PaperTable("accuracy", 0),
    4: PaperTable("accuracy", 4),
    5: PaperTable("accuracy", 8),
    6: PaperTable("max - min", 0),
    7: PaperTable("max - min", 4),
    8: PaperTable("max - min", 8),
    9: PaperTable("hyperparameters", 0),
    10: PaperTable("hyperparameters", 4),
    11: PaperTable("hyperparameters", 8),
    12: PaperTable("accuracy", "ImageNet", runs=1),
    "sleep": PaperTable("accuracy", 4, note="Table 1; simulated sleep is not in the paper"),
    "small": PaperTable("accuracy", "16 x 16", note="Table 1 in miniature", references=("conv", "lc")),
    **{name: PaperTable("accuracy", "16 x 16", 3, note, ("lc", "lc-ws10")) for name, note in miniature.STUDIES.items()},
    "moskovitz": PaperTable("accuracy", 4, 1, "Table 1 of Moskovitz et al. 2018", ("bp",)),
    "akrout": PaperTable("accuracy", "ImageNet", 1, "Sec. 7 of Akrout et al. 2019", ("bp",)),
    "feedback": PaperTable("accuracy", "16 x 16", 3, "ways in which errors travel back", ("conv",)),
    "night": PaperTable("accuracy", "16 x 16", 3, "sleep and feedback", ("bp", "conv")),
    "signs": PaperTable("accuracy", "16 x 16", 3, "signs fixed from a part of the training on", ("never",)),
    "dascoli": PaperTable("accuracy", 0, 1, "d'Ascoli et al. 2019", ("conv", "plain")),
    "relax": PaperTable("accuracy", 0, 3, "d'Ascoli et al. 2019 with fewer channels and images", ("conv", "plain")),
    "patches": PaperTable("accuracy", "small images", 3, "networks of patches, Appendix A.4", ("shared", "unshared")),
}

SMALL: dict[str, Any] = {"batch_size": 512, "epochs": 200, "milestones": (100 / 200, 150 / 200)}
IMAGENET: dict[str, Any] = SMALL | {"batch_size": 256, "padding": 0}
NOISE = 0.01
"""Standard deviation of the noise: the power in all inputs of ResNet-20's widest layers, 576 x 0.01^2, is 6 % of the
power of the grid."""
_SLEEPS: dict[str, PhaseOptions] = {
    **{f"alpha{alpha}": CircuitOptions(alpha=float(alpha)) for alpha in (5, 10, 50)},
    "ideal": IdealOptions(),
    **{f"alpha{alpha}-noise": NoisyCircuitOptions(alpha=float(alpha), noise=NOISE) for alpha in (5, 10, 50)},
    "ideal-noise": NoisyIdealOptions(noise=NOISE),
}
_UNSCALED: dict[str, PhaseOptions] = {
    f"alpha{alpha}-unscaled": CircuitOptions(alpha=float(alpha), rescale=False) for alpha in (10, 50)
}
SLEEPS = {"lc-ws1": _SLEEPS, "lc-ws10": _SLEEPS | _UNSCALED, "lc-ws100": _SLEEPS}
"""Rows of the paper -> suffix of a row's name in our own table -> options of the sleep."""

PRINTED = {
    0: (paper_tables.TABLE_3, paper_tables.TABLE_6, paper_tables.TABLE_9),
    4: (paper_tables.TABLE_1, paper_tables.TABLE_7, paper_tables.TABLE_10),
    8: (paper_tables.TABLE_5, paper_tables.TABLE_8, paper_tables.TABLE_11),
}


def find(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: the name is unknown; the message has the nearest names.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}{_nearest(name)}. `python -m bioshare list` prints all names")
    return EXPERIMENTS[name]


def matching(pattern: str = "*") -> list[Experiment]:
    """The experiments whose name a shell pattern matches, or begins with: "table1", "*/cifar10/lc*".

    Raises:
        ValueError: no name matches.
    """
    start = pattern.rstrip("/") + "/"
    matches = [one for name, one in EXPERIMENTS.items() if fnmatchcase(name, pattern) or name.startswith(start)]
    if not matches:
        raise ValueError(f"no experiment matches {pattern!r}{_nearest(pattern)}. Names read table1/cifar10/lc-ws10")
    return matches


def _experiments() -> Iterable[Experiment]:
    """All rows, table after table; our own table has the rows of Table 1 for CIFAR-10 without repetitions.

    A simulated sleep has the learning rate and the weight decay of instant sharing at the same intervals.
    """
    homes: dict[tuple[object, ...], str] = {}
    for number, table in TABLES.items():
        if isinstance(number, int):
            for (dataset, row), one in _trained(table.setting, number).items():
                home = homes.setdefault((table.setting, dataset, row), one.name)
                yield dataclasses.replace(one, home=home)
    table_1 = _trained(4, 1)
    for row in ("conv", "lc", *SLEEPS):
        one = table_1["cifar10", row]
        yield dataclasses.replace(one, name=f"sleep/cifar10/{row}")
        for suffix, sleep in SLEEPS.get(row, {}).items():
            name = f"sleep/cifar10/{row}-{suffix}"
            yield dataclasses.replace(one, name=name, sleep=sleep, paper=Paper(), home=name)
    for table, rows in miniature.TABLES.items():
        for row, mini in rows.items():
            name = f"{table}/{mini.setting.dataset_name}/{row}"
            paper = table_1["cifar10", row].paper if ("cifar10", row) in table_1 else Paper()
            home = homes.setdefault((mini.setting.dataset_name, row), name)
            yield Experiment(name, mini.setting, mini.every, mini.sleep, paper, home, mini.count, mini.first)
    for table, feedback_rows in feedback_tables.TABLES.items():
        for row, one in feedback_rows.items():
            name = f"{table}/{one.setting.dataset_name}/{row}"
            home = homes.setdefault((one.setting, one.every), name)
            paper = Paper(one.top1, top1_diff=one.top1_diff)
            yield Experiment(name, one.setting, one.every, InstantSharing(), paper, home, references=one.references)
    for table, columns in relax_tables.TABLES.items():
        for dataset, relaxed_rows in columns.items():
            for row, one in relaxed_rows.items():
                name, paper = f"{table}/{dataset}/{row}", Paper(one.top1)
                yield Experiment(name, one.setting, one.every, one.sleep, paper, name, references=one.references)
    for dataset, patch_rows in patch_tables.ROWS.items():
        for row, one in patch_rows.items():
            name, kind = f"patches/{dataset}/{row}", row.split("-")[0]
            references = kind, f"{kind}-unshared"
            yield Experiment(name, one.setting, one.every, one.sleep, Paper(), name, references=references)


def _trained(setting: int | str, number: int) -> dict[tuple[str, str], Experiment]:
    """The experiments of a table by dataset and row."""
    shared: dict[str, Any]
    if isinstance(setting, int):
        accuracy, spread, tuned = map(printed_numbers, PRINTED[setting])
        architecture, shared = "resnet20", SMALL | {"padding": setting}
    else:
        accuracy, spread = printed_numbers(paper_tables.TABLE_2 if number == 2 else paper_tables.TABLE_12), {}
        tuned = printed_numbers(paper_tables.IMAGENET_HYPERPARAMETERS)
        architecture, shared = "resnet18", IMAGENET
    experiments: dict[tuple[str, str], Experiment] = {}
    for (dataset, row), printed in accuracy.items():
        repetitions, every = re.search(r"-(\d+)reps", row), re.search(r"-ws(\d+)", row)
        keep_first = int(row.endswith("/1st-layer-conv"))
        network = LocallyConnected(architecture, keep_first) if row.startswith("lc") else Convolutional(architecture)
        own: dict[str, Any] = {"repetitions": int(repetitions[1])} if repetitions else {}
        config = TrainConfig(dataset, network, AdamW(**tuned[dataset, row]), **shared | own)
        name, paper = f"table{number}/{dataset}/{row}", Paper(**printed, **spread.get((dataset, row), {}))
        interval = int(every[1]) if every else None
        experiments[dataset, row] = Experiment(name, config, interval, InstantSharing(), paper, home=name)
    return experiments


def printed_numbers(table: str) -> dict[tuple[str, str], dict[str, float]]:
    """The numbers of a printed table, (dataset, row) -> column -> number, dataset by dataset; without dashes."""
    first, second, *lines = table.strip("\n").splitlines()
    columns, rows = second.split(), [line.split() for line in lines]
    starts = [index for index, column in enumerate(columns) if column == columns[0]]
    read: dict[tuple[str, str], dict[str, float]] = {}
    for dataset, start, end in zip(first.split(), starts, [*starts[1:], None], strict=True):
        for name, *numbers in rows:
            pairs = list(zip(columns, numbers, strict=True))[start:end]
            read[dataset, name] = {column: float(number) for column, number in pairs if number != "-"}
    return read


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, EXPERIMENTS, cutoff=0.5)
    return f"; near it: {', '.join(close)}" if close else ""


EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _experiments()}
"""Experiments by name, in the order of the tables and of their rows."""
