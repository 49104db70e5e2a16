"""`fit` trains the network of a `TrainConfig`, `trained_network` gets the network back.

A run that was stopped ends with the same bits as one that was not (in one process on a CPU with as many threads;
elsewhere to rounding), since nothing depends on the moment of a stop. The
batches and crops, dropout, and the seeds of the phases are pure functions of the run's seed and the number of the step
(`bioshare.train.seeds.seed_at`); the learning rate is a function of the epoch. Everything else for the next step
is in the checkpoint: weights and buffers, the moments of the optimiser, the scale of mixed precision, the sums of the
epoch so far and the history. A signal waits for the end of a batch, and files replace each other whole.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, get_args

import torch
import xarray as xr
from torch import nn
from tqdm import tqdm

from bioshare.checks import choice, flag, real, shown, whole
from bioshare.files import check_writable, expanded, locked
from bioshare.nn.forms import Form
from bioshare.nn.functional import prefer
from bioshare.progress import say, shows_bar, shows_lines
from bioshare.train import checkpoint
from bioshare.train.config import OwnImages, TrainConfig
from bioshare.train.data import Batches, load, test_batches, training_batches
from bioshare.train.data.own import own_data
from bioshare.train.distributed import device_named, joined_processes
from bioshare.train.interrupt import Interrupted, TimeUpError, interruptible
from bioshare.train.results import RESULT, complete
from bioshare.train.run import CORRECT, IMAGES, LOSS, Run
from bioshare.train.saving import (
    CHECKPOINT,
    TRIAL,
    RunFiles,
    check_images,
    check_prepared_images,
    network_in,
    postponing,
    snapshot_network,
)
from bioshare.train.stored import check_same, config_text

LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Batches from one look at the loss, the clock and the signals to the next; on a GPU a look waits for the device."""

PUBLISH_EVERY = 5.0
"""Least seconds from one result to the next: writing takes a twentieth, as long as a short epoch on a GPU."""


