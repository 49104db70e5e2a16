"""A row of a table: a network in training, its sleep, and the numbers of a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bioshare.bridge import InstantSharing
from bioshare.train.config import TrainConfig
from bioshare.train.phases import PhaseOptions

TableName = int | str
"""A number of the table in Pogodin 2021, or the name of another paper's or of our own."""


@dataclass(frozen=True)
class Paper:
    """The numbers that a paper prints for a row, in per cent; None for a blank.

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
class Row:
    """A row of a table.

    Attributes:
        setting: configuration without sleep, in the setting of the table; seed 0. Further phases follow the sleep.
        every: interval of the phase in batches, ws(n); None for a network that never shares.
        sleep: options of the phase, see `bioshare.train.phases.PHASES`.
        paper: the paper's numbers.
        references: rows for paired differences, in place of the table's.
        count, first: as for `bioshare.train.config.Every`.
    """

    setting: TrainConfig
    every: int | None = None
    sleep: PhaseOptions = field(default_factory=InstantSharing)
    paper: Paper = field(default_factory=Paper)
    references: tuple[str, ...] = ()
    count: Literal["epoch", "run"] = "epoch"
    first: int | float = 0


Tables = dict[TableName, Sequence[Mapping[str, Row]]]
"""Rows by name, data set after data set, of every table."""
