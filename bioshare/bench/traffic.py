"""What a training step has to compute and to move at least, counted on a network that holds no numbers.

Every part is counted as if it were one kernel that reads each of its inputs once and writes each of its outputs once.
Activations have the type of automatic mixed precision, weights and their gradients float32. The loss, the mean over
positions, autocast's copies and the preparation of the images are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bioshare.bench.ceilings import Ceilings
from bioshare.bridge.lattice import inputs_of
from bioshare.nn import LocallyConnected2d
from bioshare.nn.resnet import BasicBlock

WEIGHT_BYTES = 4
ADAMW_PASSES = 4 + 3
"""Read weights, both moments and gradients; write weights and both moments."""

NORM_PASSES = 3 + 5
"""BatchNorm and the ReLU after it. Forward: read for the statistics, read, write. Backward: read gradient and input for
the two sums, read both again, write; the mask of the ReLU follows from the input."""

SUM_PASSES = 1 + 3
"""Residual sum, in the kernels of the BatchNorm before it. Forward: read the shortcut. Backward: read the second
gradient of what forks, read the sum for its ReLU's mask, write the gradient for both branches."""

FORWARD, BY_INPUT, BY_WEIGHTS = "products, forward", "products, by the input", "products, by the weights"
NORM, SUM, POOLING, ADAMW = "BatchNorm + ReLU", "residual sums", "max pooling", "AdamW"
PARTS = FORWARD, BY_INPUT, BY_WEIGHTS, NORM, SUM, POOLING, ADAMW
INSTANT, SLEEP = "instant sharing", "a sleep, from maps"


class Work(NamedTuple):
    """The least that one kernel has to do, and what it is a part of."""

    part: str
    operations: int
    bytes: int

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time: that of its operations or of its bytes, whichever is longer."""
        return max(self.operations / self.rate(ceilings), self.bytes / ceilings.bandwidth)

    def rate(self, ceilings: Ceilings) -> float:
        """The rate of its operations: maps are applied in float32, whatever the rest of a step has."""
        return ceilings.rate32 if self.part == SLEEP else ceilings.rate


def step_works(model: nn.Module, images: Sequence[int], element: int) -> list[Work]:
    """The kernels of a training step, in the order of `PARTS`.

    Args:
        model: on the meta device, in training mode.
        images: (batch, channels, rows, columns).
        element: bytes of an activation.
    """
    works: list[Work] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        works.extend(_works(module, inputs[0], output, element))

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model(torch.empty(*images, device="meta"))
    for hook in hooks:
        hook.remove()
    weights = sum(weight.numel() for weight in model.parameters())
    works.append(Work(ADAMW, 0, ADAMW_PASSES * WEIGHT_BYTES * weights))
    return sorted(works, key=lambda work: PARTS.index(work.part))


def _works(module: nn.Module, x: Tensor, y: Tensor, element: int) -> Iterator[Work]:
    """The kernels of one module; none for one that is made of others."""
    if isinstance(module, nn.Conv2d | nn.Linear | LocallyConnected2d):
        yield from product_works(module, x, y, element)
    elif isinstance(module, nn.BatchNorm2d):
        yield Work(NORM, 0, NORM_PASSES * y.numel() * element)
    elif isinstance(module, BasicBlock):
        yield Work(SUM, 0, SUM_PASSES * y.numel() * element)
    elif isinstance(module, nn.MaxPool2d):
        yield Work(POOLING, 0, 2 * (x.numel() + y.numel()) * element)


def product_works(module: nn.Module, x: Tensor, y: Tensor, element: int) -> Iterator[Work]:
    """The three products of a layer; zeros in the padding are multiplied, too. Images need no gradient."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    inputs = math.prod(weight.shape[3 if isinstance(module, LocallyConnected2d) else 1 :])
    operations = 2 * y.numel() * inputs
    moved = (x.numel() + y.numel()) * element + weight.numel() * WEIGHT_BYTES
    for part in (FORWARD, BY_INPUT, BY_WEIGHTS):
        if x.requires_grad or part != BY_INPUT:
            yield Work(part, operations, moved)


def sharing_works(model: nn.Module) -> list[Work]:
    """Every group becomes its mean; or K weights of every neuron are multiplied by a (K, K) map."""
    layers = [layer for layer in model.modules() if isinstance(layer, LocallyConnected2d)]
    moved = [2 * WEIGHT_BYTES * layer.weight.numel() for layer in layers]
    works = [Work(INSTANT, 0, many) for many in moved]
    for layer, many in zip(layers, moved, strict=True):
        inputs = inputs_of(layer)
        works.append(Work(SLEEP, 2 * inputs * layer.weight.numel(), many + WEIGHT_BYTES * inputs**2))
    return works
