"""One training run: `fit` trains the network of a `TrainConfig`, `trained_network` gets it, `evaluate` tests it.

Nothing in a run depends on when it was interrupted. The batches, the sleeps and whatever else is random in a step are
pure functions of the seed and the step, the learning rate is one of the epoch; all the rest is in the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from bioshare.files import alone, refuse_unwritable
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import Batches, Dataset, load, test_batches, training_batches
from bioshare.train.distributed import Processes, processes
from bioshare.train.interrupt import Caught, Interrupted, interruptible
from bioshare.train.results import read_result, refuse_other, write_result
from bioshare.train.run import CORRECT, IMAGES, LOSS, Run, autocast, network

CHECKPOINT, RESULT = "checkpoint.safetensors", "result.nc"
LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Batches from one look at the loss, the clock and the signals to the next; on a GPU a look waits for its work."""


def fit(
    config: TrainConfig,
    folder: Path | str,
    *,
    data: Path | str | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: bool = True,
    checkpoint_every: float = 600.0,
    record_snr: int | None = None,
    tensorboard: bool = False,
) -> xr.Dataset:
    """Train a network, alone or as one of the processes that torchrun started.

    ``folder`` gets ``result.nc`` after every epoch, and ``checkpoint.safetensors`` from time to time and at the end;
    `trained_network` makes the network from that. A kill at any moment leaves whole files, from which ``resume`` goes
    on to the same final weights: bit by bit in one process on a CPU with the same number of threads, otherwise to
    rounding.

    Args:
        config: what to train.
        folder: where the files go.
        data: the folder of prepared data sets, as for `bioshare.train.data.load`.
        resume: go on from the checkpoint in ``folder``; start if there is none; return the result of a finished run.
        device: "auto" is a GPU if there is one.
        progress: show a bar.
        checkpoint_every: seconds between two checkpoints; 0 for one after every look at the run (`LOOK_EVERY`).
        record_snr: measure -log SNR after every n-th batch, before and after the sharing if there is one; batches are
            counted as for sharing. None for once an epoch. Both record the start.
        tensorboard: write the history for TensorBoard, too.

    Returns:
        The history: losses, accuracies (%) and speed along ``epoch``; ``neg_log_snr`` along ``snr_step`` and ``layer``;
        the configuration, versions and machine as attributes.

    Raises:
        ValueError: an argument makes no sense; ``folder`` holds a run of another configuration, or any run without
            ``resume``; its files are damaged; it can't be a folder; or another process is training in it.
        PermissionError: ``folder`` can't be written.
        TrainingDivergedError: the loss or a weight isn't finite. The last checkpoint is from before.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint holds all until then.
    """
    folder = Path(folder)
    _refuse_unusable(checkpoint_every, record_snr)
    finished = _finished(config, folder, resume)
    if finished is not None:
        return finished
    refuse_unwritable(folder)
    with (
        processes(device) as here,
        torch.random.fork_rng([here.device] if here.device.type == "cuda" else []),
        _tensorboard(folder, tensorboard and here.rank == 0) as writer,
    ):
        dataset = load(config.dataset, data)  # the run must be gone before its processes part: hence a function
        return _train(config, dataset, folder, here, record_snr, checkpoint_every, progress, writer)