def fit(
    config: TrainConfig,
    folder: Path | str,
    *,
    data: Path | str | Sequence[Any] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: bool = True,
    checkpoint_every: float = 600.0,
    record_snr: int | None = None,
    tensorboard: bool = False,
    seconds: float | None = None,
    graphs: bool | None = None,
    form: Form = "auto",
) -> xr.Dataset:
    """Train a network, alone or as one of the processes that torchrun started.

    ``folder`` gets ``result.nc`` after the first epoch, and after others when the last is some seconds old, and
    ``checkpoint.safetensors`` from time to time; both when the run is stopped and at the end. `trained_network` makes
    the network from the checkpoint. A kill at any moment leaves whole files, from which ``resume`` goes on to the same
    final weights: bit by bit in one process on a CPU with the same number of threads, otherwise to rounding.

    Args:
        config: configuration of the run.
        folder: folder of the files.
        data: folder of the prepared data sets; None for $BIOSHARE_DATA, or else data. For ``OwnImages`` also the images
            themselves, see `bioshare.train.data.own_data`: (train_images, train_labels, test_images, test_labels), or
            (train, test), two datasets of PyTorch.
        resume: go on from the checkpoint in the folder; start if there is none; return the result of a finished run.
            ``config`` may have more epochs than the run had: from the checkpoint on, the learning rate is the rate of
            the longer schedule.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is a GPU if there is one.
        progress: show a bar in a terminal, and a line after every epoch in a log file; TQDM_DISABLE=1 in the
            environment does without, too.
        checkpoint_every: seconds between two checkpoints of a run; 0 for one after every look at the run.
        record_snr: measure -log SNR after every n-th batch, before and after the phases if any are due; batches are
            counted as for the first phase. None for once an epoch. Both record the start.
        tensorboard: write the history for TensorBoard, too.
        seconds: stop after that time, counted from the call, with a checkpoint; None to train to the end. At least one
            batch is learned.
        graphs: replay the steps from CUDA graphs, which spares the host the launch of every single kernel. None for
            wherever possible: on a GPU, in a single process.
        form: form of the locally connected products on a GPU, as for `bioshare.nn.functional.prefer`; "auto" leaves
            the choice as it is around the call.

    Returns:
        The history: losses, accuracies (%) and speed along ``epoch``; ``neg_log_snr`` along ``snr_step`` and ``layer``;
        the configuration, versions and machine as attributes.

    Raises:
        TypeError, ValueError: an argument makes no sense, or asks for graphs or a form missing on the device;
            ``config`` holds a function, which can't be stored, or starts from a snapshot that is missing; ``folder``
            holds a run of another configuration, or any run without ``resume``; the files are damaged; or another
            process is training in the folder.
        OSError: ``folder`` can't be written, or is full; nothing is trained if the first checkpoint finds no room.
        TrainingDivergedError: the loss or a weight isn't finite. The last checkpoint is from before.
        Interrupted: SIGTERM, SIGUSR1, SIGHUP or Ctrl-C; a checkpoint holds everything so far.
        TimeUpError: ``seconds`` are over; a checkpoint holds everything so far.
    """
    begun, folder = time.monotonic(), expanded(folder, "folder")
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig; got {shown(config)}")
    device_named(device)
    for name, value in {"resume": resume, "progress": progress, "tensorboard": tensorboard}.items():
        flag(name, value)
    choice("form", form, get_args(Form))
    real("checkpoint_every", checkpoint_every, "a number of seconds >= 0", at_least=0, infinite=True, array=False)
    real("seconds", 0 if seconds is None else seconds, "a number of seconds >= 0", at_least=0, array=False)
    whole("record_snr", 1 if record_snr is None else record_snr, "None or a number of batches", at_least=1)
    choice("graphs", graphs, (None, True, False))
    config_text(config)  # raises an error for a phase that can't be stored
    own = None
    if not (data is None or isinstance(data, str | os.PathLike)):
        if not isinstance(config.dataset, OwnImages):
            raise ValueError(f"config.dataset must be OwnImages(name) for images in data; got {config.dataset}")
        own = own_data(config.dataset_name, data)
    finished = _check_folder(config, folder, resume)
    if finished is not None:
        if own:
            check_images(config, folder, finished.attrs.get("images"), own.checksum)
        else:
            check_prepared_images(config, folder, finished, data)  # pyright: ignore[reportArgumentType]
        return finished
    with ExitStack() as stack:
        # the device with its stream and graphs, random generators, the data and the network
        if form != "auto":
            stack.enter_context(prefer(form))
        processes = stack.enter_context(joined_processes(device))
        record = processes.recorder(graphs)
        stack.enter_context(torch.random.fork_rng([processes.device] if processes.device.type == "cuda" else []))
        stack.enter_context(processes.stream())
        dataset = own or load(config.dataset_name, data)  # pyright: ignore[reportArgumentType]
        writer = stack.enter_context(_tensorboard_writer(folder)) if tensorboard and processes.rank == 0 else None
        batches = training_batches(dataset, config, processes.device, processes.rank, processes.world)
        tests = test_batches(dataset, config, processes.device, processes.rank, processes.world)
        network = {"num_classes": len(dataset.classes), "input_size": list(dataset.input_size)}
        first = None if (folder / CHECKPOINT).exists() else snapshot_network(config, folder, network)
        model = config.build_network(**network, snapshot=first)
        run = stack.enter_context(closing(Run(config, model, batches, processes, record_snr, record)))
        # the folder, as another process may have left it before the lock
        if processes.rank == 0:
            stack.enter_context(locked(folder, CHECKPOINT, TRIAL, RESULT))
        processes.wait()
        finished = _check_folder(config, folder, resume)
        if finished is not None:
            check_images(config, folder, finished.attrs.get("images"), dataset.checksum)
            return finished
        files = RunFiles(run, folder, network, dataset.checksum)
        files.restore()
        files.try_out()
        until = math.inf if seconds is None else begun + seconds
        return _train(files, tests, checkpoint_every, until, progress and processes.rank == 0, writer)


