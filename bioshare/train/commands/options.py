"""What the commands that train have in common: their options, read by tyro from dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import xarray as xr

from bioshare.nn.forms import Form
from bioshare.nn.functional import prefer
from bioshare.train.config import TrainConfig
from bioshare.train.data import load
from bioshare.train.experiments import Experiment
from bioshare.train.gather import complete
from bioshare.train.loop import CHECKPOINT
from bioshare.train.runs import Job, Outcomes, run_all

COPIES = {"cifar10-jpeg": "cifar10"}
"""Data sets whose images are another's, stored differently."""

TIME_UP = 75
"""The exit status of a command that is to be given again: EX_TEMPFAIL of sysexits.h."""

T = TypeVar("T")
Hidden = Annotated[tyro.conf.Suppress[T], tyro.conf.Fixed]
"""A field that the command line doesn't have."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where to compute; it does not belong to the experiment.

    Attributes:
        data: folder of the prepared data sets; None for $BIOSHARE_DATA, or else data.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is a GPU if there is one.
        threads: of PyTorch on the CPU; None for its default.
        checkpoint_every: seconds between two checkpoints of a run; None for 600, or 120 for many runs.
        minutes: stop after that time with checkpoints, and the exit status 75; the same command goes on (`train` needs
            --resume for that). None to train to the end.
        graphs: replay training steps from CUDA graphs, or not; neither for wherever that is possible.
        form: of the locally connected products on a GPU: batched matrix products, fused kernels, or the fastest.
    """

    data: Path | None = None
    device: str = "auto"
    threads: int | None = None
    checkpoint_every: float | None = None
    minutes: float | None = None
    graphs: tyro.conf.DisallowNone[bool | None] = None  # flags: --graphs and --no-graphs
    form: Form = "auto"

    def __post_init__(self) -> None:
        self._at_least_1("threads")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0; got {self.minutes:g}")

    @property
    def seconds(self) -> float | None:
        """The minutes in seconds."""
        return None if self.minutes is None else 60 * self.minutes

    @property
    def fitting(self) -> dict[str, Any]:
        """What `fit` and what has its arguments are to be told, whoever calls it."""
        every = {} if self.checkpoint_every is None else {"checkpoint_every": self.checkpoint_every}
        return {"graphs": self.graphs, "form": self.form, **every}

    def _at_least_1(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")


@dataclass(frozen=True, kw_only=True)
class ManyRuns(Computing):
    """How to train many runs: those that are finished stay, those that were begun are resumed.

    Attributes:
        seeds: how many runs of everything, from seed 0.
        to: folder under which the runs live, and their results in one file.
        show: train nothing; show what is finished, in whatever setting.
        scheduler: address of a Dask scheduler to train on, such as tcp://host:8786; its workers need one thread each,
            and must see the same folders. None for this machine.
        workers: how many runs at a time; None for all workers of the scheduler, or here for one per GPU, or one.
        discard_checkpoints: delete the checkpoint of every run that is finished (of LC ResNet-20 0.5 GB). Its result
            stays, its weights do not. Those that had finished before lose theirs, too; not with show.
    """

    seeds: int = 5
    to: Path = Path("runs")
    show: bool = False
    scheduler: str | None = None
    workers: int | None = None
    discard_checkpoints: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_1("seeds", "workers")

    def outcomes(self, jobs: Sequence[Job], run: Callable[..., xr.Dataset]) -> Outcomes:
        """Train the jobs, or read the results of those that are finished.

        Raises:
            ValueError: a folder holds a run of another configuration, or there is no such form of the products here.
                Nothing was trained.
            FileNotFoundError: a data set isn't there. Nothing was trained.
        """
        found = {job.name: complete(job.folder, None if self.show else job.config) for job in jobs}
        outcomes = Outcomes({name: result for name, result in found.items() if result is not None})
        missing = [job for job in jobs if job.name not in outcomes.results]
        if self.show:
            return outcomes
        for job in jobs:
            if job.name in outcomes.results:
                self._tidy(job)
        if not missing:
            return outcomes
        data = self.data and self.data.absolute()
        if self.scheduler is None:
            self._refuse_missing(missing, data)
        trained = run_all(
            missing,
            run,
            seconds=self.seconds,
            scheduler=self.scheduler,
            workers=self.workers,
            threads=self.threads,
            device=self.device,
            done=self._tidy,
            data=data,
            **self.fitting,
        )
        return Outcomes(outcomes.results | trained.results, trained.failures, trained.time_up)

    def _refuse_missing(self, jobs: Sequence[Job], data: Path | None) -> None:
        """Refuse what all runs on this machine would have to do without."""
        with prefer(self.form):
            for dataset in {job.config.dataset for job in jobs}:
                load(dataset, data)

    def _tidy(self, job: Job) -> None:
        """Delete what a finished run no longer needs, if that is asked for."""
        if self.discard_checkpoints:
            (job.folder / CHECKPOINT).unlink(missing_ok=True)

    def tell(self, jobs: Sequence[Job], outcomes: Outcomes) -> None:
        """Name the runs that failed, and count the others if the time is up; for both there is an exit status.

        Raises:
            SystemExit: 75 if the time is up; otherwise 1 if a run failed.
        """
        if outcomes.failures:
            print(f"failed, as told above: {', '.join(outcomes.failures)}", file=sys.stderr)
        if outcomes.time_up:
            rest = [job for job in jobs if job.name not in outcomes.results and job.name not in outcomes.failures]
            begun = sum((job.folder / CHECKPOINT).exists() for job in rest)
            failed = f"{len(outcomes.failures)} failed, " * bool(outcomes.failures)
            counts = f"{len(outcomes.results)} runs finished, {failed}{begun} begun, {len(rest) - begun} missing"
            goes_on = "the same command goes on" + ", and tries again what failed" * bool(outcomes.failures)
            print(f"the time is up after {self.minutes:g} min: {counts}; {goes_on}", file=sys.stderr)
            raise SystemExit(TIME_UP)
        if outcomes.failures:
            raise SystemExit(1)


def add_name(parser: argparse.ArgumentParser, command: str) -> None:
    """The name; everything after it is read with the experiment at hand, whose settings are the defaults."""
    parser.add_argument("name", metavar="NAME", help="an experiment that `list` prints, such as table1/cifar10/lc-ws10")
    add_options(parser, f"{command} NAME")


def add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """All words after those of ``command``."""
    options = parser.add_argument("options", nargs=argparse.REMAINDER, help=f"`{command} --help` prints them")
    options.required = False


def parse(default: T, arguments: Sequence[str], command: str) -> T:
    """Options from the command line; a misspelt one is refused with the nearest name.

    Args:
        default: what they are where nothing is said.
        arguments: words after the command.
        command: what stands before them in the help, "train table1/cifar10/conv".
    """
    return tyro.cli(type(default), default=default, args=arguments, prog=f"python -m bioshare {command}")


def plain(config: TrainConfig, **fields: Any) -> TrainConfig:
    """A `TrainConfig` with the fields of one of a subclass."""
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    return TrainConfig(**own | fields)


def comparable(experiment: Experiment, configs: Sequence[TrainConfig]) -> Experiment:
    """The experiment; without the paper's numbers if one of these runs saw other images than the paper's."""
    if all(COPIES.get(one.dataset, one.dataset) == experiment.config.dataset for one in configs):
        return experiment
    numbers = dataclasses.asdict(experiment.paper).items()
    paper = {name: None if value is None else math.nan for name, value in numbers}
    return dataclasses.replace(experiment, paper=dataclasses.replace(experiment.paper, **paper))


def changes(config: TrainConfig, reference: TrainConfig) -> list[str]:
    """What sets a configuration apart from that of a table, but for the seed, in words."""
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name != "seed"]
    pairs = ((name, getattr(config, name), getattr(reference, name)) for name in names)
    return [f"{name} {own} instead of {theirs}" for name, own, theirs in pairs if own != theirs]


def caution(changed: Sequence[str]) -> str:
    """A line that says plainly that these are not the runs of the table; nothing if they are."""
    return f"\nNot the table's setting: {'; '.join(dict.fromkeys(changed))}." if changed else ""
