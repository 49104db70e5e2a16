"""A table of the paper, trained: ``python -m bioshare table 1 --dataset cifar10 --seeds 5``; or ``table sleep``."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from bioshare.text import aligned, mean_and_deviation, number, paired_difference
from bioshare.train.commands.many_runs import ManyRuns
from bioshare.train.commands.options import (
    COPIES,
    add_words,
    caution,
    check_used,
    comparable,
    configured,
    read_options,
)
from bioshare.train.experiments import MODULES, TABLES, Experiment, Paper, matching
from bioshare.train.fitting import fit
from bioshare.train.relax_measures import report as relaxed_report
from bioshare.train.relax_measures import stacked, stored_relaxation
from bioshare.train.results import VERSIONED, gather, seconds_spent, write_result
from bioshare.train.runs import Job
from bioshare.train.stored import config_of

RowResults = dict[tuple[str, int], xr.Dataset]
"""Results by row and seed."""

LONGEST = 200
"""Characters of a file's name; most file systems have 255, of which the ending and a temporary file take some."""

APART = (
    *("layers", "keep_first", "start", "normalisation", "space", "match_positions", "snapshots", "start_from"),
    *("sleep", "alpha", "noise", "rescale", "repetitions", "seed", "resume"),
)
"""Settings that tell rows apart, and so are no options of a table."""


@dataclass(frozen=True, kw_only=True)
class TableRuns(ManyRuns):
    """The runs of a table that are missing.

    Attributes:
        columns: columns of this data set in the table, whose hyperparameters the runs have. None for the columns of the
            images in --dataset, or else the table's first; without --dataset, for all columns.
        rows: these rows, such as ``conv lc lc-ws10``; none for all of the table but, of the paper's size,
            those with noise, whose sleep is simulated neuron by neuron: months on a CPU.
    """

    columns: str | None = None
    rows: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the table's name and the words after the name."""
    names = [str(name) for name, table in TABLES.items() if table.shows != "hyperparameters"]
    listed = {module: ", ".join(map(str, tables)) for module, tables in MODULES.items()}
    help_text = (
        "1 to 8, or 12, of the paper's; Tables 9 to 11 are the hyperparameters, which `list table9` prints and `sweep` "
        "searches. Or one of our own: sleep, whose sleep is simulated; or in miniature, for two cores: "
        f"{listed['miniature']}; patches, a vision transformer and an MLP-Mixer without shared weights; networks "
        f"without weight transport: {listed['feedback']}; or networks whose constraints are lifted during training: "
        f"{listed['relaxed']}"
    )
    add_words(parser, "table", {"dest": "table", "choices": names, "metavar": "TABLE", "help": help_text})


def main(arguments: argparse.Namespace) -> None:
    """Train the missing runs of a table, print the table beside the paper's, and save it, dataset by dataset."""
    prefix = f"table{arguments.table}" if arguments.table.isdigit() else arguments.table
    rows, title = matching(f"{prefix}/*"), f"table {arguments.table}"
    own, fitting, given = read_options(title, arguments.options, rows[0], TableRuns, without=APART)
    own.setdefault("seeds", TABLES[rows[0].table].runs)
    options = TableRuns(**own, fitting=fitting)
    columns = options.columns or _columns_of(given.get("source"), rows)
    rows = _named_rows(rows, columns, options.rows)
    jobs = _table_jobs(rows, options, given)
    outcomes = options.outcomes(list(jobs.values()), fit)
    for dataset, group in groupby(rows, lambda row: row.setting.dataset_name):
        group = list(group)
        names = {(row.row, seed): jobs[row.name, seed].name for row in group for seed in range(options.seeds)}
        results = {key: outcomes.results[name] for key, name in names.items() if name in outcomes.results}
        used = {row.name: [jobs[row.name, 0].config] for row in group}
        if options.show:  # whatever the runs were made with
            stored = {key: config_of(result.attrs.get("config"), options.to) for key, result in results.items()}
            used = {row.name: [config for (name, _), config in stored.items() if name == row.row] for row in group}
        spent = costs(results.values())
        text = table_report([comparable(row, used[row.name]) for row in group], results)
        pairs = [(config, row.config) for row in group for config in used[row.name]]
        folders = {(row.row, seed): jobs[row.name, seed].folder for row in group for seed in range(options.seeds)}
        measured = {key: one for key in results if (one := stored_relaxation(folders[key]))}
        moved = relaxed_report(measured, [row.row for row in group])
        print("\n".join(filter(None, (text, moved, spent))) + f"{caution(pairs)}\n")
        if results and not options.show:
            stored = _table_dataset(group, results, options.seeds, spent)
            if measured:
                stored = stored.merge(stacked(measured, [row.row for row in group], options.seeds))
            write_result(options.to / table_file(prefix, dataset, options.rows), stored)
    options.report_endings(list(jobs.values()), outcomes)


