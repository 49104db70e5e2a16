"""Many training runs: in this process, or at once with Dask, on this machine or on a scheduler's workers.

With Dask every run is one task that continues from its own checkpoint, so that a worker that dies loses only what its
run had done since then: the run is started again, on the restarted worker or on another one. No more runs are handed
out than can be worked on, because Dask counts a dead worker against all tasks that were waiting for it.
"""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from multiprocessing.resource_tracker import ensure_running
from typing import TYPE_CHECKING, Any, cast

import dask.config
import torch
from distributed import Client, Future, LocalCluster, as_completed, get_worker
from tqdm import tqdm

from bioshare.train.interrupt import Interrupted, interruptible
from bioshare.train.jobs import Budget, Fit, FitTogether, Outcomes, tell, train_here
from bioshare.train.jobs import Job as Job
from bioshare.train.together import fit_together

if TYPE_CHECKING:
    import xarray as xr

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

CHECKPOINT_EVERY = 120.0
"""Seconds between two checkpoints on a worker, unless told otherwise: what its death may cost."""

EVERY_GPU = ("auto", "cuda")
"""Devices that stand for all GPUs, one per worker."""

CONNECT = 10.0
"""Seconds to wait for a scheduler."""


def run_all(
    jobs: Sequence[Job],
    run: Fit,
    *,
    together: int = 1,
    run_together: FitTogether = fit_together,
    seconds: float | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: bool = True,
    done: Callable[[Job], None] = lambda job: None,
    **options: Any,
) -> Outcomes:
    """Train all jobs, a few at a time, each from where it was left.

    A single run at a time on this machine is trained in this process, and so are several that are trained together;
    Ctrl-C keeps all of them. Workers, which are other processes, keep their last checkpoints: after Ctrl-C those of
    this machine end, and the same jobs given again go on from there. Those of a scheduler belong to it, and finish the
    runs that they have begun: end them before the same jobs are given again.

    Args:
        jobs: with distinct names; their folders must be the same on all workers.
        run: called as ``run(config, folder, resume=True, progress=..., device=..., **options)``, and with ``seconds``
            that are left if there is an end.
        together: runs at once in this process, for a GPU that one of them does not fill.
        run_together: called as ``run`` for several of them: ``run_together([(config, folder), ...], ...)``.
        seconds: stop after that time; runs that were begun write checkpoints, others don't begin.
        scheduler: address of a Dask scheduler whose workers have one thread each; None for this machine.
        workers: runs at a time; None for all workers of the scheduler, or here one per GPU, or one without a GPU, or
            one where runs are trained together.
        threads: of PyTorch, per run; None for PyTorch's default, shared by the workers (with a scheduler: as they are).
        device: where to train; "auto" and "cuda" give every local worker a GPU of its own.
        progress: show a bar, over the runs or in this process over each of them, and the name of each that ends.
        done: called in this process with every job that has finished.
        options: further arguments of ``run``; on workers with ``checkpoint_every``, see `CHECKPOINT_EVERY`.

    Raises:
        ValueError: two jobs have one name or one folder, workers were asked to train several runs together, the
            scheduler does not answer, or a worker of it has several threads. Nothing was trained.
        Interrupted: SIGTERM to a run in this process, or Ctrl-C.
    """
    _refuse_duplicates(jobs)
    _refuse_together(together, scheduler, workers)
    workers = workers or (None if scheduler else 1 if together > 1 else _default_workers(device))
    if scheduler is None and min(workers or 1, len(jobs)) == 1:
        chosen = {"together": together, "threads": threads, "seconds": seconds, "progress": progress, "done": done}
        return train_here(jobs, run, run_together, **chosen, device=device, **options)
    options = {"checkpoint_every": CHECKPOINT_EVERY} | options
    train = partial(_train, run, threads=threads, device=device, options=options)
    return _on_workers(jobs, train, scheduler, workers, threads, seconds, progress, done)


def _on_workers(
    jobs: Sequence[Job],
    train: Callable[..., xr.Dataset],
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    seconds: float | None,
    progress: bool,
    done: Callable[[Job], None],
) -> Outcomes:
    """As many jobs at once as there are workers."""
    if threads is None and not scheduler:
        train = partial(train, threads=max(1, torch.get_num_threads() // (workers or 1)))
    outcomes, budget, by_name = Outcomes(), Budget(seconds), {job.name: job for job in jobs}
    with _interrupts_told(scheduler), _client(scheduler, min(workers or 1, len(jobs))) as client:
        at_once = workers or max(1, len(_threads(client)))
        key = lambda job: f"{job.name}-{uuid.uuid4().hex}"  # others may have given the scheduler a job of that name
        submit = lambda job: client.submit(train, job, budget.option, key=key(job), pure=False)
        with tqdm(total=len(jobs), unit="run", disable=not progress) as bar:
            for name, future in _in_turn(budget.spend(jobs, outcomes), submit, at_once):
                outcomes.note(name, cast("BaseException | None", future.exception()) or future.result())
                bar.update(name in outcomes.results or name in outcomes.failures)
                tell(progress, f"{name}: {outcomes.told(name)}")
                if name in outcomes.results:
                    done(by_name[name])
    return outcomes


def _refuse_duplicates(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise ValueError("jobs must not be empty")
    for values in ([job.name for job in jobs], [str(job.folder) for job in jobs]):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"jobs must have names and folders of their own; got twice: {', '.join(twice)}")


def _refuse_together(together: int, scheduler: str | None, workers: int | None) -> None:
    if together < 1:
        raise ValueError(f"together must be a number of runs of at least 1; got {together}")
    if together > 1 and (scheduler or (workers or 1) > 1):
        other = f"scheduler={scheduler!r}" if scheduler else f"workers={workers}"
        raise ValueError(
            f"together={together} trains runs in a single process, on one device; got {other}, which are others. "
            "Leave out one of them"
        )


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


def _in_turn(waiting: Iterator[Job], submit: Callable[[Job], Future], at_once: int) -> Iterator[tuple[str, Future]]:
    """Hand out jobs, never more than ``at_once`` unfinished ones; yields each as it ends."""
    running = as_completed(map(submit, islice(waiting, at_once)))
    for future in running:
        yield future.key.rpartition("-")[0], future
        running.update(map(submit, islice(waiting, 1)))


def _train(
    run: Fit, job: Job, left: dict[str, float], *, threads: int | None, device: str, options: dict[str, Any]
) -> xr.Dataset:
    """What a worker does."""
    if threads:
        torch.set_num_threads(threads)
    where = {"progress": False, "device": _own_device(device)}
    return run(job.config, job.folder, resume=True, **where, **left, **options)


def _own_device(device: str) -> str:
    """The GPU of this worker: local ones are numbered."""
    number = get_worker().name
    if device in EVERY_GPU and isinstance(number, int) and torch.cuda.is_available():
        return f"cuda:{number % torch.cuda.device_count()}"
    return device
