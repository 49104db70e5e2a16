"""A table of the paper, trained: ``python -m bioshare table 1 --dataset cifar10 --seeds 5``; or ``table sleep``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from statistics import fmean
from typing import Annotated, Literal

import numpy as np
import tyro
import xarray as xr

from bioshare.text import aligned, mean_and_deviation, number
from bioshare.train.commands.costs import costs
from bioshare.train.commands.options import (
    Hidden,
    ManyRuns,
    add_options,
    caution,
    changes,
    comparable,
    parse,
    plain,
)
from bioshare.train.config import SIMULATED, DatasetName, TrainConfig
from bioshare.train.experiments import TABLES, Experiment, Paper, matching
from bioshare.train.gather import configuration, gather
from bioshare.train.loop import fit
from bioshare.train.results import write_result
from bioshare.train.runs import Job

Results = dict[tuple[str, int], xr.Dataset]
"""By row and seed."""


@dataclass(frozen=True)
class RowConfig(TrainConfig):
    """What may be changed in all rows of a table: not what tells them apart."""

    dataset: Annotated[
        DatasetName, tyro.conf.arg(name="source", help="images to train on, such as another copy of the dataset's.")
    ] = "cifar10"
    locally_connected: Hidden[bool] = False
    keep_first: Hidden[int] = 0
    share_every: Hidden[int | None] = None
    sleep: Hidden[Literal["instant", "ideal", "circuit"]] = "instant"
    alpha: Hidden[float] = 10.0
    noise: Hidden[float] = 0.0
    rescale: Hidden[bool] = True
    repetitions: Hidden[int] = 1
    seed: Hidden[int] = 0

    def _refuse_contradictions(self) -> None:
        """Left to `applied`: what means nothing to one row does to another."""


@dataclass(frozen=True, kw_only=True)
class Options(ManyRuns):
    """Train what is missing of a table, and print it beside the paper's.

    Attributes:
        dataset: columns of this dataset; None for all of the table.
        rows: these rows, such as ``conv lc lc-ws10``; none for all of the table but those with noise, whose sleep
            is simulated neuron by neuron: months on a CPU.
        config: what to change in every row; the defaults shown are the first row's.
    """

    dataset: str | None = None
    rows: tuple[str, ...] = ()
    config: tyro.conf.OmitArgPrefixes[RowConfig]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table's name; everything after it is read with its experiments at hand."""
    names = [str(name) for name, table in TABLES.items() if table.shows != "hyperparameters"]
    help_text = (
        "1 to 8, or 12, of the paper's; Tables 9 to 11 are the hyperparameters, which `list table9` prints and `sweep` "
        "searches. Or sleep: networks whose sleep is simulated, which the paper lacks"
    )
    parser.add_argument("table", choices=names, metavar="TABLE", help=help_text)
    add_options(parser, "table TABLE")


def main(arguments: argparse.Namespace) -> None:
    """Train, print and save, dataset by dataset."""
    prefix = arguments.table if arguments.table == "sleep" else f"table{arguments.table}"
    rows = matching(f"{prefix}/*")
    options = _options(arguments, rows[0])
    rows = _named(_of_dataset(rows, options.dataset), options.rows)
    changed = {row.name: _options(arguments, row).config for row in rows}
    configs = {row.name: applied(changed[row.name], row) for row in rows}
    _refuse_useless(rows, changed, configs)
    jobs = {
        (row.name, seed): Job.of(row.home, plain(configs[row.name], seed=seed), options.to)
        for row in rows
        for seed in range(options.seeds)
    }
    outcomes = options.outcomes(list(jobs.values()), fit)
    for dataset, group in groupby(rows, lambda row: row.config.dataset):
        group = list(group)
        names = {(row.row, seed): jobs[row.name, seed].name for row in group for seed in range(options.seeds)}
        results = {key: outcomes.results[name] for key, name in names.items() if name in outcomes.results}
        used = {row.name: _used(row, results) if options.show else [configs[row.name]] for row in group}
        differing = [text for row in group for config in used[row.name] for text in changes(config, row.config)]
        spent = costs(results.values())
        text = report([comparable(row, used[row.name]) for row in group], results)
        print("\n".join(filter(None, (text, spent))) + f"{caution(differing)}\n")
        if results and not options.show:
            name = "-".join([prefix, dataset, *options.rows])
            write_result(options.to / f"{name}.nc", _dataset(group, results, options.seeds).assign_attrs(costs=spent))
    options.tell(list(jobs.values()), outcomes)


def applied(changed: RowConfig, row: Experiment) -> TrainConfig:
    """A row's configuration with the changes that mean something to it."""
    own = row.config
    without = [
        *(SIMULATED if own.sleep == "instant" else ()),
        *(("moments",) if own.share_every is None else ()),
        *(("pool",) if own.noise else ()),
    ]
    try:
        return plain(changed, **{name: getattr(own, name) for name in without})
    except ValueError as error:
        raise ValueError(f"{row.name}: {error}") from error