def table_file(table: str, dataset: str, rows: Sequence[str]) -> str:
    """Name of the file of a table, which names the rows, or counts rows whose names are too long for a file system."""
    name = "-".join([table, dataset, *rows])
    if len(name) > LONGEST:
        name = f"{table}-{dataset}-{len(rows)}-rows-{zlib.crc32(' '.join(rows).encode()):08x}"
    return f"{name}.nc"


def _table_jobs(rows: Sequence[Experiment], options: TableRuns, given: dict[str, Any]) -> dict[tuple[str, int], Job]:
    """The run of every row and seed; a setting changes the rows that have a use for it.

    Raises:
        ValueError: a row can't have a setting, or no row has a use for it.
    """
    jobs, used = {}, set()
    for row in rows:
        own = given if row.every else {name: value for name, value in given.items() if name != "every"}
        for seed in range(options.seeds):
            try:
                config, in_use = configured(row, own | {"seed": seed})
            except ValueError as error:
                raise ValueError(f"{row.name}: {error}") from error
            used |= in_use
            jobs[row.name, seed] = Job.of(row.home, config, options.to)
    check_used(given, used, f"any of these rows: {', '.join(row.row for row in rows)}")
    return jobs


def table_report(rows: Sequence[Experiment], results: RowResults) -> str:
    """Our numbers beside the paper's, if the paper has any; ``rows`` are of one table and dataset."""
    table, printed = TABLES[rows[0].table], any(row.paper.top1 is not None for row in rows)
    quantities = ["top1"] if rows[0].paper.top5 is None else ["top1", "top5"]
    columns = _ranges if table.shows == "max - min" else _accuracies
    heads = ["network", "seeds"]
    for quantity in quantities:
        unit = f"top-{quantity[-1]} %"
        differences = [f"- {reference}" for reference in table.references]
        heads += [f"{unit} max - min", "paper"] if columns is _ranges else [unit, "paper", *differences, "diff"]
    lines = []
    for row in rows:
        seeds = sum(name == row.row for name, _ in results)
        cells = [cell for quantity in quantities for cell in columns(row, quantity, results)]
        lines.append([row.row, str(seeds), *cells])
    small = rows[0].table in MODULES["miniature"]  # beside numbers of the large table
    theirs = "The paper's: " * (printed and not small)
    title = f"Table {rows[0].table}, {rows[0].setting.dataset_name}. {theirs}{table}. "
    title += "The paper's: Table 1, 32 x 32, 50,000 images. " * (printed and small)
    title += "Ours: the last epoch, over seeds" + "; differences with standard error" * (columns is _accuracies)
    return f"{title}\n{aligned([heads, *lines])}"


