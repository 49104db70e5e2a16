"""`Run`: a network in training, how far it has come, and its next step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.bridge import InstantSharing, Sleep, neg_log_snr
from bioshare.nn import LocallyConnected2d, resnet18, resnet20, to_locally_connected
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import Batches
from bioshare.train.data.plan import seed_at
from bioshare.train.distributed import Processes
from bioshare.train.results import History
from bioshare.train.sharing import sharing

NETWORKS = {"resnet20": resnet20, "resnet18": resnet18}
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LOSS, CORRECT, IMAGES, FINITE = range(4)
"""What is summed over an epoch: losses, correct answers, images, batches before the loss was no longer finite."""


class TrainingDivergedError(FloatingPointError):
    """A run whose loss or weights are no longer finite.

    Attributes:
        epoch, step: where, both from 0 (from 1 in the message); the step counts the batches of the whole run.
        learning_rate: at that step.
    """

    def __init__(self, message: str, epoch: int, step: int, learning_rate: float) -> None:
        super().__init__(message, epoch, step, learning_rate)
        self.epoch, self.step, self.learning_rate = epoch, step, learning_rate

    def __str__(self) -> str:
        return self.args[0]


def network(config: TrainConfig, num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """The network of a configuration, its weights drawn from the seed; the global generator stays as it was.

    Args:
        config: names the network.
        num_classes: of the data set.
        input_size: channels, rows and columns of its images.

    Raises:
        ValueError: ``keep_first`` leaves nothing to be locally connected.
    """
    channels, rows, columns = input_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = NETWORKS[config.network](num_classes, in_channels=channels)
        if config.locally_connected:
            model = to_locally_connected(model, (channels, rows, columns), "independent", config.keep_first)
    if config.locally_connected and not any(isinstance(module, LocallyConnected2d) for module in model.modules()):
        raise ValueError(f"keep_first must leave a convolution of {config.network}; got {config.keep_first}")
    return model


def optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW of a configuration, at its first learning rate; fused, which is the fastest on every device."""
    return torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch (from 0): divided by 4 at every milestone."""
    passed = sum(epoch >= round(milestone * config.epochs, 9) for milestone in config.milestones)
    return config.learning_rate / 4**passed


def half(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The type of automatic mixed precision; None for float32 throughout."""
    precision = config.precision
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    return HALVES.get(precision)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Automatic mixed precision of that type; of none for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class Run:
    """A network in training.

    All processes have the same weights at every moment. Their sums differ, and become one in `totals`.

    Args:
        config: what is trained.
        model: the network, in place; its `BatchNorm2d` layers are synchronised if there are several processes.
        batches: of the training images, this process's part.
        here: this process.
        record_snr: measure -log SNR after every n-th batch; None for once an epoch.
        sizes: the other arguments of `network`, for the checkpoint.

    Attributes:
        compiled: the network as `torch.compile` made it, or itself.
        dtype: of automatic mixed precision, or None.
        epoch, batch: what comes next; both from 0.
        seconds, asleep: spent on the batches of this epoch, and the part of it in which weights were shared.
        saved: when the last checkpoint was written, by `time.monotonic`.
        history: the epochs before.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        batches: Batches,
        here: Processes,
        record_snr: int | None = None,
        sizes: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.batches, self.here, self.record_snr, self.sizes = config, batches, here, record_snr, sizes
        self.model = model.to(here.device).train()
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its convolutions)
        here.synchronise(self.model)
        self.compiled: nn.Module = torch.compile(self.model) if config.compile else self.model  # pyright: ignore[reportAttributeAccessIssue]
        self.forward = here.parallel(self.compiled)
        self.optimizer = optimizer(self.model, config)
        self.dtype = half(config, here.device)
        self.scaler = torch.amp.GradScaler(here.device.type, enabled=self.dtype is torch.float16)
        self.share = sharing(config)
        if isinstance(self.share, Sleep):
            self.share.check(self.model)
        self.epoch, self.batch, self.saved = 0, 0, time.monotonic()
        self.seconds, self.asleep = 0.0, 0.0
        self.sums = torch.zeros(4, dtype=torch.float64, device=here.device)
        self.history = History()
        self._measure()

    @property
    def steps(self) -> int:
        """Batches since the start of the run."""
        return self.epoch * len(self.batches) + self.batch

    def images(self, batch: int) -> int:
        """How many images a batch has in all processes together, repetitions included."""
        different = self.config.batch_size // self.config.repetitions
        return min(different, self.batches.images - batch * different) * self.config.repetitions

    def step(self, x: Tensor, y: Tensor) -> None:
        """Learn from one batch, or this process's part of it, and share the weights if their time has come."""
        torch.manual_seed(seed_at("step", self.config.seed, self.steps, self.here.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.epoch)
        self.optimizer.zero_grad()
        with autocast(self.here.device, self.dtype):
            scores = self.forward(x)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = cross_entropy(scores, y, reduction="sum")
        self.scaler.scale(loss * (self.here.world / self.images(self.batch))).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._count(loss.detach(), scores.detach(), y)
        self.batch += 1
        self._share_and_measure()

    def _count(self, loss: Tensor, scores: Tensor, y: Tensor) -> None:
        correct, images = (scores.argmax(1) == y).sum(), y.new_tensor(len(y))
        self.sums[:FINITE] += torch.stack([loss, correct, images])
        self.sums[FINITE] += self.sums[LOSS].isfinite()

    def _share_and_measure(self) -> None:
        """Share the weights after a batch, and measure -log SNR before and after, if it is time for that."""
        measured = self._due(self.record_snr)
        if self.share and self._due(self.config.share_every):
            self._share(self.share, measured)
        elif measured:
            self._measure()

    def _share(self, share: InstantSharing | Sleep, measured: bool) -> None:
        """Share the weights, and take the time that this alone needs."""
        self.here.finish()
        start, seed = time.perf_counter(), seed_at("sleep", self.config.seed, self.steps - 1)
        with self._finite():
            report = share(self.model, seed, progress=False, measure=measured, optimizer=self.optimizer)
        self.here.finish()
        self.asleep += time.perf_counter() - start
        self.history.sharings += 1
        if measured:
            self.history.add_sharing(self.steps, report)

    def _due(self, every: int | None) -> bool:
        """Whether the batch just learned is one of every n-th, the first of the epoch or of the run included."""
        learned = self.batch if self.config.share_count == "epoch" else self.steps
        return every is not None and (learned - 1) % every == 0

    def _measure(self) -> None:
        if self.config.locally_connected:
            with self._finite():
                self.history.add_snr(self.steps, False, neg_log_snr(self.model, self.config.border))

    @contextmanager
    def _finite(self) -> Iterator[None]:
        """Sharing and measuring refuse weights that are not finite by a ValueError: say where the run was."""
        try:
            yield
        except ValueError:
            self._refuse_broken_weights()
            raise

    def totals(self) -> Tensor:
        """The sums of this epoch so far, over all processes.

        Raises:
            TrainingDivergedError: a loss wasn't finite; in all processes.
        """
        totals = self.here.total(self.sums)
        if not totals[LOSS].isfinite():
            fine = -self.here.largest(-self.sums[FINITE])
            raise self._diverged("the loss", self.steps - self.batch + int(fine))
        return totals

    def _refuse_broken_weights(self) -> None:
        """Refuse what the last step has made if it isn't finite."""
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self.totals()  # a loss that wasn't finite came first
            raise self._diverged("a weight", self.steps - 1)

    def _diverged(self, what: str, step: int) -> TrainingDivergedError:
        epoch = step // len(self.batches)
        rate = learning_rate(self.config, epoch)
        where = f"in epoch {epoch + 1}, step {step + 1} of the run, at the learning rate {rate:g}"
        return TrainingDivergedError(
            f"{what} is no longer finite {where}. Try a smaller learning_rate", epoch, step, rate
        )

    def finish_epoch(self, test: dict[str, float]) -> None:
        """Write an epoch into the history, with what was found in its test, and go on to the next."""
        loss, correct, images, _ = self.totals().tolist()
        rate = {"learning_rate": learning_rate(self.config, self.epoch)}
        speed = {"seconds": self.seconds, "sleep_seconds": self.asleep, "images_per_second": images / self.seconds}
        learned = {"train_loss": loss / images, "train_accuracy": 100 * correct / images}
        self.history.epochs.append(learned | test | rate | speed)
        if self.record_snr is None:
            self._measure()
        self.epoch, self.batch, self.seconds, self.asleep = self.epoch + 1, 0, 0.0, 0.0
        self.sums.zero_()

    def save(self, path: Path) -> None:
        """Write a checkpoint, in one of the processes; the others wait.

        Raises:
            TrainingDivergedError: there is something in it that isn't finite; the file stays as it was.
        """
        totals = self.totals()
        self._refuse_broken_weights()
        metadata = {
            "config": asdict(self.config),
            "network": self.sizes,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "asleep": self.asleep,
            "scaler": self.scaler.state_dict(),
            "history": self.history.facts(),
        }
        if self.here.rank == 0:
            tensors = checkpoint.state(self.model, self.optimizer) | self.history.tensors() | {"sums": totals}
            checkpoint.write(path, tensors, metadata)
        self.here.wait()
        self.saved = time.monotonic()

    def restore(self, path: Path) -> None:
        """Go back to a checkpoint.

        Raises:
            ValueError: the file is damaged.
        """
        tensors, metadata = checkpoint.read(path)
        checkpoint.restore(self.model, self.optimizer, tensors)
        self.epoch, self.batch, self.seconds = (metadata[name] for name in ("epoch", "batch", "seconds"))
        self.asleep = metadata.get("asleep", math.nan if self.batch else 0.0)  # older ones have none
        self.history = History.restored(metadata["history"], tensors)
        if metadata["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(metadata["scaler"])
        if self.here.rank == 0:
            self.sums.copy_(tensors["sums"])
        self.sums[FINITE] = self.batch
