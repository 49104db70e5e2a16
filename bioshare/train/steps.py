"""One run, a step at a time: what `fit` and `fit_together` have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from tqdm import tqdm

from bioshare.files import check_writable, locked
from bioshare.nn.forms import Form
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import Batches, Dataset, test_batches, training_batches
from bioshare.train.distributed import Processes
from bioshare.train.gather import complete
from bioshare.train.graph import Recording
from bioshare.train.interrupt import Caught, Interrupted, TimeUpError
from bioshare.train.recipe import network
from bioshare.train.results import RESULT, refuse_other, write_result
from bioshare.train.run import CORRECT, IMAGES, LOSS, Run

CHECKPOINT = "checkpoint.safetensors"
LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Batches from one look at the loss, the clock and the signals to the next; on a GPU a look waits for its work."""
PUBLISH_EVERY = 5.0
"""Seconds from one result to the next, at least: writing one takes a twentieth, as long as a short epoch on a GPU."""

Steps = Generator[None, None, xr.Dataset]
"""A run that stops after every batch and ends with its result."""


@dataclass(frozen=True)
class Options:
    """How to train, whatever is trained: keyword arguments of `bioshare.train.loop.fit`.

    Attributes:
        begun: when it was asked for, by `time.monotonic`.

    Raises:
        ValueError: one makes no sense.
    """

    data: Path | str | None = None
    resume: bool = False
    device: str | torch.device = "auto"
    progress: bool = True
    checkpoint_every: float = 600.0
    record_snr: int | None = None
    tensorboard: bool = False
    seconds: float | None = None
    graphs: bool | None = None
    form: Form = "auto"
    begun: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "seconds"):
            value = getattr(self, name)
            if value is None and name == "seconds":
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value) or value < 0:
                raise ValueError(f"{name} must be a number of seconds >= 0; got {value!r}")
        if not (self.graphs is None or isinstance(self.graphs, bool)):
            raise ValueError(f"graphs must be None, True or False; got {self.graphs!r}")
        n = self.record_snr
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
            raise ValueError(f"record_snr must be None or a whole number of batches of at least 1; got {n!r}")

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.seconds is not None and time.monotonic() - self.begun >= self.seconds


@dataclass(frozen=True)
class Session:
    """What the runs of one call share.

    Attributes:
        here: this process.
        options: of the call.
        record: makes what makes the graphs of one run, see `bioshare.train.graph.recorder`.
        caught: the signal that came.
    """

    here: Processes
    options: Options
    record: Callable[[], Callable[[], Recording] | None]
    caught: Caught = field(default_factory=Caught)


def complete_or_trainable(config: TrainConfig, folder: Path, resume: bool) -> xr.Dataset | None:
    """The result of a run that is complete; None if there is something to train, for which the folder is fit.

    Raises:
        ValueError: what is in the folder stands in the way, or it can't be a folder.
        PermissionError: it can't be written.
    """
    path = folder / CHECKPOINT
    there = [file for file in (path, folder / RESULT) if file.exists()]
    if there and not resume:
        raise ValueError(
            f"folder must have no run in it; {there[0]} is there. Go on from it with resume=True (--resume), or take "
            "another folder"
        )
    if path in there:
        refuse_other(config, checkpoint.read_metadata(path)["config"], path)
    found = complete(folder, config)
    if found is None:
        check_writable(folder)
    return found


def steps(
    config: TrainConfig, dataset: Dataset, folder: Path, session: Session, label: str = "", line: int = 0
) -> Steps:
    """Make a run, then yield, and again after every batch; the work is done in between.

    Args:
        config: what to train.
        dataset: that of the configuration.
        folder: where the files go; no other process may train in it meanwhile.
        session: what the run shares with others.
        label: of its bar.
        line: of the terminal that the bar is in.

    Returns:
        The history, as `fit` does; raises what that raises.
    """
    here, options = session.here, session.options
    with _tensorboard(folder, options.tensorboard and here.rank == 0) as writer:
        batches = training_batches(dataset, config, here.device, here.rank, here.world)
        tests = test_batches(dataset, config, here.device, here.rank, here.world)
        sizes = {"num_classes": len(dataset.classes), "input_size": dataset.input_size}
        run = Run(config, network(config, **sizes), batches, here, options.record_snr, sizes, session.record())
        with closing(run), locked(folder) if here.rank == 0 else nullcontext():
            if (folder / CHECKPOINT).exists():
                run.restore(folder / CHECKPOINT)
            with _bar(run, options.progress, line) as bar:
                yield
                return (yield from _epochs(run, tests, Watch(run, folder, session, bar, label), writer))