def trained_network(folder: Path | str) -> nn.Module:
    """The network of a run, on the CPU and in evaluation mode; it needs no data set.

    Args:
        folder: as for `fit`. A run that isn't finished gives the network of its last checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint in ``folder``.
        ValueError: the checkpoint is damaged.

    Example:
        Test it again, to the ``top1`` of the last epoch::

            config = TrainConfig(dataset="digits")
            fit(config, "run")
            evaluate(trained_network("run"), test_batches(load("digits"), config, torch.device("cpu")))
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; folder must be one that fit has trained in")
    tensors, metadata = checkpoint.read(path)
    model = network(TrainConfig(**metadata["config"]), **metadata["network"])
    checkpoint.restore_network(model, tensors)
    return model.eval()


def _train(
    config: TrainConfig,
    dataset: Dataset,
    folder: Path,
    here: Processes,
    record_snr: int | None,
    checkpoint_every: float,
    progress: bool,
    writer: Any,
) -> xr.Dataset:
    """Make the run, and train it while no other process does."""
    batches = training_batches(dataset, config, here.device, here.rank, here.world)
    tests = test_batches(dataset, config, here.device, here.rank, here.world)
    sizes = {"num_classes": len(dataset.classes), "input_size": dataset.input_size}
    run = Run(config, network(config, **sizes), batches, here, record_snr, sizes)
    with alone(folder) if here.rank == 0 else nullcontext():
        return _continue(run, tests, folder, checkpoint_every, progress, writer)


def _continue(
    run: Run, tests: Batches, folder: Path, checkpoint_every: float, progress: bool, writer: Any
) -> xr.Dataset:
    """Train from the start, or from the checkpoint that is there, to the end."""
    if (folder / CHECKPOINT).exists():
        run.restore(folder / CHECKPOINT)
    with _bar(run, progress) as bar, interruptible() as caught:
        watch = _Watch(run, folder / CHECKPOINT, checkpoint_every, caught, bar)
        while run.epoch < run.config.epochs:
            _train_epoch(run, watch)
            run.finish_epoch(evaluate(run.compiled, tests, run.dtype, run.here))
            if run.epoch == run.config.epochs:
                run.save(folder / CHECKPOINT)
            _publish(run, folder / RESULT, writer)
    return _publish(run, folder / RESULT, None)


def _train_epoch(run: Run, watch: _Watch) -> None:
    """Train the rest of an epoch, and look up from it now and then."""
    watch.bar.set_description(f"epoch {run.epoch + 1}/{run.config.epochs}")
    start = time.perf_counter()
    for x, y in run.batches.epoch(run.epoch, run.batch):
        run.step(x, y)
        watch.bar.update(run.images(run.batch - 1))
        due = watch.due
        if due or run.batch == len(run.batches):
            run.here.finish()
        run.seconds += time.perf_counter() - start
        if due:
            watch.look()
        start = time.perf_counter()


@dataclass(frozen=True)
class _Watch:
    """What looks up from a run: at the loss, the clock and the signals.

    Attributes:
        path: of the checkpoint.
        every: seconds between two checkpoints.
    """

    run: Run
    path: Path
    every: float
    caught: Caught
    bar: tqdm

    @property
    def due(self) -> bool:
        """Whether it is time for a look; several processes must agree on that, and can't know of a signal's."""
        alone = self.run.here.world == 1
        return self.run.steps % LOOK_EVERY[self.run.here.device.type] == 0 or (alone and self.caught.signal > 0)

    def look(self) -> None:
        """Look, all processes together; save what there is, and stop, if need be."""
        run, late = self.run, time.monotonic() - self.run.saved >= self.every
        signal, save = run.here.largest(torch.tensor([self.caught.signal, late], device=run.here.device)).tolist()
        totals = run.totals()
        loss, correct = (totals[[LOSS, CORRECT]] / totals[IMAGES]).tolist()
        self.bar.set_postfix_str(f"loss {loss:.3f}, {100 * correct:.1f} % correct", refresh=False)
        if save or signal:
            run.save(self.path)
        if signal:
            told = f"stopped by signal {signal} after step {run.steps} of the run; {self.path} has everything"
            raise Interrupted(told, signal)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Batches, dtype: torch.dtype | None = None, here: Processes | None = None
) -> dict[str, float]:
    """Test a network, in evaluation mode; its mode comes back.

    Args:
        model: takes images to logits.
        batches: of the test images, this process's part, on the model's device.
        dtype: of automatic mixed precision; None for none.
        here: this process; None if it is the only one.

    Returns:
        test_loss (mean cross entropy), top1 and top5 (%), over the images of all processes.
    """
    mode, sums = model.training, torch.zeros(4, dtype=torch.float64)
    model.eval()
    for x, y in batches.epoch(0):
        with autocast(x.device, dtype):
            scores = model(x).float()
        hits = scores.topk(min(5, scores.shape[1])).indices == y[:, None]
        loss = cross_entropy(scores, y, reduction="sum")
        sums = sums.to(x.device) + torch.stack([loss, hits[:, 0].sum(), hits.sum(), y.new_tensor(len(y))])
    model.train(mode)
    loss, first, five, images = (here.total(sums) if here else sums).tolist()
    return {"test_loss": loss / images, "top1": 100 * first / images, "top5": 100 * five / images}


def _publish(run: Run, path: Path, writer: Any) -> xr.Dataset:
    """The history so far; one process writes it."""
    how = {"processes": run.here.world, "precision_used": str(run.dtype or torch.float32).removeprefix("torch.")}
    result = run.history.to_xarray(run.config, run.here.device).assign_attrs(how)
    if run.here.rank == 0:
        write_result(path, result)
        if writer:
            before = run.steps - len(run.batches)
            run.history.write_to(writer, since=before + 1 if before else 0)
            writer.flush()
    return result


def _bar(run: Run, progress: bool) -> tqdm:
    """A bar over all images of a run, with rate and time left."""
    epoch = sum(map(run.images, range(len(run.batches))))
    done = run.epoch * epoch + sum(map(run.images, range(run.batch)))
    shown = progress and run.here.rank == 0
    return tqdm(total=run.config.epochs * epoch, initial=done, disable=not shown, unit=" images", unit_scale=True)


def _finished(config: TrainConfig, folder: Path, resume: bool) -> xr.Dataset | None:
    """The result of a run that is complete; None if there is something to train.

    Raises:
        ValueError: what is in the folder stands in the way.
    """
    path, result = folder / CHECKPOINT, folder / RESULT
    there = [file for file in (path, result) if file.exists()]
    if there and not resume:
        raise ValueError(
            f"folder must have no run in it; {there[0]} is there. Go on from it with resume=True (--resume), or take "
            "another folder"
        )
    found = read_result(result) if result in there else None
    if path in there:
        refuse_other(config, checkpoint.read_metadata(path)["config"], path)
    if found is not None:
        refuse_other(config, found.attrs, result)
    return found if found is not None and found.sizes["epoch"] == config.epochs else None


def _refuse_unusable(checkpoint_every: float, record_snr: int | None) -> None:
    if math.isnan(checkpoint_every) or checkpoint_every < 0:
        raise ValueError(f"checkpoint_every must be a number of seconds >= 0; got {checkpoint_every!r}")
    if record_snr is not None and (not isinstance(record_snr, int) or isinstance(record_snr, bool) or record_snr < 1):
        raise ValueError(f"record_snr must be None or a whole number of batches of at least 1; got {record_snr!r}")


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
