"""`Run`: a network in training, the progress so far, and the next step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.bridge import Border, neg_log_snr, renew_statistics
from bioshare.nn import LocallyConnected2d
from bioshare.train import checkpoint
from bioshare.train.batch_norm import check_single_image
from bioshare.train.config import Every, TrainConfig
from bioshare.train.data import Batches
from bioshare.train.distributed import Processes, Stopwatch
from bioshare.train.evaluation import evaluate, scores_counted
from bioshare.train.interrupt import TrainingDivergedError
from bioshare.train.results import History
from bioshare.train.seeds import seed_at
from bioshare.train.signals import IMAGES as SIGNAL_IMAGES
from bioshare.train.signals import positive_weights

if TYPE_CHECKING:
    from bioshare.train.graph import CudaRecording, Replayed

LOSS, CORRECT, IMAGES, FINITE = range(4)
"""Sums over an epoch: losses, correct answers, images, and batches before the loss was no longer finite."""

RENEWING = 10
"""Batches of training images from which the statistics of batch normalisation are renewed."""


class Run:
    """A network in training.

    All processes have the same weights at every moment, and sums of losses of their own, which `totals` adds up.

    Args:
        config: configuration of the run.
        model: the network, in place; `BatchNorm2d` layers are synchronised if there are several processes.
        batches: training images, the part of this process.
        processes: this process among all.
        record_snr: measure -log SNR after every n-th batch, counted as for the first phase; None for once an epoch.
        record: makes the CUDA graphs from which the steps are replayed (`bioshare.train.graph`); None for ordinary
            steps. There must be a single process.

    Attributes:
        compiled: the network as `torch.compile` made it, or the network.
        dtype: type of automatic mixed precision, or None.
        epoch, batch: position of the next step; both from 0.
        seconds, asleep: time spent on the batches of this epoch, and the part of that time spent in phases.
        history: the epochs before.
        graphs: replayed functions, "learn" and "test"; empty for ordinary steps.
        signs: signs of the weights before the first step, of layers with feedback weights or direct feedback.
        infinite: first values of buffers that are infinite by design, such as the mask of an attention; by name.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        batches: Batches,
        processes: Processes,
        record_snr: int | None = None,
        record: Callable[[], CudaRecording] | None = None,
    ) -> None:
        self.config, self.batches, self.processes, self.record_snr = config, batches, processes, record_snr
        self.model = model.to(processes.device).train()
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its convolutions)
        for every in config.phases:
            every.phase.check(self.model)
        self.first = [every.first_of(len(batches), config.epochs) for every in config.phases]
        self._check_last_batch()
        if processes.world > 1:
            processes.synchronise(self.model)
        self.compiled: nn.Module = torch.compile(self.model) if config.compile else self.model  # pyright: ignore[reportAttributeAccessIssue]
        self.forward = processes.parallel(self.compiled) if processes.world > 1 else self.compiled
        self.optimizer = config.optimizer.build(self.model)
        if config.feedback is not None:
            config.feedback.attach(self.model, self.optimizer)
        half_types = {"fp16": torch.float16, "bf16": torch.bfloat16}
        self.dtype = half_types.get(
            "fp16" if config.precision == "auto" and processes.device.type == "cuda" else config.precision
        )
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.dtype is torch.float16)
        self.stopwatch = Stopwatch(processes.device)
        self.count = config.phases[0].count if config.phases else "epoch"  # of the batches to measure
        borders = [every.phase.border for every in config.phases if hasattr(every.phase, "border")]  # pyright: ignore[reportAttributeAccessIssue]
        self.border: Border = borders[0] if borders else "share"
        self.infinite: dict[str, Tensor] = {}
        self.locally_connected = any(isinstance(module, LocallyConnected2d) for module in self.model.modules())
        self.rate: float | None = None
        self.graphs: dict[str, Replayed] = {}
        self.changes = [partial(every.phase.change, self.model, optimizer=self.optimizer) for every in config.phases]
        if record:
            from bioshare.train.graph import Replayed, changing  # not for a CPU

            self.changes = [changing(every.phase, self.model, self.optimizer, record) for every in config.phases]
            counted = partial(scores_counted, self.compiled, self.dtype)
            self.graphs = {"learn": Replayed(self._learn, record), "test": Replayed(counted, record)}
        self.epoch, self.batch = 0, 0
        self.seconds, self.asleep = 0.0, 0.0
        self.sums = torch.zeros(4, dtype=torch.float64, device=processes.device)
        self.history = History()
        self.signs = positive_weights(self.model)
        self._measure()

    @property
    def steps(self) -> int:
        """Batches since the start of the run."""
        return self.epoch * len(self.batches) + self.batch

    def images(self, batch: int) -> int:
        """Number of images of a batch in all processes together, repetitions included."""
        different = self.config.batch_size // self.config.repetitions
        return min(different, self.batches.images - batch * different) * self.config.repetitions

    def _check_last_batch(self) -> None:
        """Check that an epoch doesn't end in a single image, unless the network can learn from one."""
        if self.images(len(self.batches) - 1) != 1:
            return
        x, _ = next(self.batches.epoch(0, len(self.batches) - 1))
        try:
            check_single_image(self.model, x.shape[1:])
        except ValueError as error:
            raise ValueError(
                f"batch_size={self.config.batch_size} leaves a single one of {self.batches.images} images for the last "
                f"batch of an epoch, too few for batch normalisation ({error}). Choose another batch_size or "
                "train_images"
            ) from error

    def close(self) -> None:
        """Drop the graphs and the wrapper of several processes, which hold the run; no step can follow."""
        self.graphs.clear()
        self.changes.clear()
        self.forward = self.model

    def step(self, x: Tensor, y: Tensor) -> None:
        """Learn from one batch, or from the part of this process, and apply the phases that are due.

        The host never waits for a GPU here, unless -log SNR is measured or a new sleep is simulated.
        """
        _seed_generators(self.processes.device, seed_at("step", self.config.seed, self.steps, self.processes.rank))
        rate = self.config.learning_rate(self.epoch)
        if rate != self.rate:
            for group in self.optimizer.param_groups:
                own = rate * group.get("factor", 1)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(own)  # in place, where a graph reads it
                else:
                    group["lr"] = own
            self.rate = rate
        self.graphs.get("learn", self._learn)(x, y)
        self.batch += 1
        measured = self.record_snr is not None and self._due(self.record_snr, self.count)
        recorded = False
        for index, every in enumerate(self.config.phases):
            if self._due(every.n, every.count, self.first[index]):
                recorded = self._change(index, every, measured)
        if measured and not recorded:
            self._measure()

    def _learn(self, x: Tensor, y: Tensor) -> None:
        """Take a step of the optimiser, on the device alone; a graph freezes all numbers of the host."""
        self.optimizer.zero_grad()  # to None: the gradients of a graph lie in the graph's memory
        with torch.autocast(self.processes.device.type, self.dtype) if self.dtype else nullcontext():
            scores = self.forward(x)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = cross_entropy(scores, y, reduction="sum")
        # several processes average their gradients: times world over all images is the mean over the whole batch
        self.scaler.scale(loss * (self.processes.world / self.images(self.batch))).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        correct = (scores.detach().argmax(1) == y).sum()
        self.sums[:FINITE] += torch.stack([loss.detach(), correct, torch.full_like(correct, len(y))])
        self.sums[FINITE] += self.sums[LOSS].isfinite()

    def _due(self, n: int, count: str, first: int = 0) -> bool:
        """True after every n-th batch from batch ``first`` of the epoch or of the run."""
        since = (self.batch if count == "epoch" else self.steps) - 1 - first
        return since >= 0 and since % n == 0

    def _change(self, index: int, every: Every, measured: bool) -> bool:
        """Apply a phase, and record its report if -log SNR is measured; True for a recorded report."""
        # the first phase has the seeds of the step, every other one a stream of its own
        seed = seed_at("sleep", self.config.seed, self.steps - 1, *([index] if index else []))
        self.history.sharings += 1
        with self.stopwatch.running(), self._diverging():
            if measured or not (self.graphs or self.processes.device.type == "cuda"):
                before = [*map(id, self.model.parameters())]
                report = every.phase(self.model, seed, progress=False, measure=measured, optimizer=self.optimizer)
                if before != [*map(id, self.model.parameters())]:
                    raise TypeError("phase must change parameters in place, as by copy_; the optimiser has the others")
                return measured and self.history.add_report(self.steps, report)
            self.changes[index](seed)  # without checks: weights that aren't finite show in the next loss
        return False

    def _measure(self) -> None:
        if self.locally_connected:
            with self._diverging():
                self.history.add_snr(self.steps, False, neg_log_snr(self.model, self.border))

    @contextmanager
    def _diverging(self) -> Iterator[None]:
        """A block in which a ValueError due to weights that aren't finite becomes a TrainingDivergedError."""
        try:
            yield
        except ValueError:
            self.check_finite()
            raise

    def finish(self) -> None:
        """Wait for the device, and add up the time of the phases."""
        self.processes.finish()
        self.asleep += self.stopwatch.read()

    def totals(self) -> Tensor:
        """The sums of this epoch so far, over all processes.

        Raises:
            TrainingDivergedError: a loss wasn't finite; in all processes.
        """
        totals = self.processes.total(self.sums)
        if not totals[LOSS].isfinite():
            fine = -self.processes.largest(-self.sums[FINITE])
            raise self._divergence("the loss", self.steps - self.batch + int(fine))
        return totals

    def check_finite(self) -> None:
        """Raise TrainingDivergedError if a weight, buffer or moment isn't finite; all processes have the same.

        Elements that are infinite by design must keep their first values.
        """
        tensors = checkpoint.state(self.model, self.optimizer)
        finite = {name: tensor.isfinite() for name, tensor in tensors.items()}
        for name in self.infinite.keys() & finite:
            finite[name] |= tensors[name].isclose(self.infinite[name], rtol=0, atol=0, equal_nan=True)
        fine = torch.stack([elements.all() for elements in finite.values()])
        if fine.all():
            return
        self.totals()  # a loss that wasn't finite came first
        name = list(finite)[int(fine.logical_not().nonzero()[0])]
        subject = "a moment of the optimiser" if name.startswith("optimizer.") else "a buffer"
        weights = {f"model.{name}" for name, _ in self.model.named_parameters()}
        raise self._divergence("a weight" if name in weights else subject, self.steps - 1, f" ({name})")

    def _divergence(self, subject: str, step: int, name: str = "") -> TrainingDivergedError:
        epoch = step // len(self.batches)
        rate = self.config.learning_rate(epoch)
        where = f"in epoch {epoch + 1}, step {step + 1} of the run, at the learning rate {rate:g}{name}"
        text = f"{subject} is no longer finite {where}. Try a smaller learning_rate"
        return TrainingDivergedError(text, epoch, step, rate)

    def finish_epoch(self, tests: Batches) -> None:
        """Test the network, whose statistics are renewed if a phase came last, and go on to the next epoch.

        Raises:
            TrainingDivergedError: a loss isn't finite, also of the test; in all processes.
        """
        start = time.perf_counter()
        phases = zip(self.config.phases, self.first, strict=True)
        if any(every.n > 1 and self._due(every.n, every.count, first) for every, first in phases):
            self._renew_statistics()
        test = evaluate(self.compiled, tests, self.dtype, self.processes, self.graphs.get("test"))
        loss, correct, images, _ = self.totals().tolist()
        if not math.isfinite(test["test_loss"]):
            raise self._divergence("the loss of the test images", self.steps - 1)
        if self.record_snr is None:
            self._measure()
        if self.config.feedback is not None:
            x, y = next(self.batches.epoch(0, 0))
            self.history.signals.measure(self.model, x[:SIGNAL_IMAGES], y[:SIGNAL_IMAGES], self.signs)
        self.history.epochs.append(
            {
                "train_loss": loss / images,
                "train_accuracy": 100 * correct / images,
                **test,
                "test_seconds": time.perf_counter() - start,
                "learning_rate": self.config.learning_rate(self.epoch),
                "seconds": self.seconds,
                "sleep_seconds": self.asleep,
                "images_per_second": images / self.seconds if self.seconds else math.nan,  # a clock may stand still
            }
        )
        self.epoch, self.batch, self.seconds, self.asleep = self.epoch + 1, 0, 0.0, 0.0
        self.sums.zero_()

    def _renew_statistics(self) -> None:
        """Renew the statistics of batch normalisation, which are from before a phase after the last batch.

        Phases after every batch need nothing: the statistics are from weights right after a phase anyway.
        """
        count = min(RENEWING, max(1, len(self.batches) - 1))  # without the last batch, which may be small
        with torch.autocast(self.processes.device.type, self.dtype) if self.dtype else nullcontext():
            renew_statistics(self.model, islice(self.batches.epoch(self.epoch + 1), count))


def _seed_generators(device: torch.device, seed: int) -> None:
    """Seed the generators of the host and of a GPU, as `torch.manual_seed` does in 0.1 ms for all kinds of devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
