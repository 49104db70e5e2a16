"""A locally connected layer in every form, at the sizes of ResNet-20's stages: ``python -m bioshare bench layer``.

The baseline is the usual way to write such a layer in PyTorch, unfold and einsum. As in training, weights are float32
under any automatic mixed precision. The floor is the time of the operations or of the bytes of the three products,
whichever is longer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bioshare.bench.floor import Ceilings, Kernel, measured_ceilings, product_kernels
from bioshare.bench.harness import DTYPES, BenchTable, add_common_options, median_seconds, peak_bytes
from bioshare.bench.networks import UnfoldEinsum2d
from bioshare.cli import positive
from bioshare.nn import LocallyConnected2d
from bioshare.nn.forms import Form, fused_available
from bioshare.nn.functional import prefer

STAGES = ((16, 32), (32, 16), (64, 8))
"""Channels, and rows and columns, of the stages of ResNet-20 on CIFAR."""

LAYER_COLUMNS = (
    "dtype 5 s | batch 5 d | channels 8 d | size 4 d | form 15 s | ms 9 .3f | peak MB 7 .0f | faster 6 .1f | "
    "of conv 7 .2f | TFLOP/s 8 .3g | GB/s 6 .4g | floor % 7 .1f"
)


LAYER_FORMS: dict[str, tuple[Callable[..., nn.Module], Form]] = {
    "unfold + einsum": (UnfoldEinsum2d, "auto"),
    "LC, batched": (partial(LocallyConnected2d, layout="channels_last"), "batched"),
    "LC, fused": (partial(LocallyConnected2d, layout="channels_last"), "fused"),
    "Conv2d": (lambda *sizes, input_size, **options: nn.Conv2d(*sizes, **options), "auto"),
}
"""The layer and the preferred products of every form."""


class LayerSize(NamedTuple):
    """Images, channels in and out, rows and columns of the images, and type under automatic mixed precision."""

    batch: int
    channels: int
    size: int
    dtype: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench layer``."""
    parser.add_argument("--batches", type=positive, nargs="+", default=[128, 512], help="(default: %(default)s)")
    add_common_options(parser, repeats=5, several_dtypes=True)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a row for every type, batch size, stage and form."""
    device = torch.device(arguments.device)
    ceilings = {dtype: measured_ceilings(device, dtype) for dtype in arguments.dtypes}
    print(*(f"{dtype}: {rates}" for dtype, rates in ceilings.items()), sep="\n")
    print(
        f"3 x 3 kernels, padding 1, no bias, on {device}, {arguments.threads} threads: forward + backward (median of "
        f"{arguments.repeats}), peak of allocated memory,\nhow much faster than unfold + einsum, time as a multiple of "
        "conv's, least operations and bytes by time, share of the floor in the time\n"
    )
    table = BenchTable(LAYER_COLUMNS)
    for dtype in arguments.dtypes:
        for batch in arguments.batches:
            for channels, side in STAGES:
                size = LayerSize(batch, channels, side, dtype)
                add_layer_rows(table, size, ceilings[dtype], arguments.repeats, device)
    return table.records


def add_layer_rows(table: BenchTable, size: LayerSize, ceilings: Ceilings, repeats: int, device: torch.device) -> None:
    """Measure a layer in all forms, and add a row for each."""
    prepared = {name: partial(layer_step, name, size, device) for name in layer_forms(device)}
    seconds = median_seconds({name: make() for name, make in prepared.items()}, repeats, device)
    for name, time in seconds.items():
        peak, kernels = peak_bytes(prepared[name], device), layer_kernels(name, size)
        row = {
            "form": name,
            "ms": 1e3 * time,
            "peak MB": None if peak is None else peak / 1e6,
            "faster": seconds["unfold + einsum"] / time,
            "of conv": time / seconds["Conv2d"],
            "TFLOP/s": sum(kernel.operations for kernel in kernels) / time / 1e12,
            "GB/s": sum(kernel.bytes for kernel in kernels) / time / 1e9,
            "floor %": 100 * sum(kernel.seconds(ceilings) for kernel in kernels) / time,
        }
        table.add(size._asdict() | row)


def layer_forms(device: torch.device) -> list[str]:
    """Names of the forms available on a device."""
    fused = device.type == "cuda" and fused_available()
    return [name for name in LAYER_FORMS if fused or "fused" not in name]


def layer_step(name: str, size: LayerSize, device: torch.device) -> Callable[[], object]:
    """A warm forward and backward pass of a form, with the gradients by input and weights."""
    make_layer, form = LAYER_FORMS[name]
    batch, channels, side, dtype = size
    layer = make_layer(channels, channels, 3, input_size=side, padding=1, bias=False, device=device)
    layout = torch.contiguous_format if name == "unfold + einsum" else torch.channels_last
    make = partial(torch.randn, batch, channels, side, side, device=device, dtype=DTYPES[dtype])
    x, cotangent = (make().contiguous(memory_format=layout) for _ in range(2))
    x.requires_grad_()

    def run(x: Tensor, cotangent: Tensor) -> Sequence[Tensor]:
        with prefer(form):
            with nullcontext() if dtype == "fp32" else torch.autocast(device.type, DTYPES[dtype]):
                y = layer(x)
            return torch.autograd.grad(y, [x, *layer.parameters()], cotangent)

    # a first call loads libraries, and on a GPU compiles Triton's kernels, which are different for a single image
    first = slice(None) if device.type == "cuda" else slice(1)
    run(x[first], cotangent[first])
    return lambda: run(x, cotangent)


def layer_kernels(name: str, size: LayerSize) -> list[Kernel]:
    """The least work of the three products of a form."""
    layer = LAYER_FORMS[name][0](size.channels, size.channels, 3, input_size=size.size, padding=1, device="meta")
    x = torch.empty(size.batch, size.channels, size.size, size.size, device="meta").requires_grad_()
    return list(product_kernels(layer, x, x, DTYPES[size.dtype].itemsize))
