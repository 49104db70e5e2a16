"""The appendix's grid search for an experiment: ``python -m bioshare sweep table1/cifar10/conv``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import tyro
import xarray as xr

from bioshare.text import aligned, mean_and_deviation
from bioshare.train.commands.options import Hidden, ManyRuns, add_name, caution, changes, parse, plain
from bioshare.train.config import TrainConfig
from bioshare.train.experiments import Experiment, Grid, find, grid, grid_of
from bioshare.train.gather import configuration, gather
from bioshare.train.loop import fit
from bioshare.train.results import write_result
from bioshare.train.runs import Job

Results = dict[tuple[float, float, int], xr.Dataset]
"""By learning rate, weight decay and seed."""


@dataclass(frozen=True)
class PointConfig(TrainConfig):
    """What may be changed at all points of a grid: not where they lie."""

    learning_rate: Hidden[float] = 1e-3
    weight_decay: Hidden[float] = 1e-2
    seed: Hidden[int] = 0


@dataclass(frozen=True, kw_only=True)
class Options(ManyRuns):
    """Search the appendix's grid over learning rate and weight decay, and print the best beside the paper's choice.

    Attributes:
        config: what to change at every point.
    """

    config: tyro.conf.OmitArgPrefixes[PointConfig]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name and what follows it."""
    add_name(parser, "sweep")


def main(arguments: argparse.Namespace) -> None:
    """Train, print and save."""
    experiment = find(arguments.name)
    points = grid(experiment)
    default = Options(config=PointConfig(**asdict(points[0])), seeds=1)
    options = parse(default, arguments.options, f"sweep {experiment.name}")
    jobs = dict(_jobs(experiment, points, options))
    outcomes = options.outcomes(list(jobs.values()), fit)
    results = {key: outcomes.results[job.name] for key, job in jobs.items() if job.name in outcomes.results}
    used = map(configuration, results.values()) if options.show else [plain(options.config)]
    changed = [text for config in used for text in changes(config, _at(points[0], config))]
    print(f"{report(experiment, results)}{caution(changed)}")
    if results:
        search = grid_of(experiment)
        axes = {"learning_rate": search.learning_rates, "weight_decay": search.weight_decays}
        path = options.to / "sweep" / f"{experiment.home.replace('/', '-')}.nc"
        write_result(path, gather(results, axes | {"seed": range(options.seeds)}).assign_attrs(name=experiment.home))
    options.tell(list(jobs.values()), outcomes)


def report(experiment: Experiment, results: Results) -> str:
    """The grid of accuracies, the best and the paper's choice."""
    search = grid_of(experiment)
    lines = [["learning rate", *(f"weight decay {decay:g}" for decay in search.weight_decays)]]
    for rate in search.learning_rates:
        cells = [mean_and_deviation(_last(results, rate, decay)) for decay in search.weight_decays]
        lines.append([f"{rate:g}", *cells])
    return f"{experiment.name}: top-1 %, the last epoch's\n{aligned(lines)}\n{_choices(experiment, search, results)}"


def _choices(experiment: Experiment, search: Grid, results: Results) -> str:
    """The best point and the table's, in words."""
    say = lambda point: f"learning rate {point[0]:g}, weight decay {point[1]:g}"
    config = experiment.config
    whose = "the table has" if experiment.paper.top1 is None else "the paper chose"
    chosen = f"{whose} {say((config.learning_rate, config.weight_decay))}"
    means = {(rate, decay): fmean(_last(results, rate, decay)) for rate, decay, _ in results}
    if not means:
        return f"nothing is finished; {chosen}"
    missing = len(grid(experiment)) - len(means)
    still = f" (points missing: {missing})" if missing else ""
    return f"best: {say(max(means, key=lambda point: means[point]))}{still}; {chosen}"


def _jobs(
    experiment: Experiment, points: list[TrainConfig], options: Options
) -> Iterator[tuple[tuple[float, float, int], Job]]:
    """Every point and seed with its job."""
    for point in points:
        rate, decay = point.learning_rate, point.weight_decay
        home = f"sweep/{experiment.home}/learning-rate-{rate:g}-weight-decay-{decay:g}"
        for seed in range(options.seeds):
            config = plain(options.config, learning_rate=rate, weight_decay=decay, seed=seed)
            yield (rate, decay, seed), Job.of(home, config, options.to)


def _at(point: TrainConfig, other: TrainConfig) -> TrainConfig:
    """A point, moved to where the other lies in the grid."""
    return replace(point, learning_rate=other.learning_rate, weight_decay=other.weight_decay)


def _last(results: Results, rate: float, decay: float) -> list[float]:
    """A value for every seed of a point."""
    return [float(result["top1"][-1]) for (*point, _), result in results.items() if point == [rate, decay]]
