"""Convolutions, local and full connections of d'Ascoli's network against the floor: ``python -m bioshare bench full``.

A step of a layer is forward, backward and plain SGD, as in the paper. The floor of the time has the kernels of
`bioshare.bench.floor`. The floor of the memory beyond the weights, the images and the gradient by the output has the
output, and the gradients by the images and by the weights, each once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bioshare.bench.floor import WEIGHT_BYTES, Ceilings, Kernel, measured_ceilings, product_kernels
from bioshare.bench.harness import BenchTable, median_seconds, peak_bytes
from bioshare.cli import device, positive
from bioshare.nn import dascoli, to_fully_connected, to_locally_connected

FULL_COLUMNS = (
    "layer 22 s | million weights 15 .3f | ms 8 .2f | of the floor 12 .2f | peak MB 8 .1f | of least memory 15 .2f"
)
SGD_PASSES = 3
"""SGD reads weights and gradients, and writes weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench full``."""
    parser.add_argument("--channels", type=positive, default=16, help="64 in the paper (default: %(default)s)")
    parser.add_argument("--side", type=positive, default=32, help="rows and columns of an image (default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=50, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=9, help="turns of every row (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--device", type=device, default="cpu", help="(default: %(default)s)")


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a row for every convolution of the network in every space."""
    place = torch.device(arguments.device)
    ceilings = measured_ceilings(place, "fp32")
    print(
        f"Forward, backward and SGD, batch {arguments.batch}, fp32 on {place}, {arguments.threads} threads: median of "
        f"{arguments.repeats}\nmeasured: {ceilings}\n"
    )
    table = BenchTable(FULL_COLUMNS)
    for index, (title, layer, size) in enumerate(convolutions(arguments.channels, arguments.side)):
        network = arguments.channels, arguments.side, index  # no tensors, since a process of its own makes the layer
        prepared = {space: partial(plain_step, network, space, arguments.batch, place) for space in SPACES}
        seconds = median_seconds({space: make() for space, make in prepared.items()}, arguments.repeats, place)
        for space, convert in SPACES.items():
            module = convert(layer, size)
            least, memory = floors(module, (arguments.batch, *size), ceilings)
            peak = peak_bytes(prepared[space], place)
            row = {
                "layer": f"{title}: {space}",
                "million weights": module.weight.numel() / 1e6,
                "ms": 1e3 * seconds[space],
                "of the floor": seconds[space] / least,
                "peak MB": None if peak is None else peak / 1e6,
                "of least memory": None if peak is None else peak / memory,
            }
            table.add(row)
    return table.records


def convolutions(channels: int, side: int) -> list[tuple[str, nn.Conv2d, tuple[int, int, int]]]:
    """Title, layer and size of the image of every convolution of d'Ascoli's network."""
    found, x = [], torch.empty(1, 3, side, side)
    for layer in dascoli("vanilla", 10, (3, side, side), channels):
        if isinstance(layer, nn.Conv2d):
            rows, columns = x.shape[2:]
            kernel, _ = layer.kernel_size
            found.append((f"{kernel} x {kernel} on {rows} x {columns}", layer, (layer.in_channels, rows, columns)))
        x = layer(x)
    return found


def floors(module: Any, shape: tuple[int, ...], ceilings: Ceilings) -> tuple[float, int]:
    """Least seconds of a step, and least bytes beyond what is there before the step, for images of a shape."""
    x = torch.empty(shape, requires_grad=True)
    y: Tensor = module(x)
    kernels = [*product_kernels(module, x, y, x.element_size())]
    kernels.append(Kernel("SGD", 0, SGD_PASSES * WEIGHT_BYTES * module.weight.numel()))
    numbers = y.numel() + x.numel() + module.weight.numel()
    return sum(kernel.seconds(ceilings) for kernel in kernels), WEIGHT_BYTES * numbers


def plain_step(network: tuple[int, int, int], space: str, batch: int, device: torch.device) -> Callable[[], None]:
    """A step on random images and gradients by the output, with the gradient by the images.

    A pass of one image has loaded the libraries.

    Args:
        network: channels, rows of an image, and number of the layer among the convolutions.
        space: a key of `SPACES`.
        batch: number of images.
        device: device of the layer.
    """
    _, layer, size = convolutions(*network[:2])[network[2]]
    module = SPACES[space](layer, size).to(device)
    x = torch.randn(batch, *size, device=device, requires_grad=True)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    first = module(x[:1])
    cotangent = torch.randn(batch, *first.shape[1:], device=device)

    def step() -> None:
        x.grad = None
        optimizer.zero_grad()
        module(x).backward(cotangent)
        optimizer.step()

    first.sum().backward()
    x.grad = None
    optimizer.zero_grad()
    return step


SPACES: dict[str, Callable[..., Any]] = {
    "conv": lambda layer, size: layer,
    "LC": lambda layer, size: to_locally_connected(layer, size, "copy", layout="channels_last"),
    "FC": lambda layer, size: to_fully_connected(layer, size),
}
"""Conversions of a convolution by space."""