def _accuracies(experiment: Experiment, quantity: str, results: RowResults) -> list[str]:
    """Accuracy and paired differences to the references, ours and the paper's difference to conv."""
    ours, differences = _by_seed(results, experiment.row, quantity), []
    for reference in experiment.references or TABLES[experiment.table].references:
        other = _by_seed(results, reference, quantity) if reference != experiment.row else {}
        seeds = ours.keys() & other.keys()
        differences.append(paired_difference([ours[seed] for seed in seeds], [other[seed] for seed in seeds]) or "-")
    accuracy, printed = (getattr(experiment.paper, quantity + suffix) for suffix in ("", "_diff"))
    return [mean_and_deviation([*ours.values()]), number(accuracy), *differences, number(printed, "+.1f")]


def _ranges(experiment: Experiment, quantity: str, results: RowResults) -> list[str]:
    """Maximum minus minimum, ours and the paper's."""
    ours = _by_seed(results, experiment.row, quantity).values()
    spread = max(ours) - min(ours) if len(ours) > 1 else None
    return [number(spread), number(getattr(experiment.paper, f"{quantity}_range"))]


def _by_seed(results: RowResults, row: str, quantity: str) -> dict[int, float]:
    """The last value of a quantity for every seed of a row."""
    return {seed: float(result[quantity][-1]) for (name, seed), result in results.items() if name == row}


def costs(results: Iterable[xr.Dataset]) -> str:
    """A line for every kind of machine: number of runs, minutes of training and tests, device and versions.

    Runs without a clock have no line.
    """
    kinds: dict[str, list[float]] = {}
    for result in results:
        if "seconds" in result and "device" in result.attrs:
            device, host = result.attrs["device"], result.attrs.get("machine", "unknown")
            where = [str(host) if device == "cpu" else f"{device} ({host})"]
            where += [str(result.attrs[name]) for name in ("precision_used",) if name in result.attrs]
            where += [f"{name} {result.attrs[name]}" for name in ("bioshare", *VERSIONED) if name in result.attrs]
            kinds.setdefault(", ".join(where), []).append(float(seconds_spent(result)) / 60)
    return "\n".join(
        f"Cost: {len(minutes)} run{'s' * (len(minutes) > 1)}, {sum(minutes):.1f} min of training and tests; {where}."
        for where, minutes in kinds.items()
    )


def _table_dataset(rows: Sequence[Experiment], results: RowResults, seeds: int, spent: str) -> xr.Dataset:
    """The histories of all runs with the axes row, seed, epoch, and the paper's numbers by row."""
    dataset = gather(results, {"row": [row.row for row in rows], "seed": range(seeds)})
    for field in fields(Paper):
        values = [getattr(row.paper, field.name) for row in rows]
        dataset[f"paper_{field.name}"] = "row", np.array(values, float)
    return dataset.assign_attrs(table=rows[0].table, shows=str(TABLES[rows[0].table]), costs=spent)


def _columns_of(images: str | None, rows: Sequence[Experiment]) -> str | None:
    """The table's data set for images to train on: of the same images, or else the first; None for no images."""
    datasets = [row.setting.dataset_name for row in rows]
    original = COPIES.get(images or "", images)
    return original if images is None or original in datasets else datasets[0]


def _named_rows(rows: Sequence[Experiment], dataset: str | None, names: Sequence[str]) -> list[Experiment]:
    """The rows of a dataset with these names; without names all rows without noise."""
    datasets = list(dict.fromkeys(row.setting.dataset_name for row in rows))
    if dataset not in (None, *datasets):
        raise ValueError(
            f"columns must be one of Table {rows[0].table}'s, {', '.join(datasets)}; got {dataset!r}. Other images "
            "to train the rows on are a matter of --dataset"
        )
    rows = [row for row in rows if dataset in (None, row.setting.dataset_name)]
    unknown = set(names) - {row.row for row in rows}
    if unknown:
        known = ", ".join(dict.fromkeys(row.row for row in rows))
        raise ValueError(f"rows must be of {known}; got {', '.join(sorted(unknown))}")
    return [row for row in rows if (row.row in names if names else not row.row.endswith("-noise"))]
