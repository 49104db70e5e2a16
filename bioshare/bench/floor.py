"""The least time of a training step on a device, and the measured time: ``python -m bioshare bench floor``.

Every part of a step counts as a kernel that reads each input once and writes each output once. The floor is a bound
for kernels in sequence, each of which reads its inputs from memory; a cache large enough for whole activations can do
better. Activations have the type of automatic mixed precision, weights and gradients float32. The loss, the mean over
positions, the copies of autocast and the preparation of images do not count.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bioshare.bench.harness import DTYPES, BenchTable, add_common_options, free_memory, median_seconds, turns
from bioshare.bench.networks import NETWORKS, NetworkForm, TrainingStep, add_network_options, bench_network
from bioshare.bridge.geometry import inputs_of
from bioshare.cli import positive
from bioshare.nn import LocallyConnected2d
from bioshare.nn.resnet import BasicBlock

FLOOR_COLUMNS = "part 26 s | GFLOP 8 .3g | MB 8 .4g | ms at rate 12 .3f | ms at bandwidth 16 .3f | at least ms 12 .3f"

FLOOR_FORMS: dict[str, NetworkForm] = {"conv": "conv", "LC": "auto"}

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench floor``."""
    add_network_options(parser)
    parser.add_argument("--batch", type=positive, help="(default: the paper's)")
    parser.add_argument("--bandwidth", type=float, help="GB/s of the device; with --rate, nothing is measured")
    parser.add_argument("--rate", type=float, help="TFLOP/s of the device")
    parser.add_argument("--rate32", type=float, help="TFLOP/s in fp32, in which maps are applied (default: --rate)")
    add_common_options(parser, repeats=5)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print floor and step time of the convolutional and of the locally connected network."""
    paper, dtype, device = NETWORKS[arguments.network], arguments.dtype, torch.device(arguments.device)
    batch, side = arguments.batch or paper.batch, arguments.image or paper.side
    given = given_ceilings(arguments)
    ceilings = given or measured_ceilings(device, dtype)
    print(f"{'given' if given else 'measured'}: {ceilings}")
    records = [{"part": "ceilings"} | ceilings._asdict()]
    for name, form in FLOOR_FORMS.items():
        print(f"\n{name} {paper.title} at {side} x {side}, batch {batch}, {dtype}\n")
        model = bench_network(arguments.network, form, "meta", side)
        kernels = step_kernels(model, (batch, 3, side, side), DTYPES[dtype].itemsize)
        table = BenchTable(FLOOR_COLUMNS)
        add_floor_rows(table, kernels, ceilings, total="floor of a step")
        if form != "conv":
            add_floor_rows(table, sharing_kernels(model), ceilings)
        records += [{"network": name, "batch": batch, "dtype": dtype} | record for record in table.records]
        if not given:
            least = sum(kernel.seconds(ceilings) for kernel in kernels)
            steps = measured_steps(arguments, form, batch, side, least)
            records += [{"network": name} | record for record in steps]
            free_memory(device)
    return records


def given_ceilings(arguments: argparse.Namespace) -> Ceilings | None:
    """The ceilings among the options.

    Raises:
        ValueError: some are missing, or not positive and finite.
    """
    bandwidth, rate, rate32 = arguments.bandwidth, arguments.rate, arguments.rate32
    given = [value for value in (bandwidth, rate, rate32) if value is not None]
    if not given:
        return None
    if bandwidth is None or rate is None or not all(math.isfinite(value) and value > 0 for value in given):
        raise ValueError(
            f"--bandwidth and --rate must both be positive numbers, or left out; got {bandwidth} and {rate}, and "
            f"{rate32} for --rate32"
        )
    return Ceilings(1e9 * bandwidth, 1e12 * rate, 1e12 * (rate32 or rate))


def measured_steps(
    arguments: argparse.Namespace, form: NetworkForm, batch: int, side: int, least: float
) -> list[dict[str, Any]]:
    """Print the time of a training step, and on a GPU also from a graph, beside the least time."""
    device, works = torch.device(arguments.device), dict[str, Callable[[], Any]]()
    for kind in ("eager", "graph") if device.type == "cuda" else ("eager",):
        model = bench_network(arguments.network, form, device, side)
        step = TrainingStep(model, (3, side, side), batch, arguments.dtype, form, graph=kind == "graph")
        step.warm_up()
        works[f"step, {kind}"] = step
    records = []
    for part, seconds in turns(works, arguments.repeats, device):
        print(f"{part}: {1e3 * seconds:.3f} ms, {seconds / least:.2f} times the floor", flush=True)
        records.append({"part": part, "ms": 1e3 * seconds, "of_floor": seconds / least})
    return records


def add_floor_rows(table: BenchTable, kernels: Sequence[Kernel], ceilings: Ceilings, total: str | None = None) -> None:
    """Add a row for every part among some kernels, and a row with the title ``total`` for all kernels."""
    groups: dict[str, Sequence[Kernel]] = {}
    for kernel in kernels:
        groups[kernel.part] = [*groups.get(kernel.part, []), kernel]
    if total:
        groups[total] = kernels
    for part, members in groups.items():
        moved = sum(kernel.bytes for kernel in members)
        row = {
            "part": part,
            "GFLOP": sum(kernel.operations for kernel in members) / 1e9,
            "MB": moved / 1e6,
            "ms at rate": 1e3 * sum(kernel.operations / kernel.rate(ceilings) for kernel in members),
            "ms at bandwidth": 1e3 * moved / ceilings.bandwidth,
            "at least ms": 1e3 * sum(kernel.seconds(ceilings) for kernel in members),
        }
        table.add(row)


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
