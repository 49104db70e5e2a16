"""The networks of the benches, in every form, and a training step on random images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn

from bioshare.bench.harness import synchronise
from bioshare.bridge import Phase
from bioshare.cli import positive
from bioshare.nn import LocallyConnected2d, resnet18, resnet20, to_locally_connected
from bioshare.nn.functional import prefer
from bioshare.train.config import TrainConfig
from bioshare.train.data import Batches
from bioshare.train.distributed import Processes
from bioshare.train.graph import WARM_UP, changing
from bioshare.train.run import Run

NetworkForm = Literal["conv", "naive", "auto", "batched", "fused"]
"""Convolutional; locally connected by unfold and einsum; or a form of `bioshare.nn.functional.prefer`."""

SEED = 0
"""Seed of the weights and of the images."""


class PaperNetwork(NamedTuple):
    """A network of the paper, rows and columns of an image, batch size, and number of training images."""

    title: str
    build: Callable[[], nn.Module]
    side: int
    batch: int
    images: int


NETWORKS = {
    "resnet20": PaperNetwork("ResNet-20", resnet20, 32, 512, 50_000),
    "resnet18": PaperNetwork("0.5x ResNet-18", resnet18, 224, 256, 1_281_167),
}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a network and of an image size."""
    parser.add_argument("--network", choices=NETWORKS, default="resnet20", help="(default: %(default)s)")
    parser.add_argument("--image", type=positive, help="rows and columns of an image (default: as in the data set)")


class UnfoldEinsum2d(LocallyConnected2d):
    """A locally connected layer in the usual form, with all patches in memory in both passes."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.weight = nn.Parameter(self.weight.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, H, W) to (batch, out, H_out, W_out)."""
        patches = nn.functional.unfold(x, self.kernel_size, self.dilation, self.pad[::2], self.stride)  # pyright: ignore[reportArgumentType]
        # k: inputs of a neuron; h, w: positions; o: channels
        patches = patches.unflatten(-1, self.output_size)
        return torch.einsum("bkhw,hwok->bohw", patches, self.weight.flatten(3))


def bench_network(
    name: str, form: NetworkForm, device: str | torch.device = "cpu", side: int | None = None
) -> nn.Module:
    """A network of `NETWORKS` in some form, always with the same weights.

    Args:
        side: rows and columns of an image; None for the size in the data set.
    """
    paper, device = NETWORKS[name], torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(SEED)
        model = paper.build()
        if form == "conv":
            return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        model = to_locally_connected(model, (3, side or paper.side, side or paper.side), layout="channels_last")
    for layer in model.modules() if form == "naive" else ():
        if isinstance(layer, LocallyConnected2d):
            layer.__class__ = UnfoldEinsum2d
            layer.weight = nn.Parameter(layer.weight.detach().contiguous())
    return model


class TrainingStep:
    """A training step on a random batch, as in `bioshare.train.fit`, at every call.

    Args:
        model: network with at least ten classes, changed in place.
        image: channels, rows and columns.
        dtype: type under automatic mixed precision; "fp32" for none.
        form: "conv" and "naive" change nothing, since the model has these forms already.
        compiled: pass the model through `torch.compile`.
        graph: replay a CUDA graph.

    Attributes:
        lane: a block whose work goes to the stream of the step.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Sequence[int],
        batch: int,
        dtype: str,
        form: NetworkForm = "auto",
        compiled: bool = False,
        graph: bool = False,
    ) -> None:
        self.form, self.device = form, next(model.parameters()).device
        processes = Processes(self.device)
        self.record, self.lane = processes.recorder(graph), processes.stream()
        config = TrainConfig(batch_size=batch, precision=dtype, compile=compiled)  # pyright: ignore[reportArgumentType]
        generator = torch.Generator(self.device).manual_seed(SEED)
        images = torch.randn(batch, *image, generator=generator, device=self.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (batch,), generator=generator, device=self.device)
        batches = OneBatch(images=batch, batch_size=batch, x=self.images, y=self.labels)
        self.run = Run(config, model, batches, processes, record=self.record)
        finalize(self, self.run.close)  # its graphs end with it, and not at the next collection of cycles
        synchronise(self.device)  # all this was made in another stream

    def __call__(self) -> None:
        """Forward and backward pass, and AdamW."""
        self.run.batch = 0  # always the first batch of the epoch
        with self.lane, prefer(self.form) if self.form in ("batched", "fused") else nullcontext():
            self.run.step(self.images, self.labels)

    def warm_up(self) -> None:
        """Step until libraries are loaded, kernels compiled and chosen, and a graph is recorded."""
        for _ in range(WARM_UP + 1):
            self()

    def change(self, phase: Phase) -> Callable[[int], None]:
        """Function of a seed: change the weights in the stream of the step, from a graph if the step is replayed."""
        change = changing(phase, self.run.model, record=self.record)

        def in_lane(seed: int) -> None:
            with self.lane:
                change(seed)

        return in_lane


@dataclass(frozen=True, eq=False, kw_only=True)
class OneBatch(Batches):
    """Training data whose epoch is a single batch."""

    x: Tensor
    y: Tensor

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch, or nothing after a start at 1."""
        yield from [(self.x, self.y)][start:]
