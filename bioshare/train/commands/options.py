"""What the commands that train have in common: their options, read by tyro from dataclasses."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from bioshare.train.cluster import Fit, Job, Outcomes, run_all
from bioshare.train.config import TrainConfig
from bioshare.train.gather import stored

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
    """

    data: Path | None = None
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        self._at_least_1("threads")

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
        show: train nothing; show what is finished.
        scheduler: address of a Dask scheduler to train on, such as tcp://host:8786; its workers need one thread each,
            and must see the same folders. None for this machine.
        workers: how many runs at a time; None for all workers of the scheduler, or here for one per GPU, or one.
    """

    seeds: int = 5
    to: Path = Path("runs")
    show: bool = False
    scheduler: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        self._at_least_1("threads", "seeds", "workers")

    def outcomes(self, jobs: Sequence[Job], run: Fit) -> Outcomes:
        """Train the jobs, or read the results of those that are finished.

        Raises:
            ValueError: a folder holds a run of another configuration. Nothing was trained.
        """
        finished = {job.name: stored(job.config, job.folder) for job in jobs}
        outcomes = Outcomes({name: result for name, result in finished.items() if result is not None})
        missing = [job for job in jobs if job.name not in outcomes.results]
        if self.show or not missing:
            return outcomes
        trained = run_all(
            missing,
            run,
            scheduler=self.scheduler,
            workers=self.workers,
            threads=self.threads,
            device=self.device,
            data=self.data and self.data.absolute(),
        )
        return Outcomes(outcomes.results | trained.results, trained.failures)


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


def changes(config: TrainConfig, reference: TrainConfig) -> list[str]:
    """What sets a configuration apart from the paper's, but for the seed, in words."""
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name != "seed"]
    pairs = ((name, getattr(config, name), getattr(reference, name)) for name in names)
    return [f"{name} {own} instead of {theirs}" for name, own, theirs in pairs if own != theirs]


def caution(changed: Sequence[str]) -> str:
    """A line that says plainly that these are not the paper's runs; nothing if they are."""
    return f"\nNot the paper's setting: {'; '.join(dict.fromkeys(changed))}." if changed else ""


def tell_failures(outcomes: Outcomes) -> None:
    """Name the runs that failed; if there are any, the exit status is 1."""
    for name, error in outcomes.failures.items():
        print(f"{name} failed: {error}", file=sys.stderr)
    if outcomes.failures:
        raise SystemExit(1)
