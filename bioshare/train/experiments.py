"""Experiments by name: every row of the tables of Pogodin 2021, of the other papers, and of our own.

The rows are in `bioshare.train.tables`, in modules that are imported when one of their rows is asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal

from bioshare.train.config import Every, TrainConfig
from bioshare.train.phases import phase_of
from bioshare.train.tables.rows import Paper as Paper
from bioshare.train.tables.rows import Row, TableName


@dataclass(frozen=True, kw_only=True)
class Experiment(Row):
    """A row of a table, with its name.

    Attributes:
        name: "table1/cifar10/lc-ws10" or "sleep/cifar10/lc-ws10-ideal": table, dataset, row.
        home: the name under which the tables show the runs first. Rows of one home are the same runs: Table 4 shows
            the runs of Table 1 again, Table 7 their ranges, Table 10 their hyperparameters.
    """

    name: str
    home: str

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


STUDIES = {
    "early": "why sharing hurts early in training",
    "realism": "the cost of realism",
    "controls": "what else could help",
    "questions": "open questions of the paper",
}
"""Tables of changes to the table "small", by name with the subject."""

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
    **{name: PaperTable("accuracy", "16 x 16", 3, note, ("lc", "lc-ws10")) for name, note in STUDIES.items()},
    "moskovitz": PaperTable("accuracy", 4, 1, "Table 1 of Moskovitz et al. 2018", ("bp",)),
    "akrout": PaperTable("accuracy", "ImageNet", 1, "Sec. 7 of Akrout et al. 2019", ("bp",)),
    "feedback": PaperTable("accuracy", "16 x 16", 3, "ways in which errors travel back", ("conv",)),
    "night": PaperTable("accuracy", "16 x 16", 3, "sleep and feedback", ("bp", "conv")),
    "signs": PaperTable("accuracy", "16 x 16", 3, "signs fixed from a part of the training on", ("never",)),
    "dascoli": PaperTable("accuracy", 0, 1, "d'Ascoli et al. 2019", ("conv", "plain")),
    "relax": PaperTable("accuracy", 0, 3, "d'Ascoli et al. 2019 with fewer channels and images", ("conv", "plain")),
    "patches": PaperTable("accuracy", "small images", 3, "networks of patches, Appendix A.4", ("shared", "unshared")),
}

MODULES: dict[str, tuple[TableName, ...]] = {
    "paper": (*range(1, 13), "sleep"),
    "miniature": ("small", *STUDIES),
    "feedback": ("moskovitz", "akrout", "feedback", "night", "signs"),
    "relaxed": ("dascoli", "relax"),
    "patches": ("patches",),
}
"""Tables by the module in `bioshare.train.tables` that has their rows."""


def find(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: the name is unknown; the message has the nearest names.
    """
    for experiment in _beginning(name):
        if experiment.name == name:
            return experiment
    raise ValueError(f"unknown experiment {name!r}{_nearest(name)}. `python -m bioshare list` prints all names")


def matching(pattern: str = "*") -> list[Experiment]:
    """The experiments whose name a shell pattern matches, or begins with: "table1", "*/cifar10/lc*".

    Raises:
        ValueError: no name matches.
    """
    start = pattern.rstrip("/") + "/"
    matches = [one for one in _beginning(pattern) if fnmatchcase(one.name, pattern) or one.name.startswith(start)]
    if not matches:
        raise ValueError(f"no experiment matches {pattern!r}{_nearest(pattern)}. Names read table1/cifar10/lc-ws10")
    return matches


def _beginning(pattern: str) -> list[Experiment]:
    """All experiments of the modules that have a table with which the pattern begins; of all for another beginning."""
    first = pattern.split("/")[0]
    known = [module for module, tables in MODULES.items() if first in map(_prefix, tables)]
    return [one for module in known or MODULES for one in _experiments(module)]


@cache
def _experiments(module: str) -> tuple[Experiment, ...]:
    """The experiments of a module, table after table."""
    homes: dict[tuple[object, ...], str] = {}
    tables = importlib.import_module(f"bioshare.train.tables.{module}").TABLES
    found = []
    for table in MODULES[module]:
        for rows in tables[table]:
            for row, one in rows.items():
                name = f"{_prefix(table)}/{one.setting.dataset_name}/{row}"
                home = homes.setdefault((one.setting, one.every, one.sleep, one.count, one.first), name)
                found.append(Experiment(**vars(one), name=name, home=home))
    return tuple(found)


def _prefix(table: TableName) -> str:
    """The start of the names of a table's rows."""
    return f"table{table}" if isinstance(table, int) else table


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, [one.name for one in _beginning("*")], cutoff=0.5)
    return f"; near it: {', '.join(close)}" if close else ""