def _epochs(run: Run, tests: Batches, watch: Watch, writer: Any) -> Steps:
    """Train to the end."""
    while run.epoch < run.config.epochs:
        yield from _epoch(run, watch)
        run.finish_epoch(tests)
        if writer:
            before = run.steps - len(run.batches)
            run.history.write_to(writer, since=before + 1 if before else 0)
            writer.flush()
        if run.epoch == run.config.epochs:
            run.save(watch.folder / CHECKPOINT)
        elif time.monotonic() - watch.published >= PUBLISH_EVERY:
            watch.publish()
    return watch.publish()


def _epoch(run: Run, watch: Watch) -> Iterator[None]:
    """Train the rest of an epoch, and look up from it now and then; the time of others doesn't count."""
    watch.bar.set_description(f"{watch.label}epoch {run.epoch + 1}/{run.config.epochs}")
    start = time.perf_counter()
    for x, y in run.batches.epoch(run.epoch, run.batch):
        run.step(x, y)
        watch.bar.update(run.images(run.batch - 1))
        due = watch.due
        if due or run.batch == len(run.batches):
            run.finish()
        run.seconds += time.perf_counter() - start
        if due:
            watch.look()
        yield
        start = time.perf_counter()


@dataclass
class Watch:
    """What looks up from a run: at the loss, the clock and the signals.

    Attributes:
        published: when the result was written, by `time.monotonic`.
    """

    run: Run
    folder: Path
    session: Session
    bar: tqdm
    label: str = ""
    published: float = -math.inf

    @property
    def due(self) -> bool:
        """Whether it is time for a look; several processes must agree on that, and can't know of a signal's."""
        alone = self.run.here.world == 1
        stop = self.session.caught.signal > 0 or self.session.options.over
        return self.run.steps % LOOK_EVERY[self.run.here.device.type] == 0 or (alone and stop)

    def look(self) -> None:
        """Look, all processes together; save what there is, and stop, if need be."""
        run, path, options = self.run, self.folder / CHECKPOINT, self.session.options
        late = time.monotonic() - run.saved >= options.checkpoint_every
        facts = torch.tensor([self.session.caught.signal, late, options.over], device=run.here.device)
        signal, save, over = run.here.largest(facts).tolist()
        totals = run.totals()
        loss, correct = (totals[[LOSS, CORRECT]] / totals[IMAGES]).tolist()
        self.bar.set_postfix_str(f"loss {loss:.3f}, {100 * correct:.1f} % correct", refresh=False)
        if save or signal or over:
            run.save(path)
        if (signal or over) and run.history.epochs:
            self.publish()
        where = f"after step {run.steps} of the run; {path} has everything"
        if signal:
            raise Interrupted(f"stopped by signal {signal} {where}", signal)
        if over:
            raise TimeUpError(f"stopped when its time was up {where}")

    def publish(self) -> xr.Dataset:
        """The history so far; one process writes it."""
        run = self.run
        how = {"processes": run.here.world, "precision_used": str(run.dtype or torch.float32).removeprefix("torch.")}
        result = run.history.to_xarray(run.config, run.here.device).assign_attrs(how)
        if run.here.rank == 0:
            write_result(self.folder / RESULT, result)
        self.published = time.monotonic()
        return result


def _bar(run: Run, progress: bool, line: int) -> tqdm:
    """A bar over all images of a run, with rate and time left."""
    epoch = sum(map(run.images, range(len(run.batches))))
    total, done = run.config.epochs * epoch, run.epoch * epoch + sum(map(run.images, range(run.batch)))
    shown = progress and run.here.rank == 0
    return tqdm(total=total, initial=done, disable=not shown, unit=" images", unit_scale=True, position=line or None)


@contextmanager
def _tensorboard(folder: Path, wanted: bool) -> Iterator[Any]:
    """A writer for TensorBoard, whose package is optional; None if it isn't wanted."""
    if not wanted:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard=True needs a package that isn't there: pip install tensorboard") from None
    with closing(SummaryWriter(folder / "tensorboard")) as writer:
        yield writer
