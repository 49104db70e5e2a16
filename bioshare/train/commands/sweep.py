"""The appendix's grid search for an experiment: ``python -m bioshare sweep table1/cifar10/conv``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

import xarray as xr

from bioshare.bridge import KolenPollack
from bioshare.text import aligned, mean_and_deviation
from bioshare.train.commands.many_runs import ManyRuns
from bioshare.train.commands.options import (
    add_words,
    caution,
    check_used,
    configured,
    read_options,
)
from bioshare.train.config import AdamW, Convolutional
from bioshare.train.experiments import Experiment, find
from bioshare.train.fitting import fit
from bioshare.train.results import gather, write_result
from bioshare.train.runs import Job
from bioshare.train.stored import config_of

PointResults = dict[tuple[float, float, int], xr.Dataset]
"""Results by learning rate, weight decay and seed."""


@dataclass(frozen=True)
class GridSearch:
    """A grid search of Appendix B, or in miniature: the rates of CIFAR-10, and larger for locally connected networks.

    Attributes:
        learning_rates, weight_decays: axes of the grid.
        epochs, milestones: schedule of the search.
        skipped: (learning rate, weight decay) of the points that were left out.
    """

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    epochs: int
    milestones: tuple[float, ...]
    skipped: tuple[tuple[float, float], ...] = ()


_CIFAR = {"weight_decays": (1e-2, 1e-4), "epochs": 200, "milestones": (100 / 200, 150 / 200)}
_TINY = {"weight_decays": (1e-2, 1e-4), "epochs": 50, "milestones": (25 / 50, 37 / 50)}
_SMALL = {"weight_decays": (1e-2, 1e-4), "epochs": 15, "milestones": (0.5, 0.75)}
_FEEDBACK = {"epochs": 6, "milestones": (0.5, 0.75)}
_PATCHES = GridSearch((5e-2, 2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4), (1e-2,), epochs=10, milestones=(0.5, 0.75))
_IMAGENET = {"epochs": 20, "milestones": (10 / 20, 15 / 20)}
GRIDS = {
    ("cifar", "conv"): GridSearch((1e-1, 5e-2, 1e-2, 5e-3), **_CIFAR),
    ("cifar", "lc"): GridSearch((1e-3, 5e-4, 1e-4, 5e-5), **_CIFAR),
    # the paper's grids, and further rates since the best lay at an edge
    ("cifar10-16", "conv"): GridSearch((1e-1, 5e-2, 1e-2, 5e-3, 2e-3), **_SMALL),
    ("cifar10-16", "lc"): GridSearch(
        (5e-3, 2e-3, 1e-3, 5e-4, 1e-4, 5e-5), **_SMALL, skipped=((5e-3, 1e-4), (2e-3, 1e-4))
    ),
    ("feedback", "conv"): GridSearch((1e-2, 5e-3, 2e-3, 1e-3), (1e-4,), **_FEEDBACK),
    ("feedback", "lc"): GridSearch((5e-3, 2e-3, 1e-3, 5e-4), (1e-2,), **_FEEDBACK),
    ("kolen-pollack", "conv"): GridSearch((1e-2, 5e-3, 2e-3, 1e-3), (1e-1, 1e-2), **_FEEDBACK),
    ("kolen-pollack", "lc"): GridSearch((5e-3, 2e-3, 1e-3), (1e-1, 1e-2), **_FEEDBACK),
    ("tinyimagenet", "conv"): GridSearch((5e-3, 1e-3, 5e-4), **_TINY),
    ("tinyimagenet", "lc"): GridSearch((1e-3, 5e-4), **_TINY),
    ("imagenet", "conv"): GridSearch((1e-3, 5e-4), (1e-2, 1e-4, 1e-6), **_IMAGENET),
    ("imagenet", "lc"): GridSearch((1e-3, 5e-4, 1e-4, 5e-5), (1e-2,), **_IMAGENET),
    ("imagenet", "1st-layer-conv"): GridSearch((1e-3, 5e-4), (1e-2, 1e-4, 1e-6), **_IMAGENET, skipped=((1e-3, 1e-2),)),
}


def grid_search(experiment: Experiment) -> GridSearch:
    """The axes and the schedule of an experiment's grid search.

    Rows of the tables "feedback", "night" and "signs" have short grids of their own, with the weight decay of the
    network, and for Kolen-Pollack, which aligns by weight decay, two larger ones.

    Raises:
        ValueError: the row has the settings of a paper without a grid search.
    """
    if experiment.table in ("moskovitz", "akrout"):
        raise ValueError(
            f"{experiment.name} has the settings that its paper prints, and no grid search; the rows of the tables "
            '"feedback" and "night" have one'
        )
    if experiment.table == "patches":
        return _PATCHES
    name, network = experiment.setting.dataset_name, experiment.setting.network
    first = "1st-layer-conv" if getattr(network, "keep_first", 0) else "lc"
    kind = "conv" if isinstance(network, Convolutional) else first
    if experiment.table in ("feedback", "night", "signs"):
        aligning = any(isinstance(every.phase, KolenPollack) for every in experiment.setting.phases)
        return GRIDS["kolen-pollack" if aligning else "feedback", kind]
    return GRIDS["cifar" if name in ("cifar10", "cifar100") else name, kind]


def searched(experiment: Experiment) -> Experiment:
    """The experiment in the schedule of its grid search, tested on the validation split."""
    search = grid_search(experiment)
    schedule = {"epochs": search.epochs, "milestones": search.milestones, "validation": True}
    return replace(experiment, setting=replace(experiment.setting, **schedule))


def grid_points(experiment: Experiment) -> list[AdamW]:
    """The optimisers of an experiment's grid search.

    The paper tuned "1st layer conv" only for LC and LC with sharing after every batch; other rows get the same grid.
    """
    search = grid_search(experiment)
    points = product(search.learning_rates, search.weight_decays)
    return [AdamW(*point) for point in points if point not in search.skipped]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name and the words after the name."""
    add_words(parser, "sweep")


