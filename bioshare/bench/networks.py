"""The networks that the benches train, in every form, and a training step of one on random images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn

from bioshare.bench.timing import synchronise
from bioshare.bridge import InstantSharing, Sleep
from bioshare.nn import LocallyConnected2d, resnet18, resnet20, to_locally_connected
from bioshare.nn.functional import prefer
from bioshare.train.config import TrainConfig
from bioshare.train.distributed import Processes
from bioshare.train.graph import WARM_UP, recorder
from bioshare.train.run import Run
from bioshare.train.sharing import changing

Form = Literal["conv", "naive", "auto", "batched", "fused"]
"""Convolutional; locally connected by unfold and einsum; or in one of the forms of `bioshare.nn.functional.prefer`."""

SEED = 0
"""Of the weights, and of the images."""


class Network(NamedTuple):
    """A network by its name, and what it is trained on.

    Attributes:
        side: rows and columns of an image.
        batch: of the paper.
        images: in the data set.
    """

    title: str
    build: Callable[[], nn.Module]
    side: int
    batch: int
    images: int


NETWORKS = {
    "resnet20": Network("ResNet-20", resnet20, 32, 512, 50_000),
    "resnet18": Network("0.5x ResNet-18", resnet18, 224, 256, 1_281_167),
}


class UnfoldEinsum2d(LocallyConnected2d):
    """The same layer as one writes it today: all patches in memory, in the forward and the backward pass."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.weight = nn.Parameter(self.weight.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in, H, W) to (batch, out, H_out, W_out)."""
        patches = nn.functional.unfold(x, self.kernel_size, self.dilation, self.pad[::2], self.stride)  # pyright: ignore[reportArgumentType]
        patches = patches.unflatten(-1, self.output_size)
        return torch.einsum("bkhw,hwok->bohw", patches, self.weight.flatten(3))


def network(name: str, form: Form, device: str | torch.device = "cpu", side: int | None = None) -> nn.Module:
    """One of the `NETWORKS` in one form; with the same weights every time.

    Args:
        side: rows and columns of an image; None for those of its data set.
    """
    case, where = NETWORKS[name], torch.device(device)
    with torch.random.fork_rng([where] if where.type == "cuda" else []), where:
        torch.manual_seed(SEED)
        model = case.build()
        if form == "conv":
            return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        model = to_locally_connected(model, (3, side or case.side, side or case.side))
    for layer in model.modules() if form == "naive" else ():
        if isinstance(layer, LocallyConnected2d):
            layer.__class__ = UnfoldEinsum2d
            layer.weight = nn.Parameter(layer.weight.detach().contiguous())
    return model


class TrainingStep:
    """A training step of a model on one random batch, as `bioshare.train.fit` does it: call it.

    Args:
        model: has at least ten classes; in place.
        image: channels, rows and columns.
        dtype: of automatic mixed precision; "fp32" for none.
        form: "conv" and "naive" say nothing here.
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
        form: Form = "auto",
        compiled: bool = False,
        graph: bool = False,
    ) -> None:
        self.form, self.device = form, next(model.parameters()).device
        here = Processes(self.device)
        self.record, self.lane = recorder(graph, here), here.stream()
        config = TrainConfig(batch_size=batch, precision=dtype, compile=compiled)  # pyright: ignore[reportArgumentType]
        chance = torch.Generator(self.device).manual_seed(SEED)
        images = torch.randn(batch, *image, generator=chance, device=self.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (batch,), generator=chance, device=self.device)
        self.run = Run(config, model, OneBatch(self.images, self.labels), here, record=self.record)
        finalize(self, self.run.close)  # its graphs end with it, and not at the next collection of cycles
        synchronise(self.device)  # all this was made in another stream

    def __call__(self) -> None:
        """Forward and backward pass, and AdamW."""
        self.run.batch = 0  # it is the first one all the time
        with self.lane, prefer(self.form) if self.form in ("batched", "fused") else nullcontext():
            self.run.step(self.images, self.labels)

    def warm_up(self) -> None:
        """Step until nothing new happens: libraries are loaded, kernels compiled and chosen, a graph is recorded."""
        for _ in range(WARM_UP + 1):
            self()

    def sharing(self, share: InstantSharing | Sleep) -> Callable[[int], None]:
        """What shares the weights between two steps, with a seed: in their stream, and replayed if they are."""
        change = changing(share, self.run.model, record=self.record)

        def in_lane(seed: int) -> None:
            with self.lane:
                change(seed)

        return in_lane


@dataclass(frozen=True)
class OneBatch:
    """An epoch of a single batch."""

    x: Tensor
    y: Tensor

    @property
    def images(self) -> int:
        """How many it has."""
        return len(self.y)

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch."""
        yield from [(self.x, self.y)][start:]
