"""Many training runs, each in a process, on this machine or on the workers of a Dask scheduler.

A run continues from its last checkpoint, so that the run of a dead process is started again. A new process imports this
module and the module of ``fit``, never the script with the call of `run_all`.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from tqdm import tqdm

from bioshare.checks import flag, real, shown, takes, whole
from bioshare.files import FolderInUseError, expanded, locked
from bioshare.progress import one_line, say, shows_bar
from bioshare.train.config import TrainConfig
from bioshare.train.dask_workers import GOES_ON, DaskWorkers
from bioshare.train.distributed import device_named
from bioshare.train.interrupt import Interrupted, TimeUpError, interruptible
from bioshare.train.run_process import RunProcess

CHECKPOINT_EVERY = 120.0
"""Default seconds between two checkpoints of a run: the work that is lost with a process."""
EVERY_GPU = ("auto", "cuda")
"""Names for all GPUs of this machine, one per process."""
Ending = xr.Dataset | FolderInUseError | str | None
"""History of a run; an error in words; None for a run that has stopped with a checkpoint; or another process trains."""
POLL = 0.05
"""Seconds between two looks at the runs."""


@dataclass(frozen=True)
class Job:
    """One training run: its name in messages, its configuration, and the folder of its files."""

    name: str
    config: TrainConfig
    folder: Path

    @staticmethod
    def of(home: str, config: TrainConfig, root: Path | str) -> Job:
        """The run of a configuration in the folder root/home/seedN."""
        name = f"{home}/seed{config.seed}"
        return Job(name, config, expanded(root, "root").absolute() / name)


@dataclass
class Outcomes:
    """Endings of the jobs, by name.

    Attributes:
        results: histories of the finished runs.
        failures: error and message of the failed runs.
        time_up: whether the time was over before all runs had ended.
    """

    results: dict[str, xr.Dataset] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    time_up: bool = False

    def add(self, name: str, ending: Ending) -> str:
        """Add a job that has ended, and return the ending in words."""
        if isinstance(ending, str):
            self.failures[name] = ending
            return ending
        if ending is None:
            return "not complete"
        if isinstance(ending, FolderInUseError):
            return "another process trains this run; waiting for the end after all other runs"
        self.results[name] = ending
        return "done"


def run_all(
    jobs: Sequence[Job],
    fit: Callable[..., xr.Dataset],
    *,
    seconds: float | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: bool = True,
    done: Callable[[Job], None] = lambda job: None,
    **options: Any,
) -> Outcomes:
    """Train all jobs, a few at a time, each from its last checkpoint.

    A signal such as Ctrl-C (`bioshare.train.interrupt.SIGNALS`) or the death of this process lets the runs of this
    machine write their checkpoints and end. The workers of a scheduler finish the runs that were begun: wait for the
    workers before the same jobs are given again. Several calls may have the same jobs at a time: a run that another
    process trains comes last, and once that process has ended, this one has the result, or goes on with the run.

    Args:
        jobs: runs with distinct names and folders; the folders must be the same on all machines.
        fit: called as ``fit(config, folder, resume=True, progress=..., device=..., **options)``, with the remaining
            ``seconds`` if the time is limited. An error of ``fit`` ends a run for good.
        seconds: time limit; unfinished runs write checkpoints, further runs do not begin.
        scheduler: address of a Dask scheduler whose workers have one thread each; None for this machine.
        workers: runs at a time; None for all workers of the scheduler, or on this machine one per GPU, or one.
        threads: PyTorch's threads per run; None shares the threads of this process among the runs, and leaves the
            workers of a scheduler as they are.
        device: device of the training; "auto" and "cuda" give every process of this machine a GPU of its own.
        progress: show the ending of every run, and a bar over the runs, or the bar of `fit` for one run at a time.
        done: called in this process with every finished job.
        options: further arguments of ``fit``; ``checkpoint_every`` is `CHECKPOINT_EVERY` by default.

    Raises:
        TypeError, ValueError: an argument is of another kind, two jobs have one name or one folder, the scheduler does
            not answer, or a worker of the scheduler has several threads. Nothing was trained.
        ConnectionError: the scheduler is gone, or has had no worker for minutes.
        Interrupted: a signal.
    """
    real("seconds", 0 if seconds is None else seconds, "None or a number of seconds >= 0", at_least=0, array=False)
    at_once = None if workers is None else whole("workers", workers, "a number of runs", at_least=1)
    whole("threads", 1 if threads is None else threads, "None or a number of threads", at_least=1)
    device_named(device)
    flag("progress", progress)
    if not isinstance(scheduler, str | None):
        raise TypeError(f"scheduler must be the address of a Dask scheduler, or None; got {shown(scheduler)}")
    if not takes(done, None):
        raise TypeError(f"done must be a function of a job; got {shown(done)}")
    given = dict.fromkeys(["resume", "progress", "device", "checkpoint_every", *options])
    if not takes(fit, None, None, **given | ({} if seconds is None else {"seconds": None})):
        raise TypeError(f"fit must be a function of a configuration, a folder, {', '.join(given)}; got {shown(fit)}")
    _check_jobs(jobs)
    until = None if seconds is None else time.time() + seconds
    if scheduler is None:
        at_once = min(at_once or default_workers(device), len(jobs))
        threads = threads or max(1, torch.get_num_threads() // at_once)
    single = scheduler is None and at_once == 1
    options = {"checkpoint_every": CHECKPOINT_EVERY, "progress": progress and single} | options
    call = partial(train_job, fit=fit, until=until, threads=threads, **options)
    outcomes, show = Outcomes(), say if progress else lambda text: None
    with ExitStack() as stack:
        if scheduler is None:
            submit, check = lambda call: stack.enter_context(RunProcess(call)), lambda: None
        else:
            dask = stack.enter_context(DaskWorkers(scheduler))
            submit, check, at_once = dask.submit, dask.check, at_once or max(1, len(dask))
        places = lambda slot: device if scheduler else own_device(device, slot)
        begin = lambda job, slot, waits: submit(partial(call, job, device=places(slot), waits=waits))
        signals = stack.enter_context(interruptible())
        bar = stack.enter_context(tqdm(total=len(jobs), unit="run", disable=single or not shows_bar(progress)))
        for job, ending in _in_turn(jobs, begin, check, at_once or 1, until, signals):
            show(f"{job.name}: {outcomes.add(job.name, ending)}")
            bar.update(isinstance(ending, xr.Dataset | str))
            if job.name in outcomes.results:
                done(job)
    if signals:
        busy = f"the workers of {scheduler} finish the runs that were begun; once they are idle, " if scheduler else ""
        raise Interrupted(f"stopped by signal {signals[0]}; {busy}{GOES_ON}", signals[0])
    outcomes.time_up = len(outcomes.results) + len(outcomes.failures) < len(jobs)
    return outcomes


def train_job(
    job: Job, fit: Callable[..., xr.Dataset], until: float | None, threads: int | None, waits: bool, **options: Any
) -> Ending:
    """Train one run in this process, at most until the time ``until`` on the clock.

    Args:
        waits: wait for another process that trains the run.
    """
    if threads:
        torch.set_num_threads(threads)
    if until is not None:
        options["seconds"] = max(0.0, until - time.time())
    try:
        if waits:
            with locked(job.folder, seconds=options.get("seconds", math.inf)):
                pass
        return fit(job.config, job.folder, resume=True, **options)
    except TimeUpError:
        return None
    except FolderInUseError as error:
        return error
    except Exception as error:
        if os.environ.get("BIOSHARE_TRACEBACK") == "1":
            traceback.print_exc()
        return f"{type(error).__name__}: {one_line(error)}"


def default_workers(device: str) -> int:
    """A run per GPU; a single run on a CPU, where PyTorch's threads use all cores, and on a chosen GPU."""
    return max(1, torch.cuda.device_count()) if device in EVERY_GPU else 1