def main(arguments: argparse.Namespace) -> None:
    """Search the appendix's grid over learning rate and weight decay, and print the best beside the paper's choice."""
    experiment = find(arguments.name)
    row, axes = searched(experiment), ("learning_rate", "weight_decay")
    own, fitting, given = read_options(
        f"sweep {experiment.name}", arguments.options, row, ManyRuns, without=(*axes, "seed", "resume")
    )
    own.setdefault("seeds", 1)
    options = ManyRuns(**own, fitting=fitting)
    jobs = {}
    for seed in range(options.seeds):
        config, used = configured(row, given | {"seed": seed})
        check_used(given, used, experiment.name)
        for point in grid_points(experiment):
            rate, decay = point.learning_rate, point.weight_decay
            home = f"sweep/{experiment.home}/learning-rate-{rate:g}-weight-decay-{decay:g}"
            jobs[rate, decay, seed] = Job.of(home, replace(config, optimizer=point), options.to)
    outcomes = options.outcomes(list(jobs.values()), fit)
    results = {key: outcomes.results[job.name] for key, job in jobs.items() if job.name in outcomes.results}
    configs = [config_of(result.attrs.get("config"), options.to) for result in results.values()]
    made = configs if options.show else [job.config for job in jobs.values()]
    pairs = [(config, replace(row.config, optimizer=config.optimizer)) for config in made]
    print(f"{sweep_report(experiment, results)}{caution(pairs)}")
    if results:
        search = grid_search(experiment)
        grid = {"learning_rate": search.learning_rates, "weight_decay": search.weight_decays}
        path = options.to / "sweep" / f"{experiment.home.replace('/', '-')}.nc"
        write_result(path, gather(results, grid | {"seed": range(options.seeds)}).assign_attrs(name=experiment.home))
    options.report_endings(list(jobs.values()), outcomes)


def sweep_report(experiment: Experiment, results: PointResults) -> str:
    """The grid of accuracies, the best point and the paper's choice."""
    search = grid_search(experiment)
    points: dict[tuple[float, float], list[float]] = {}
    for (rate, decay, _), result in results.items():
        points.setdefault((rate, decay), []).append(float(result["top1"][-1]))
    lines = [["learning rate", *(f"weight decay {decay:g}" for decay in search.weight_decays)]]
    for rate in search.learning_rates:
        cells = [mean_and_deviation(points.get((rate, decay), [])) for decay in search.weight_decays]
        lines.append([f"{rate:g}", *cells])
    say = lambda point: f"learning rate {point[0]:g}, weight decay {point[1]:g}"
    own = experiment.setting.optimizer
    whose = "the paper chose" if isinstance(experiment.table, int) else "the table has"
    choice = f"{whose} {say((own.learning_rate, own.weight_decay))}"
    best = "nothing is finished"
    if points:
        missing = len(grid_points(experiment)) - len(points)
        still = f" (points missing: {missing})" if missing else ""
        best = f"best: {say(max(points, key=lambda point: fmean(points[point])))}{still}"
    return f"{experiment.name}: top-1 %, the last epoch's\n{aligned(lines)}\n{best}; {choice}"
