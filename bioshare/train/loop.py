"""One training run: `fit` trains the network of a `TrainConfig`, `trained_network` gets it, `evaluate` tests it.

Nothing in a run depends on when it was interrupted. The batches, the sleeps and whatever else is random in a step are
pure functions of the seed and the step, the learning rate is one of the epoch; all the rest is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
import xarray as xr
from torch import nn

from bioshare.nn.forms import Form
from bioshare.nn.functional import prefer
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import load
from bioshare.train.distributed import processes
from bioshare.train.evaluation import evaluate as evaluate
from bioshare.train.graph import recorder
from bioshare.train.interrupt import interruptible
from bioshare.train.recipe import network
from bioshare.train.results import RESULT as RESULT
from bioshare.train.steps import CHECKPOINT, Options, Session, Steps, complete_or_trainable, steps
from bioshare.train.steps import LOOK_EVERY as LOOK_EVERY


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
    seconds: float | None = None,
    graphs: bool | None = None,
    form: Form = "auto",
) -> xr.Dataset:
    """Train a network, alone or as one of the processes that torchrun started.

    ``folder`` gets ``result.nc`` after the first epoch, and after others when it is some seconds old, and
    ``checkpoint.safetensors`` from time to time; both when the run is stopped and at its end. `trained_network` makes
    the network from the checkpoint. A kill at any moment leaves whole files, from which ``resume`` goes on to the same
    final weights: bit by bit in one process on a CPU with the same number of threads, otherwise to rounding.

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
        seconds: stop after that time, counted from the call, with a checkpoint; None to train to the end. At least one
            batch is learned.
        graphs: replay the steps from CUDA graphs, which spares the host the launch of every single kernel. None for
            wherever that is possible: on a GPU, in a single process.
        form: of the locally connected products on a GPU, as for `bioshare.nn.functional.prefer`; "auto" leaves the
            choice as it is around the call.

    Returns:
        The history: losses, accuracies (%) and speed along ``epoch``; ``neg_log_snr`` along ``snr_step`` and ``layer``;
        the configuration, versions and machine as attributes.

    Raises:
        ValueError: an argument makes no sense, or wants graphs or a form that aren't there; ``folder`` holds a run
            of another configuration, or any run without ``resume``; its files are damaged; it can't be a folder; or
            another process is training in it.
        PermissionError: ``folder`` can't be written.
        TrainingDivergedError: the loss or a weight isn't finite. The last checkpoint is from before.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint holds all until then.
        TimeUpError: ``seconds`` are over; a checkpoint holds all until then.
    """
    options = Options(data, resume, device, progress, checkpoint_every, record_snr, tensorboard, seconds, graphs, form)
    folder = Path(folder)
    result = complete_or_trainable(config, folder, resume)
    if result is not None:
        return result
    with session(options) as shared:
        return _train(steps(config, load(config.dataset, data), folder, shared), shared)


@contextmanager
def session(options: Options) -> Iterator[Session]:
    """What the runs of a call share while it lasts; PyTorch's generators come back after it.

    Raises:
        ValueError: there is no such device or form, or no CUDA graphs on the device.
    """
    preferred = nullcontext() if options.form == "auto" else prefer(options.form)
    with preferred, processes(options.device) as here:
        recorder(options.graphs, here)  # to be refused now
        with torch.random.fork_rng([here.device] if here.device.type == "cuda" else []):
            yield Session(here, options, partial(recorder, options.graphs, here))


def _train(run: Steps, shared: Session) -> xr.Dataset:
    """Take all steps of a run; it must be gone before its processes part: hence a function."""
    with shared.here.stream():
        next(run)
        with interruptible(shared.caught):
            while True:
                try:
                    next(run)
                except StopIteration as end:
                    return end.value


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