def own_device(device: str, slot: int) -> str:
    """The device of the run in a slot: a GPU by number where all GPUs are meant."""
    if device in EVERY_GPU and torch.cuda.is_available():
        return f"cuda:{slot % torch.cuda.device_count()}"
    return device


def _check_jobs(jobs: Sequence[Job]) -> None:
    if not isinstance(jobs, Sequence) or not all(isinstance(job, Job) for job in jobs):
        raise TypeError(f"jobs must be a list of Job; got {shown(jobs)}")
    if not jobs:
        raise ValueError("jobs must not be empty")
    for values in ([job.name for job in jobs], [str(job.folder) for job in jobs]):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"jobs must have names and folders of their own; got twice: {', '.join(twice)}")


def _in_turn(
    jobs: Sequence[Job],
    begin: Callable[[Job, int, bool], Any],
    check: Callable[[], None],
    at_once: int,
    until: float | None,
    signals: Sequence[int],
) -> Iterator[tuple[Job, Ending]]:
    """Begin the jobs, at most ``at_once`` at a time, each in a free slot, and yield every job with its ending.

    Jobs of other processes come again at the end, and wait there.
    """
    waiting, running = [(job, False) for job in jobs], dict[int, tuple[Job, Any]]()
    while waiting or running:
        check()
        if signals or (until is not None and time.time() >= until):
            waiting.clear()
        while waiting and len(running) < at_once:
            slot = next(number for number in count() if number not in running)
            job, waits = waiting.pop(0)
            running[slot] = job, begin(job, slot, waits)
        time.sleep(POLL)
        for slot, (job, run) in list(running.items()):
            if signals:
                run.cancel()
            if run.done():
                del running[slot]
                try:
                    ending = run.result()
                except Exception as error:  # of the process or the worker, not of `fit`
                    check()
                    ending = None if signals else f"{type(error).__name__}: {one_line(error)}"
                if isinstance(ending, FolderInUseError):
                    waiting.append((job, True))
                yield job, ending
