"""The files of a run: the checkpoint from which training goes on, and the result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import nn

from bioshare.checks import real, whole
from bioshare.nn.interpolation import first_difference
from bioshare.progress import say
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import load
from bioshare.train.data.prepared import has_checksum, prepared_file
from bioshare.train.results import RESULT, History, complete, write_result
from bioshare.train.run import FINITE, IMAGES, Run
from bioshare.train.snapshot import snapshot_name
from bioshare.train.stored import check_same, config_of, config_text

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file of a checkpoint in the folder of a run."""

TRIAL = f"trial-{CHECKPOINT}"
"""Name of a checkpoint that is written and deleted before training."""


@dataclass(frozen=True)
class Position:
    """All numbers in a checkpoint that lie in no tensor, in the types of JSON.

    Attributes:
        config: configuration as text.
        network: arguments of `TrainConfig.build_network`.
        images: checksum of the data set.
        epoch, batch: position of the next step.
        seconds, asleep: time spent on the batches of this epoch, and the part of that time spent in phases.
        scaler: state of the scale of mixed precision.
        history: see `History.facts`.
    """

    config: str
    network: dict[str, Any]
    images: str
    epoch: int
    batch: int
    seconds: float
    asleep: float
    scaler: dict[str, float]
    history: dict[str, Any]

    def __post_init__(self) -> None:
        sizes = [self.network["num_classes"], *self.network["input_size"]]
        if len(self.network) != 2 or len(sizes) != 4:
            raise ValueError(
                f"network must have the numbers of classes, channels, rows and columns; got {self.network}"
            )
        for size in sizes:
            whole("network", size, "a number of classes, channels, rows or columns", at_least=1)
        whole("epoch", self.epoch, "the number of an epoch", at_least=0)
        whole("batch", self.batch, "the number of a batch", at_least=0)
        for name, value in {"seconds": self.seconds, "asleep": self.asleep, **self.scaler}.items():
            real(name, value, "a finite number >= 0", at_least=0, array=False)


