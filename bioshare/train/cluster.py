"""Many training runs at once with Dask: on this machine, or on the workers of a scheduler.

Every run is one task that continues from its own checkpoint, so that a worker that dies loses only what its run had
done since then: the run is started again, on the restarted worker or on another one. No more runs are handed out than
can be worked on, because Dask counts a dead worker against all tasks that were waiting for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dask.config
import torch
from distributed import Client, Future, LocalCluster, as_completed, get_worker
from tqdm import tqdm

from bioshare.train.config import TrainConfig

if TYPE_CHECKING:
    import xarray as xr

Fit = Callable[..., "xr.Dataset"]
"""`bioshare.train.loop.fit`, or what has its signature."""

MALLOC = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**30))
"""For glibc: workers keep the memory they free. With Dask's own setting, to give it back at once, a step of ResNet-20
took 1.3 to 1.5 times as long."""

RETRIES = 3
"""How often a run is started again because its worker died. An error of the run itself would come again: never."""

CONNECT = 10.0
"""Seconds to wait for a scheduler."""


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
        failures: error and message of the others.
    """

    results: dict[str, xr.Dataset] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def run_all(
    jobs: Sequence[Job],
    run: Fit,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,
) -> Outcomes:
    """Train all jobs, a few at a time, each from where it was left; Ctrl-C keeps the checkpoints.

    Args:
        jobs: with distinct names; their folders must be the same on all workers.
        run: called as ``run(config, folder, resume=True, progress=False, device=..., **options)``.
        scheduler: address of a Dask scheduler whose workers have one thread each; None for processes of this machine.
        workers: runs at a time; None for all workers of the scheduler, or here one per GPU, or one without a GPU.
        threads: of PyTorch, per run; None for PyTorch's default, shared by the workers (with a scheduler: as they are).
        device: where to train; "auto" gives every local worker a GPU of its own.
        progress: show a bar over the runs, and the name of each that ends.
        options: further arguments of ``run``.

    Raises:
        ValueError: two jobs have one name or one folder, the scheduler does not answer, or a worker of it has several
            threads. Nothing was trained.
    """
    _refuse_duplicates(jobs)
    workers = workers or (None if scheduler else _default_workers(device))
    if threads is None and not scheduler:
        threads = max(1, torch.get_num_threads() // (workers or 1))
    outcomes = Outcomes()
    with _client(scheduler, min(workers or 1, len(jobs))) as client:
        at_once = workers or max(1, len(_threads(client)))
        submit = lambda job: client.submit(_train, run, job, threads, device, options, key=job.name, pure=False)
        with tqdm(total=len(jobs), unit="run", disable=not progress) as bar:
            for name, future in _in_turn(jobs, submit, at_once):
                _note(outcomes, name, future)
                bar.update()
                if progress:
                    bar.write(f"{name}: {outcomes.failures.get(name, 'done')}", file=sys.stderr)
    return outcomes


def _refuse_duplicates(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise ValueError("jobs must not be empty")
    for values in ([job.name for job in jobs], [str(job.folder) for job in jobs]):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"jobs must have names and folders of their own; got twice: {', '.join(twice)}")


def _default_workers(device: str) -> int:
    """One per GPU; one on a CPU, where a single run keeps all cores busy."""
    return 1 if device == "cpu" else max(1, torch.cuda.device_count())


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Client]:
    """A connection to the scheduler, or to as many processes of this machine."""
    if scheduler is None:
        settings = {"distributed.scheduler.allowed-failures": RETRIES, "distributed.nanny.pre-spawn-environ": MALLOC}
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,  # a run has the process-wide random generators for itself
                memory_limit=0,  # Dask would kill what PyTorch may well use
                dashboard_address="localhost:0",  # any free port, and no other computer
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    with _connected(scheduler) as client:
        if any(threads > 1 for threads in _threads(client).values()):
            raise ValueError(
                f"the workers of {scheduler} must have one thread each, since runs in one process would share its "
                f"random generators; start them with `dask worker {scheduler} --nthreads 1`"
            )
        yield client


def _connected(scheduler: str) -> Client:
    try:
        return Client(scheduler, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler must be the address of a running Dask scheduler, such as tcp://host:8786; got {scheduler!r}, "
            f"which does not answer ({error})"
        ) from error


def _threads(client: Client) -> dict[str, int]:
    """How many threads every worker has, by its address."""
    return cast("dict[str, int]", client.nthreads())


def _in_turn(jobs: Sequence[Job], submit: Callable[[Job], Future], at_once: int) -> Iterator[tuple[str, Future]]:
    """Hand out jobs, never more than ``at_once`` unfinished ones; yields each as it ends."""
    waiting = iter(jobs)
    running = as_completed(map(submit, islice(waiting, at_once)))
    for future in running:
        yield future.key, future
        running.update(map(submit, islice(waiting, 1)))


def _train(run: Fit, job: Job, threads: int | None, device: str, options: dict[str, Any]) -> xr.Dataset:
    """What a worker does."""
    if threads:
        torch.set_num_threads(threads)
    return run(job.config, job.folder, resume=True, progress=False, device=_own_device(device), **options)


def _own_device(device: str) -> str:
    """The GPU of this worker: local ones are numbered."""
    number = get_worker().name
    if device == "auto" and isinstance(number, int) and torch.cuda.is_available():
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def _note(outcomes: Outcomes, name: str, future: Future) -> None:
    error = future.exception()
    if error is None:
        outcomes.results[name] = future.result()
    else:
        outcomes.failures[name] = f"{type(error).__name__}: {error}"
