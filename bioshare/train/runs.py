"""Many training runs, each in a process, on this machine or on the workers of a Dask scheduler.

A run continues from its last checkpoint, so that the run of a dead process is started again. A new process imports this
module and the module of ``fit``, never the script with the call of `run_all`.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import cloudpickle
import torch
import xarray as xr
from tqdm import tqdm

from bioshare.checks import whole
from bioshare.files import expanded, replacing
from bioshare.progress import say, shows_bar
from bioshare.train.config import TrainConfig
from bioshare.train.interrupt import Interrupted, TimeUpError, interruptible

if TYPE_CHECKING:
    from distributed import Client

RESTARTS = 3
"""New starts of a run after its process was killed by a signal, as many as Dask's default for a dead worker."""
CHECKPOINT_EVERY = 120.0
"""Default seconds between two checkpoints of a run: the work that is lost with a process."""
EVERY_GPU = ("auto", "cuda")
"""Names for all GPUs of this machine, one per process."""
Ending = xr.Dataset | str | None
"""History of a run; its error in words; or None for a run that has stopped with a checkpoint."""
CONNECT = 10.0
"""Seconds to wait for a scheduler."""
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
        return Job(name, config, expanded(root).absolute() / name)


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
    workers before the same jobs are given again.

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
        ValueError: two jobs have one name or one folder, the scheduler does not answer, or a worker of the scheduler
            has several threads. Nothing was trained.
        Interrupted: a signal.
    """
    _check_jobs(jobs)
    until = None if seconds is None else time.time() + seconds
    at_once = None if workers is None else whole("workers", workers, "a number of runs", at_least=1)
    if scheduler is None:
        at_once = min(at_once or default_workers(device), len(jobs))
        threads = threads or max(1, torch.get_num_threads() // at_once)
    single = scheduler is None and at_once == 1
    options = {"checkpoint_every": CHECKPOINT_EVERY, "progress": progress and single} | options
    call = partial(train_job, fit=fit, until=until, threads=threads, **options)
    outcomes, show = Outcomes(), say if progress else lambda text: None
    with ExitStack() as stack:
        if scheduler is None:
            submit = lambda call: stack.enter_context(RunProcess(call))
        else:
            client = stack.enter_context(_connected(scheduler))
            at_once = at_once or max(1, len(cast("dict[str, int]", client.nthreads())))
            submit = partial(client.submit, pure=False)
        begin = lambda job, slot: submit(partial(call, job, device=device if scheduler else own_device(device, slot)))
        signals = stack.enter_context(interruptible())
        bar = stack.enter_context(tqdm(total=len(jobs), unit="run", disable=single or not shows_bar(progress)))
        for job, ending in _in_turn(jobs, begin, at_once or 1, until, signals):
            show(f"{job.name}: {outcomes.add(job.name, ending)}")
            bar.update(ending is not None)
            if job.name in outcomes.results:
                done(job)
    if signals:
        busy = f"the workers of {scheduler} finish the runs that were begun; once they are idle, " if scheduler else ""
        goes_on = f"{busy}the same command goes on from the runs' last checkpoints"
        raise Interrupted(f"stopped by signal {signals[0]}; {goes_on}", signals[0])
    outcomes.time_up = len(outcomes.results) + len(outcomes.failures) < len(jobs)
    return outcomes


def train_job(
    job: Job, fit: Callable[..., xr.Dataset], until: float | None, threads: int | None, **options: Any
) -> Ending:
    """Train one run in this process, at most until the time ``until`` on the clock."""
    if threads:
        torch.set_num_threads(threads)
    if until is not None:
        options["seconds"] = max(0.0, until - time.time())
    try:
        return fit(job.config, job.folder, resume=True, **options)
    except TimeUpError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def default_workers(device: str) -> int:
    """A run per GPU; a single run on a CPU, where PyTorch's threads use all cores, and on a chosen GPU."""
    return max(1, torch.cuda.device_count()) if device in EVERY_GPU else 1


def own_device(device: str, slot: int) -> str:
    """The device of the run in a slot: a GPU by number where all GPUs are meant."""
    if device in EVERY_GPU and torch.cuda.is_available():
        return f"cuda:{slot % torch.cuda.device_count()}"
    return device