class RunFiles:
    """The checkpoint and the result of a run in a folder, written by one of the processes.

    Args:
        run: the run.
        folder: folder of the files.
        network: arguments of `TrainConfig.build_network`.
        images: checksum of the data set.

    Attributes:
        saved, published: times of the last checkpoint and of the last result, by `time.monotonic`.
    """

    def __init__(self, run: Run, folder: Path, network: dict[str, Any], images: str) -> None:
        self.run, self.folder, self.network, self.images = run, folder, network, images
        self.saved, self.published = time.monotonic(), float("-inf")
        buffers = run.model.named_buffers()
        run.infinite = {f"model.{name}": buffer.clone() for name, buffer in buffers if not buffer.isfinite().all()}

    def try_out(self) -> None:
        """Write a checkpoint and delete it: whatever can't be saved fails before the training."""
        self.save(TRIAL)
        (self.folder / TRIAL).unlink(missing_ok=True)

    def save(self, name: str = CHECKPOINT) -> None:
        """Write a checkpoint.

        Raises:
            TrainingDivergedError: a number isn't finite; the file stays as before.
            OSError: the file can't be written, in the process that writes; the file stays as before.
        """
        run = self.run
        totals = run.totals()
        run.check_finite()
        try:
            if run.processes.rank == 0:
                position = Position(
                    config=config_text(run.config),
                    network=self.network,
                    images=self.images,
                    epoch=run.epoch,
                    batch=run.batch,
                    seconds=run.seconds,
                    asleep=run.asleep,
                    scaler=run.scaler.state_dict(),
                    history=run.history.facts(),
                )
                tensors = checkpoint.state(run.model, run.optimizer) | run.history.tensors() | {"sums": totals}
                checkpoint.write(self.folder / name, tensors, vars(position))
        finally:
            run.processes.wait()
            self.saved = time.monotonic()

    def snapshot(self) -> None:
        """Keep the weights in a file of their own, at the end of an epoch of `TrainConfig.snapshots`."""
        if self.run.batch == 0 and self.run.epoch in self.run.config.snapshots:
            saved = self.saved
            self.save(snapshot_name(self.run.epoch))
            self.saved = saved

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            ValueError: the file is damaged, or of another configuration, other images or another version of bioshare.
        """
        run, path = self.run, self.folder / CHECKPOINT
        if not path.exists():
            return
        tensors, metadata = checkpoint.read(path)
        check_same(run.config, metadata.get("config"), path, longer=True)
        check_images(run.config, self.folder, metadata.get("images"), self.images)
        with checkpoint.naming(path):
            saved, sums = Position(**metadata), tensors["sums"]
            run.history = History.restored(saved.history, tensors)
            images = sum(map(run.images, range(min(saved.batch, len(run.batches)))))
            fits = {
                "network": saved.network == self.network,
                "epoch": saved.epoch == len(run.history.epochs) <= run.config.epochs,
                "batch": saved.batch <= len(run.batches),
                "moments": saved.epoch == saved.batch == 0
                or any(name.startswith("optimizer.") for name in tensors)
                or getattr(run.config.optimizer, "momentum", 1) == 0,
                "sums": (sums.shape, sums.dtype) == (run.sums.shape, run.sums.dtype) and sums[IMAGES] == images,
            }
            if not all(fits.values()):
                wrong = ", ".join(name for name, fitting in fits.items() if not fitting)
                raise ValueError(f"its {wrong} can't be of this run")
            checkpoint.restore(run.model, run.optimizer, tensors)
            if saved.scaler and run.scaler.is_enabled():
                run.scaler.load_state_dict(saved.scaler)
        run.epoch, run.batch, run.seconds, run.asleep = saved.epoch, saved.batch, saved.seconds, saved.asleep
        if run.processes.rank == 0:
            run.sums.copy_(sums)
        run.sums[FINITE] = run.batch

    def publish(self) -> xr.Dataset:
        """The history so far, written to the folder after the first epoch."""
        run = self.run
        precision = str(run.dtype or torch.float32).removeprefix("torch.")
        how = {"processes": run.processes.world, "precision_used": precision, "images": self.images}
        result = run.history.to_xarray(run.config, run.processes.device).assign_attrs(how)
        if run.processes.rank == 0 and run.history.epochs:
            write_result(self.folder / RESULT, result)
        self.published = time.monotonic()
        return result

    def leave(self) -> xr.Dataset:
        """Write both files, and return the result; on a full disk, the smaller result may find room alone.

        Raises:
            TrainingDivergedError, OSError: as for `save`.
        """
        try:
            self.save()
        except OSError:
            with suppress(OSError):
                self.publish()
            raise
        return self.publish()


def network_in(path: Path) -> nn.Module:
    """The network of a checkpoint or a snapshot, on the CPU and in evaluation mode.

    Raises:
        ValueError: the file is damaged.
    """
    tensors, metadata = checkpoint.read(path)
    config = config_of(metadata.get("config"), path)
    with checkpoint.naming(path):
        model = config.build_network(**Position(**metadata).network)
        checkpoint.restore_network(model, tensors)
    return model.eval()


def snapshot_network(config: TrainConfig, folder: Path, network: Mapping[str, Any]) -> nn.Module | None:
    """The network with the weights from which the run in a folder starts; None for weights drawn from the seed.

    Args:
        config: configuration of the run.
        folder: folder of the run.
        network: arguments of `TrainConfig.build_network`.

    Raises:
        ValueError: the other run is missing, not finished, of images of another size or number of classes, or of a
            network whose weights this one does not have.
    """
    if config.start_from is None:
        return None
    path = config.start_from.file(folder, config.seed)
    if complete(path.parent) is None:
        raise ValueError(f"start_from must be a snapshot of a finished run; finish the run in {path.parent} first")
    if (theirs := checkpoint.read_metadata(path).get("network")) != network:
        raise ValueError(f"start_from must be a snapshot of a network for {network}; {path} is for {theirs}")
    embedded = config.network.embed(network_in(path), tuple(network["input_size"]))
    with torch.random.fork_rng(devices=[]):
        key = first_difference(config.network.build(**network), embedded)
    if key is not None:
        raise ValueError(
            f"start_from must be a snapshot of a network whose weights {config.network} has, too; {path} is of another "
            f"network, with another {key}. Take a snapshot of the same sizes, or the network of that run"
        )
    return embedded


def check_images(config: TrainConfig, folder: Path, before: object, now: str) -> None:
    """Check by checksums that a run goes on with the images of its start; raises ValueError for different images."""
    if before != now:
        raise ValueError(
            f"the images of {config.dataset_name} must be those of the run in {folder}: their checksum was {before} "
            f"and is now {now}. Prepare the same images, or take another folder (--to)"
        )


def check_prepared_images(config: TrainConfig, folder: Path, result: xr.Dataset, data: Path | str | None) -> None:
    """Check that the prepared images, if there, are those of a finished run; equal checksums spare reading the images.

    Raises:
        ValueError: the images are different, or the prepared file is damaged.
    """
    before = result.attrs.get("images")
    path = prepared_file(config.dataset_name, data)
    if path.is_file() and not has_checksum(path, before):
        check_images(config, folder, before, load(config.dataset_name, data).checksum)


@contextmanager
def postponing() -> Iterator[None]:
    """A block in which a file that can't be written becomes a warning: the next try may find room."""
    try:
        yield
    except OSError as error:
        say(f"warning: {error}. The run goes on, and tries again")
