"""Many training runs: in turn in this process, or at once with Dask, on this machine or on a scheduler's workers.

With Dask every run is one task that continues from its own checkpoint, so that a worker that dies loses only what its
run had done since then: the run is started again, on the restarted worker or on another one. No more runs are handed
out than can be worked on, because Dask counts a dead worker against all tasks that were waiting for it.
"""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dask.config
import torch
from distributed import Client, Future, LocalCluster, as_completed, get_worker
from tqdm import tqdm

from bioshare.train.config import TrainConfig
from bioshare.train.interrupt import Interrupted, interruptible

if TYPE_CHECKING:
    import xarray as xr

Fit = Callable[..., "xr.Dataset"]
"""`bioshare.train.loop.fit`, or what has its signature."""

MALLOC = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**30))
"""For glibc: workers keep the memory they free. With Dask's own setting, to give it back at once, a step of ResNet-20
took 1.3 to 1.5 times as long."""

RETRIES = 3
"""How often a run is started again because its worker died. An error of the run itself would come again: never."""

SETTINGS = {
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.nanny.pre-spawn-environ": MALLOC,
    "distributed.worker.daemon": False,  # or a run could not start the processes that decode its images
}
"""Of Dask on this machine."""

EVERY_GPU = ("auto", "cuda")
"""Devices that stand for all GPUs, one per worker."""

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
    """Train all jobs, a few at a time, each from where it was left.

    A single run at a time on this machine is trained in this process, and Ctrl-C keeps all of it. Workers, which are
    other processes, keep their last checkpoints: after Ctrl-C those of this machine end, and the same jobs given again
    go on from there. Those of a scheduler belong to it, and finish the runs that they have begun: end them before the
    same jobs are given again.

    Args:
        jobs: with distinct names; their folders must be the same on all workers.
        run: called as ``run(config, folder, resume=True, progress=..., device=..., **options)``.
        scheduler: address of a Dask scheduler whose workers have one thread each; None for this machine.
        workers: runs at a time; None for all workers of the scheduler, or here one per GPU, or one without a GPU.
        threads: of PyTorch, per run; None for PyTorch's default, shared by the workers (with a scheduler: as they are).
        device: where to train; "auto" and "cuda" give every local worker a GPU of its own.
        progress: show a bar, over the runs or in this process over each of them, and the name of each that ends.
        options: further arguments of ``run``.

    Raises:
        ValueError: two jobs have one name or one folder, the scheduler does not answer, or a worker of it has several
            threads. Nothing was trained.
        Interrupted: SIGTERM to a run in this process, or Ctrl-C.
    """
    _refuse_duplicates(jobs)
    workers = workers or (None if scheduler else _default_workers(device))
    if scheduler is None and min(workers or 1, len(jobs)) == 1:
        return _here(jobs, run, threads, progress, device=device, **options)
    return _on_workers(jobs, run, scheduler, workers, threads, device, progress, options)


def _here(jobs: Sequence[Job], run: Fit, threads: int | None, progress: bool, **options: Any) -> Outcomes:
    """One job after the other, in this process."""
    outcomes, before = Outcomes(), torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        for job in jobs:
            _tell(progress, f"{job.name}:")
            try:
                outcomes.results[job.name] = run(job.config, job.folder, resume=True, progress=progress, **options)
            except Exception as error:
                outcomes.failures[job.name] = _said(error)
            _tell(progress, f"{job.name}: {outcomes.failures.get(job.name, 'done')}")
    finally:
        torch.set_num_threads(before)
    return outcomes


def _on_workers(
    jobs: Sequence[Job],
    run: Fit,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    device: str,
    progress: bool,
    options: dict[str, Any],
) -> Outcomes:
    """As many jobs at once as there are workers."""
    if threads is None and not scheduler:
        threads = max(1, torch.get_num_threads() // (workers or 1))
    outcomes = Outcomes()
    with _interrupts_told(scheduler), _client(scheduler, min(workers or 1, len(jobs))) as client:
        at_once = workers or max(1, len(_threads(client)))
        key = lambda job: f"{job.name}-{uuid.uuid4().hex}"  # others may have given the scheduler a job of that name
        submit = lambda job: client.submit(_train, run, job, threads, device, options, key=key(job), pure=False)
        with tqdm(total=len(jobs), unit="run", disable=not progress) as bar:
            for name, future in _in_turn(jobs, submit, at_once):
                _note(outcomes, name, future)
                bar.update()
                _tell(progress, f"{name}: {outcomes.failures.get(name, 'done')}")
    return outcomes


def _tell(progress: bool, text: str) -> None:
    if progress:
        tqdm.write(text, file=sys.stderr)


def _refuse_duplicates(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise ValueError("jobs must not be empty")
    for values in ([job.name for job in jobs], [str(job.folder) for job in jobs]):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"jobs must have names and folders of their own; got twice: {', '.join(twice)}")


def _default_workers(device: str) -> int:
    """One per GPU; one on a CPU, where a single run keeps all cores busy, and on a GPU that was chosen."""
    return max(1, torch.cuda.device_count()) if device in EVERY_GPU else 1


@contextmanager
def _interrupts_told(scheduler: str | None) -> Iterator[None]:
    """What Ctrl-C leaves, in words."""
    try:
        yield
    except KeyboardInterrupt as error:
        left = "the same command goes on from the runs' last checkpoints"
        if scheduler:
            left = f"the workers of {scheduler} finish the runs they have begun; once these have ended, {left}"
        raise Interrupted(f"interrupted; {left}", getattr(error, "signal", signal.SIGINT)) from None


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Client]:
    """A connection to the scheduler, or to as many processes of this machine."""
    if scheduler is None:
        with _local(workers) as client:
            yield client
        return
    with _connected(scheduler) as client:
        if any(threads > 1 for threads in _threads(client).values()):
            raise ValueError(
                f"the workers of {scheduler} must have one thread each, since runs in one process would share its "
                f"random generators; start them with `dask worker {scheduler} --nthreads 1`"
            )
        yield client


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    """Processes of this machine, which Ctrl-C doesn't reach: this one ends them."""
    ensure_running()  # multiprocessing's helper: to start it would let Ctrl-C through again
    with ExitStack() as stack:
        with _uninterrupted():
            stack.enter_context(dask.config.set(SETTINGS))
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,  # a run has the process-wide random generators for itself
                memory_limit=0,  # Dask would kill what PyTorch may well use
                dashboard_address="localhost:0",  # any free port, and no other computer
                silence_logs=logging.CRITICAL,  # a run that failed is told once, by us
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        try:
            yield client
        finally:
            with _uninterrupted():
                stack.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGTERM and Ctrl-C wait for the end of the block; threads and processes that start in it never see Ctrl-C."""
    with interruptible() as caught:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if caught.signal:
        raise Interrupted("interrupted", caught.signal)


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
        yield future.key.rpartition("-")[0], future
        running.update(map(submit, islice(waiting, 1)))


def _train(run: Fit, job: Job, threads: int | None, device: str, options: dict[str, Any]) -> xr.Dataset:
    """What a worker does."""
    if threads:
        torch.set_num_threads(threads)
    return run(job.config, job.folder, resume=True, progress=False, device=_own_device(device), **options)


def _own_device(device: str) -> str:
    """The GPU of this worker: local ones are numbered."""
    number = get_worker().name
    if device in EVERY_GPU and isinstance(number, int) and torch.cuda.is_available():
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def _note(outcomes: Outcomes, name: str, future: Future) -> None:
    error = cast("BaseException | None", future.exception())
    if error is None:
        outcomes.results[name] = future.result()
    else:
        outcomes.failures[name] = _said(error)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