def _train(
    files: RunFiles, tests: Batches, checkpoint_every: float, until: float, progress: bool, writer: Any
) -> xr.Dataset:
    """Take the steps that are left, with a look now and then, and a test at the end of every epoch.

    Args:
        files: the run and the files.
        tests: test images.
        checkpoint_every: seconds between two checkpoints.
        until: time of the end, by `time.monotonic`.
        progress: show a bar or lines.
        writer: writer for TensorBoard, or None.
    """
    run, config, batches = files.run, files.run.config, files.run.batches
    epoch = sum(map(run.images, range(len(batches))))
    done = run.epoch * epoch + sum(map(run.images, range(run.batch)))
    hidden = not (progress and shows_bar())
    files.snapshot()
    bar = tqdm(total=config.epochs * epoch, initial=done, disable=hidden, unit=" images", unit_scale=True)
    with bar, interruptible() as signals:
        while run.epoch < config.epochs:
            bar.set_description(f"epoch {run.epoch + 1}/{config.epochs}")
            start = time.perf_counter()
            for x, y in batches.epoch(run.epoch, run.batch):
                run.step(x, y)
                bar.update(run.images(run.batch - 1))
                over = time.monotonic() >= until
                look = run.steps % LOOK_EVERY[run.processes.device.type] == 0
                look |= run.processes.world == 1 and (bool(signals) or over)  # several must look at the same batch
                if look or run.batch == len(batches):
                    run.finish()
                run.seconds += time.perf_counter() - start
                if look:
                    late = time.monotonic() - files.saved >= checkpoint_every
                    bar.set_postfix_str(_look(files, signals, late, over), refresh=False)
                start = time.perf_counter()
            run.finish_epoch(tests)
            files.snapshot()
            if progress and shows_lines():
                say(run.history.line(config.epochs))
            if writer:
                before = run.steps - len(batches)
                run.history.write_to(writer, since=before + 1 if before else 0)
            if run.epoch < config.epochs and time.monotonic() - files.published >= PUBLISH_EVERY:
                with postponing():
                    files.publish()
        return files.leave()


def _look(files: RunFiles, signals: list[int], late: bool, over: bool) -> str:
    """Save a run that is ``late``, and stop it after a signal or when the time is over, all processes at one batch.

    Returns:
        Loss and accuracy of the epoch so far, for the bar.
    """
    run = files.run
    facts = torch.tensor([signals[0] if signals else 0, late, over], device=run.processes.device)
    signal, late, over = run.processes.largest(facts).tolist()
    totals = run.totals()
    where = f"after step {run.steps} of the run; {files.folder / CHECKPOINT} has everything"
    if signal or over:
        files.leave()
        raise (
            Interrupted(f"stopped by signal {signal} {where}", signal)
            if signal
            else TimeUpError(f"stopped when its time was up {where}")
        )
    if late:
        with postponing():
            files.save()
    loss, correct = (totals[[LOSS, CORRECT]] / totals[IMAGES]).tolist()
    return f"loss {loss:.3f}, {100 * correct:.1f} % correct"


def _check_folder(config: TrainConfig, folder: Path, resume: bool) -> xr.Dataset | None:
    """The result of a complete run; None for a folder in which the run can start or go on.

    Raises:
        ValueError: the folder holds files of a different run, or is a file.
        PermissionError: the folder can't be written.
    """
    path = folder / CHECKPOINT
    present = [file for file in (path, folder / RESULT) if file.exists()]
    if present and not resume:
        raise ValueError(
            f"folder must have no run in it; {present[0]} is there. Go on from it with resume=True (--resume), or take "
            "another folder"
        )
    result = complete(folder, config, longer=True)
    if path not in present and result is None and complete(folder) is not None:
        raise ValueError(
            f"epochs must be those of the finished run in {folder}, whose checkpoint is gone, so that it cannot go on; "
            "got more. Take another folder (--to)"
        )
    if path in present:
        metadata = checkpoint.read_metadata(path)
        try:
            check_same(config, metadata.get("config"), path, longer=True)
        except ValueError:
            checkpoint.read(path)  # a damaged file says so instead
            raise
        if metadata.get("epoch") != config.epochs:  # the last checkpoint found no room, but the result did
            result = None
    if result is None:
        check_writable(folder)
    return result


def _tensorboard_writer(folder: Path) -> Any:
    """A writer for TensorBoard, whose package is optional."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard=True needs a package that isn't there: pip install tensorboard") from None
    return closing(SummaryWriter(folder / "tensorboard"))


def trained_network(folder: Path | str) -> nn.Module:
    """The network of a run, on the CPU and in evaluation mode, made without the data set.

    Args:
        folder: as for `fit`. A run that isn't finished gives the network of its last checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint in ``folder``.
        ValueError: the checkpoint is damaged.

    Example:
        Test again, to the ``top1`` of the last epoch::

            config = TrainConfig(dataset="digits")
            fit(config, "run")
            evaluate(trained_network("run"), test_batches(load("digits"), config, torch.device("cpu")))
    """
    path = expanded(folder, "folder") / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}; folder must be one that fit has trained in, with its checkpoint, which "
            "--discard-checkpoints deletes"
        )
    return network_in(path)
