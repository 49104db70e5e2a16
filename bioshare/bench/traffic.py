"""The least operations and bytes of a training step, and the rates of a device.

Every part of a step counts as a kernel that reads each input once and writes each output once.
Activations have the type of automatic mixed precision, weights and gradients float32. The loss, the mean over
positions, the copies of autocast and the preparation of images do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bioshare.bench.harness import DTYPES, median_seconds
from bioshare.bridge.geometry import inputs_of
from bioshare.nn import LocallyConnected2d
from bioshare.nn.resnet import BasicBlock

WEIGHT_BYTES = 4
"""Bytes of a weight in float32."""

ADAMW_PASSES = 4 + 3
"""AdamW reads weights, two moments and gradients, and writes weights and moments."""

NORM_PASSES = 3 + 5
"""BatchNorm and its ReLU. Forward: read for the statistics, read, write. Backward: read gradient and input for two
sums, read both again, write; the mask of the ReLU follows from the input."""

SUM_PASSES = 1 + 3
"""A residual sum, within the kernels of the BatchNorm before. Forward: read the shortcut. Backward: read the second
gradient at the fork, read the sum for the mask of its ReLU, write the gradient for both branches."""

FORWARD, BY_INPUT, BY_WEIGHTS = "products, forward", "products, by the input", "products, by the weights"
NORM, SUM, POOLING, ADAMW = "BatchNorm + ReLU", "residual sums", "max pooling", "AdamW"
PARTS = FORWARD, BY_INPUT, BY_WEIGHTS, NORM, SUM, POOLING, ADAMW
INSTANT, SLEEP = "instant sharing", "a sleep, from maps"

COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Size of the tensor that is copied, far beyond any cache, by type of device."""

SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied, by type of device."""

COPIES = 5
"""Turns of a copy and of a product."""


class Ceilings(NamedTuple):
    """The rates of a device: bytes per second, read and written together; operations per second, also of float32."""

    bandwidth: float
    rate: float
    rate32: float

    def __str__(self) -> str:
        rates = f"{self.rate / 1e12:.4g} TFLOP/s in a matrix product, {self.rate32 / 1e12:.4g} in fp32"
        return f"{self.bandwidth / 1e9:.4g} GB/s in a copy, {rates}"


def measured_ceilings(device: torch.device, dtype: str) -> Ceilings:
    """Copy a large tensor and multiply large matrices of random numbers; medians."""
    source = torch.rand(COPY_BYTES[device.type] // 4, device=device)
    target, side = torch.empty_like(source), SIDE[device.type]
    works: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(source)}
    for name in dict.fromkeys(("fp32", dtype)):
        left, right = (torch.randn(side, side, device=device).to(DTYPES[name]) for _ in range(2))
        works[name] = partial(torch.mm, left, right, out=torch.empty_like(left))
    seconds = median_seconds(works, COPIES, device)
    # a copy reads and writes; each of the side^2 results is a sum of side products
    bandwidth, operations = 2 * COPY_BYTES[device.type] / seconds["copy"], 2 * side**3
    return Ceilings(bandwidth, operations / seconds[dtype], operations / seconds["fp32"])


class Kernel(NamedTuple):
    """The least operations and bytes of a kernel, and the part of a step to which the kernel belongs."""

    part: str
    operations: int
    bytes: int

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time: the time of the operations or of the bytes, whichever is longer."""
        return max(self.operations / self.rate(ceilings), self.bytes / ceilings.bandwidth)

    def rate(self, ceilings: Ceilings) -> float:
        """Operations per second; maps are always applied in float32."""
        return ceilings.rate32 if self.part == SLEEP else ceilings.rate


def step_kernels(model: nn.Module, images: Sequence[int], element: int) -> list[Kernel]:
    """The kernels of a training step, in the order of `PARTS`.

    Args:
        model: a network on the meta device, in training mode.
        images: (batch, channels, rows, columns).
        element: bytes of an activation.
    """
    kernels: list[Kernel] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kernels.extend(_module_kernels(module, inputs[0], output, element))

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model(torch.empty(*images, device="meta"))
    for hook in hooks:
        hook.remove()
    weights = sum(weight.numel() for weight in model.parameters())
    kernels.append(Kernel(ADAMW, 0, ADAMW_PASSES * WEIGHT_BYTES * weights))
    return sorted(kernels, key=lambda kernel: PARTS.index(kernel.part))


def _module_kernels(module: nn.Module, x: Tensor, y: Tensor, element: int) -> Iterator[Kernel]:
    if isinstance(module, nn.Conv2d | nn.Linear | LocallyConnected2d):
        yield from product_kernels(module, x, y, element)
    elif isinstance(module, nn.BatchNorm2d):
        yield Kernel(NORM, 0, NORM_PASSES * y.numel() * element)
    elif isinstance(module, BasicBlock):
        yield Kernel(SUM, 0, SUM_PASSES * y.numel() * element)
    elif isinstance(module, nn.MaxPool2d):
        yield Kernel(POOLING, 0, 2 * (x.numel() + y.numel()) * element)


def product_kernels(module: nn.Module, x: Tensor, y: Tensor, element: int) -> Iterator[Kernel]:
    """The three products of a layer, the zeros of padding included; images need no gradient."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    inputs = math.prod(weight.shape[3 if isinstance(module, LocallyConnected2d) else 1 :])
    operations = 2 * y.numel() * inputs
    moved = (x.numel() + y.numel()) * element + weight.numel() * WEIGHT_BYTES
    for part in (FORWARD, BY_INPUT, BY_WEIGHTS):
        if x.requires_grad or part != BY_INPUT:
            yield Kernel(part, operations, moved)


def sharing_kernels(model: nn.Module) -> list[Kernel]:
    """The kernels of instant sharing, by means of groups, and of a sleep, by a (K, K) map of a neuron's K weights."""
    layers = [layer for layer in model.modules() if isinstance(layer, LocallyConnected2d)]
    moved = [2 * WEIGHT_BYTES * layer.weight.numel() for layer in layers]
    kernels = [Kernel(INSTANT, 0, many) for many in moved]
    for layer, many in zip(layers, moved, strict=True):
        inputs = inputs_of(layer)
        kernels.append(Kernel(SLEEP, 2 * inputs * layer.weight.numel(), many + WEIGHT_BYTES * inputs**2))
    return kernels
