"""Training runs as jobs, and those of this process: one after the other, or several at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from bioshare.train.config import TrainConfig
from bioshare.train.interrupt import Interrupted, TimeUpError

if TYPE_CHECKING:
    import xarray as xr

Fit = Callable[..., "xr.Dataset"]
"""`bioshare.train.loop.fit`, or what has its signature."""

FitTogether = Callable[..., "list[xr.Dataset | Exception]"]
"""`bioshare.train.together.fit_together`, or what has its signature."""


@dataclass(frozen=True)
class Job:
    """One training run: its name in messages, its configuration, and the folder it lives in."""

    name: str
    config: TrainConfig
    folder: Path

    @staticmethod
    def of(home: str, config: TrainConfig, root: Path) -> Job:
        """The run of a configuration that lives in root/home/seedN."""
        name = f"{home}/seed{config.seed}"
        return Job(name, config, root.absolute() / name)


@dataclass
class Outcomes:
    """What became of the jobs, by their names.

    Attributes:
        results: of those that finished.
        failures: error and message of those that failed.
        time_up: whether the time was over before all jobs had ended. Those that were begun have checkpoints.
    """

    results: dict[str, xr.Dataset] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    time_up: bool = False

    def note(self, name: str, ended: xr.Dataset | BaseException) -> None:
        """Add how a job ended."""
        if isinstance(ended, TimeUpError):
            self.time_up = True
        elif isinstance(ended, BaseException):
            self.failures[name] = f"{type(ended).__name__}: {ended}"
        else:
            self.results[name] = ended

    def told(self, name: str) -> str:
        """How a job ended, in words."""
        return self.failures.get(name, "done" if name in self.results else "not complete")


class Budget:
    """Seconds that all jobs have together, from now on; None for any number."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def option(self) -> dict[str, float]:
        """What is left, as an argument of `Fit`; none without an end."""
        return {} if self.end is None else {"seconds": max(0.0, self.end - time.monotonic())}

    def spend(self, jobs: Sequence[Job], outcomes: Outcomes) -> Iterator[Job]:
        """The jobs, one by one, until the time is over, which the outcomes are told then."""
        for job in jobs:
            if self.option.get("seconds", 1.0) <= 0:
                outcomes.time_up = True
                return
            yield job


def tell(progress: bool, text: str) -> None:
    """A line that leaves bars whole."""
    if progress:
        tqdm.write(text, file=sys.stderr)


def train_here(
    jobs: Sequence[Job],
    run: Fit,
    run_together: FitTogether,
    *,
    together: int,
    threads: int | None,
    seconds: float | None,
    progress: bool,
    done: Callable[[Job], None],
    **options: Any,
) -> Outcomes:
    """Train jobs in this process; the arguments are those of `bioshare.train.cluster.run_all`."""
    outcomes, budget, before = Outcomes(), Budget(seconds), torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        waiting = budget.spend(jobs, outcomes)
        while group := list(islice(waiting, together)):
            tell(progress, f"{', '.join(job.name for job in group)}:")
            rest = options | {"resume": True, "progress": progress} | budget.option
            ended = _ended(group, run, run_together, rest)
            for job, outcome in zip(group, ended, strict=True):
                if not isinstance(outcome, Interrupted):
                    outcomes.note(job.name, outcome)
                tell(progress, f"{job.name}: {outcomes.told(job.name)}")
                if job.name in outcomes.results:
                    done(job)
            for stop in (outcome for outcome in ended if isinstance(outcome, Interrupted)):
                raise stop
            if outcomes.time_up:
                break
    finally:
        torch.set_num_threads(before)
    return outcomes


def _ended(
    group: Sequence[Job], run: Fit, run_together: FitTogether, options: dict[str, Any]
) -> Sequence[xr.Dataset | Exception | Interrupted]:
    """How each job of a group ended: those that hadn't, by what stopped all of them."""
    try:
        if len(group) == 1:
            return [run(group[0].config, group[0].folder, **options)]
        return run_together([(job.config, job.folder) for job in group], **options)
    except (TimeUpError, Interrupted) as error:
        return [error if outcome is None else outcome for outcome in error.outcomes or [None] * len(group)]
    except Exception as error:
        return [error] * len(group)
