"""`Run`: a network in training, how far it has come, and its next step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.bridge import InstantSharing, Sleep, neg_log_snr
from bioshare.train import checkpoint
from bioshare.train.config import TrainConfig
from bioshare.train.data import Batches
from bioshare.train.data.order import seed_at
from bioshare.train.distributed import Processes
from bioshare.train.evaluation import evaluate, judged
from bioshare.train.graph import Recording, Replayed
from bioshare.train.interrupt import TrainingDivergedError
from bioshare.train.recipe import autocast, half, learning_rate, optimizer, set_learning_rate
from bioshare.train.results import History
from bioshare.train.sharing import changing, sharing
from bioshare.train.stopwatch import Stopwatch

LOSS, CORRECT, IMAGES, FINITE = range(4)
"""What is summed over an epoch: losses, correct answers, images, batches before the loss was no longer finite."""


class Run:
    """A network in training.

    All processes have the same weights at every moment. Their sums differ, and become one in `totals`.

    Args:
        config: what is trained.
        model: the network, in place; its `BatchNorm2d` layers are synchronised if there are several processes.
        batches: of the training images, this process's part.
        here: this process.
        record_snr: measure -log SNR after every n-th batch; None for once an epoch.
        sizes: the other arguments of `bioshare.train.recipe.network`, for the checkpoint.
        record: makes the CUDA graphs that the steps are replayed from (`bioshare.train.graph`); None for ordinary
            steps. There must be a single process.

    Attributes:
        compiled: the network as `torch.compile` made it, or itself.
        dtype: of automatic mixed precision, or None.
        epoch, batch: what comes next; both from 0.
        seconds, asleep: spent on the batches of this epoch, and the part of it in which weights were shared.
        saved: when the last checkpoint was written, by `time.monotonic`.
        history: the epochs before.
        graphs: what is replayed of learning and testing, by name; empty for ordinary steps.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        batches: Batches,
        here: Processes,
        record_snr: int | None = None,
        sizes: Mapping[str, Any] | None = None,
        record: Callable[[], Recording] | None = None,
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
        self.share, self.stopwatch = sharing(config), Stopwatch(here.device)
        if isinstance(self.share, Sleep):
            self.share.check(self.model)
        self.change = changing(self.share, self.model, self.optimizer, record) if self.share else None
        self.rate: float | None = None
        self.graphs = self._graphs(record) if record else {}
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

    def _graphs(self, record: Callable[[], Recording]) -> dict[str, Replayed]:
        """What is replayed; sharing brings its own, see `changing`."""
        return {
            "learn": Replayed(self._learn, record),
            "judge": Replayed(partial(judged, self.compiled, self.dtype), record),
        }

    def close(self) -> None:
        """Drop the graphs, which hold the run as it holds them; it could only go on without them."""
        self.graphs.clear()

    def step(self, x: Tensor, y: Tensor) -> None:
        """Learn from one batch, or this process's part of it, and share the weights if their time has come.

        On a GPU nothing waits for it, unless -log SNR is measured or a new sleep is simulated.
        """
        _seed(self.here.device, seed_at("step", self.config.seed, self.steps, self.here.rank))
        rate = learning_rate(self.config, self.epoch)
        if rate != self.rate:
            set_learning_rate(self.optimizer, rate)
            self.rate = rate
        self.graphs.get("learn", self._learn)(x, y)
        self.batch += 1
        self._share_and_measure()

    def _learn(self, x: Tensor, y: Tensor) -> None:
        """What a step does on the device, from the images to the weights; a graph must find no other numbers here."""
        self.optimizer.zero_grad()  # to None: the gradients of a graph lie in its own memory
        with autocast(self.here.device, self.dtype):
            scores = self.forward(x)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = cross_entropy(scores, y, reduction="sum")
        self.scaler.scale(loss * (self.here.world / self.images(self.batch))).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._count(loss.detach(), scores.detach(), y)

    def _count(self, loss: Tensor, scores: Tensor, y: Tensor) -> None:
        correct = (scores.argmax(1) == y).sum()
        self.sums[:FINITE] += torch.stack([loss, correct, torch.full_like(correct, len(y))])
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
        seed = seed_at("sleep", self.config.seed, self.steps - 1)
        with self.stopwatch.running(), self._finite():
            if measured or not (self.graphs or self.here.device.type == "cuda"):
                report = share(self.model, seed, progress=False, measure=measured, optimizer=self.optimizer)
                if measured:
                    self.history.add_sharing(self.steps, report)
            elif self.change:  # what isn't finite shows in the next loss
                self.change(seed)
        self.history.sharings += 1

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

    def finish(self) -> None:
        """Wait for the device, and see how long the sharings took."""
        self.here.finish()
        self.asleep += self.stopwatch.read()

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
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            self.totals()  # a loss that wasn't finite came first
            raise self._diverged("a weight", self.steps - 1)

    def _diverged(self, what: str, step: int) -> TrainingDivergedError:
        epoch = step // len(self.batches)
        rate = learning_rate(self.config, epoch)
        where = f"in epoch {epoch + 1}, step {step + 1} of the run, at the learning rate {rate:g}"
        return TrainingDivergedError(
            f"{what} is no longer finite {where}. Try a smaller learning_rate", epoch, step, rate
        )

    def finish_epoch(self, tests: Batches) -> None:
        """Test the network, write the epoch into the history, and go on to the next."""
        start = time.perf_counter()
        test = evaluate(self.compiled, tests, self.dtype, self.here, self.graphs.get("judge"))
        loss, correct, images, _ = self.totals().tolist()
        if self.record_snr is None:
            self._measure()
        rate = {"learning_rate": learning_rate(self.config, self.epoch)}
        speed = {"seconds": self.seconds, "sleep_seconds": self.asleep, "images_per_second": images / self.seconds}
        learned = {"train_loss": loss / images, "train_accuracy": 100 * correct / images}
        tested = test | {"test_seconds": time.perf_counter() - start}
        self.history.epochs.append(learned | tested | rate | speed)
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


def _seed(device: torch.device, seed: int) -> None:
    """Seed the host's generator and that of a GPU, whose graphs take it from there at every replay.

    `torch.manual_seed` does the same to all kinds of devices, and asks those that aren't there, for 0.1 ms.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