def _refuse_useless(
    rows: Sequence[Experiment], changed: Mapping[str, TrainConfig], configs: Mapping[str, TrainConfig]
) -> None:
    """Refuse a change that means nothing to any of the rows."""
    for field in fields(TrainConfig):
        value = lambda configuration, name=field.name: getattr(configuration, name)
        asked = [row for row in rows if value(changed[row.name]) != value(row.config)]
        if asked and not any(value(configs[row.name]) != value(row.config) for row in rows):
            raise ValueError(f"{field.name} has no use in any of these rows: {', '.join(row.row for row in rows)}")


def report(rows: Sequence[Experiment], results: Results) -> str:
    """Ours beside the paper's; ``rows`` are of one table and dataset."""
    table = TABLES[rows[0].table]
    quantities = ["top1"] if rows[0].paper.top5 is None else ["top1", "top5"]
    columns = _ranges if table.shows == "max - min" else _accuracies
    heads = ["network", "seeds"]
    for quantity in quantities:
        unit = f"top-{quantity[-1]} %"
        heads += [f"{unit} max - min", "paper"] if columns is _ranges else [unit, "paper", "diff", "paper"]
    lines = []
    for row in rows:
        seeds = sum(name == row.row for name, _ in results)
        cells = [cell for quantity in quantities for cell in columns(row, quantity, results)]
        lines.append([row.row, str(seeds), *cells])
    title = f"Table {rows[0].table}, {rows[0].config.dataset}. The paper's: {table}. Ours: the last epoch, over seeds"
    return f"{title}\n{aligned([heads, *lines])}"


def _accuracies(experiment: Experiment, quantity: str, results: Results) -> list[str]:
    """Accuracy and difference to conv, ours and the paper's."""
    ours, conv = (_last(results, row, quantity) for row in (experiment.row, "conv"))
    difference = fmean(ours) - fmean(conv) if ours and conv and experiment.row != "conv" else None
    accuracy, printed = (getattr(experiment.paper, quantity + suffix) for suffix in ("", "_diff"))
    return [mean_and_deviation(ours), number(accuracy), number(difference, "+.1f"), number(printed, "+.1f")]


def _ranges(experiment: Experiment, quantity: str, results: Results) -> list[str]:
    """Maximum minus minimum, ours and the paper's."""
    ours = _last(results, experiment.row, quantity)
    spread = max(ours) - min(ours) if len(ours) > 1 else None
    return [number(spread), number(getattr(experiment.paper, f"{quantity}_range"))]


def _used(experiment: Experiment, results: Results) -> list[TrainConfig]:
    """What the runs of a row were made with."""
    return [configuration(result) for (row, _), result in results.items() if row == experiment.row]


def _last(results: Results, row: str, quantity: str) -> list[float]:
    """A value for every seed of a row."""
    return [float(result[quantity][-1]) for (name, _), result in results.items() if name == row]


def _dataset(rows: Sequence[Experiment], results: Results, seeds: int) -> xr.Dataset:
    """The histories of all runs with the axes row, seed, epoch, and the paper's numbers by row."""
    dataset = gather(results, {"row": [row.row for row in rows], "seed": range(seeds)})
    for field in fields(Paper):
        values = [getattr(row.paper, field.name) for row in rows]
        dataset[f"paper_{field.name}"] = "row", np.array(values, float)
    return dataset.assign_attrs(table=rows[0].table, shows=str(TABLES[rows[0].table]))


def _options(arguments: argparse.Namespace, row: Experiment) -> Options:
    """What was asked for, with a row's settings where nothing was said."""
    default = Options(config=RowConfig(**asdict(row.config)), seeds=TABLES[row.table].runs)
    return parse(default, arguments.options, f"table {arguments.table}")


def _of_dataset(rows: Sequence[Experiment], dataset: str | None) -> Sequence[Experiment]:
    """The rows of a dataset; all for None."""
    there = list(dict.fromkeys(row.config.dataset for row in rows))
    if dataset not in (None, *there):
        raise ValueError(
            f"dataset must be one of Table {rows[0].table}'s, {', '.join(there)}; got {dataset!r}. Other images "
            "to train its rows on are a matter of --source"
        )
    return [row for row in rows if dataset in (None, row.config.dataset)]


def _named(rows: Sequence[Experiment], names: Sequence[str]) -> Sequence[Experiment]:
    """The rows of these names; for none all that train without noise."""
    unknown = set(names) - {row.row for row in rows}
    if unknown:
        there = ", ".join(dict.fromkeys(row.row for row in rows))
        raise ValueError(f"rows must be of {there}; got {', '.join(sorted(unknown))}")
    return [row for row in rows if (row.row in names if names else not row.config.noise)]