def _check_jobs(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise ValueError("jobs must not be empty")
    for values in ([job.name for job in jobs], [str(job.folder) for job in jobs]):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"jobs must have names and folders of their own; got twice: {', '.join(twice)}")


def _connected(scheduler: str) -> Client:
    """A connection to a scheduler whose workers have one thread each."""
    from distributed import Client  # takes a second to import

    try:
        client = Client(scheduler, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler must be the address of a running Dask scheduler, such as tcp://host:8786; got {scheduler!r}, "
            f"which does not answer ({error})"
        ) from error
    if any(threads > 1 for threads in cast("dict[str, int]", client.nthreads()).values()):
        client.close()
        raise ValueError(
            f"the workers of {scheduler} must have one thread each, since runs in one process would share its "
            f"random generators; start them with `dask worker {scheduler} --nthreads 1`"
        )
    return client


def _in_turn(
    jobs: Sequence[Job], begin: Callable[[Job, int], Any], at_once: int, until: float | None, signals: Sequence[int]
) -> Iterator[tuple[Job, Ending]]:
    """Begin the jobs, at most ``at_once`` at a time, each in a free slot, and yield every job with its ending."""
    waiting, running = list(jobs), dict[int, tuple[Job, Any]]()
    while waiting or running:
        if signals or (until is not None and time.time() >= until):
            waiting.clear()
        while waiting and len(running) < at_once:
            slot = next(number for number in count() if number not in running)
            job = waiting.pop(0)
            running[slot] = job, begin(job, slot)
        time.sleep(POLL)
        for slot, (job, run) in list(running.items()):
            if signals:
                run.cancel()
            if run.done():
                del running[slot]
                try:
                    ending = run.result()
                except Exception as error:  # of the process or the worker, not of `fit`
                    ending = None if signals else f"{type(error).__name__}: {error}"
                yield job, ending


class RunProcess:
    """A function call in a process of its own, started again after a signal has killed the process.

    The methods are as in a future; the end of a ``with`` block kills the process. SIGTERM stops the process when the
    call is cancelled, and when this process dies; Ctrl-C in a terminal does not reach the process.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.starts, self.cancelled, self.folder = 0, False, TemporaryDirectory(prefix="bioshare-")
        self.returned = Path(self.folder.name, "result")
        Path(self.folder.name, "call").write_bytes(cloudpickle.dumps(call))
        self._start()

    def _start(self) -> None:
        code = f"import sys; sys.path = {sys.path!r}; from bioshare.train.runs import work; work({self.folder.name!r})"
        self.process = Popen([sys.executable, "-c", code], stdin=PIPE, start_new_session=True)
        self.starts += 1

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            self.process.kill()
        self.folder.cleanup()

    def done(self) -> bool:
        """Check whether the process has ended for good; start a killed process again."""
        status = self.process.poll()
        if status is None:
            return False
        self.process.__exit__(None, None, None)  # closes the pipe
        killed = (status < 0 or status > 128) and not self.returned.exists()
        if killed and not self.cancelled and self.starts <= RESTARTS:
            self._start()
            return False
        return True

    def result(self) -> Any:
        """The value of the call.

        Raises:
            RuntimeError: the process ended without a result.
        """
        if not self.returned.exists():
            raise RuntimeError(f"its process ended with status {self.process.returncode}, at start {self.starts}")
        return pickle.loads(self.returned.read_bytes())

    def cancel(self) -> None:
        """Stop the process by SIGTERM, so that a run writes a checkpoint."""
        if not self.cancelled:
            self.cancelled = True
            self.process.terminate()


def work(folder: str) -> None:
    """Make the call of a `RunProcess`, in the new process."""

    def stop_with_parent() -> None:
        os.read(0, 1)  # returns when the parent closes its end of the pipe, or dies
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        value = pickle.loads(Path(folder, "call").read_bytes())()
    except KeyboardInterrupt as error:
        sys.exit(128 + getattr(error, "signal", signal.SIGINT))
    with replacing(Path(folder, "result")) as path:
        path.write_bytes(pickle.dumps(value))
