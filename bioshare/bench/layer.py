"""A locally connected layer in every form, at the sizes of ResNet-20's stages: ``python -m bioshare bench layer``.

The baseline is what one writes in PyTorch today, unfold and einsum. As in training, weights are float32 whatever the
type of the rest. The floor is the time of the three products' operations or bytes, whichever is longer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from bioshare.bench import ceilings
from bioshare.bench.ceilings import Ceilings
from bioshare.bench.networks import UnfoldEinsum2d
from bioshare.bench.options import DTYPES, add_batches, add_dtypes, add_machine_options, without_tf32
from bioshare.bench.table import Column, Table
from bioshare.bench.timing import in_turns, peak_bytes
from bioshare.bench.traffic import Work, product_works
from bioshare.nn import LocallyConnected2d
from bioshare.nn.forms import Form, fused_available
from bioshare.nn.functional import prefer

STAGES = ((16, 32), (32, 16), (64, 8))
"""Channels, and rows and columns, of ResNet-20's stages on CIFAR."""

COLUMNS = (
    Column("dtype", "dtype", width=7),
    Column("batch", "batch", "d", 5),
    Column("channels", "channels", "d", 10),
    Column("size", "size", "d", 6),
    Column("name", "  form", width=20),
    Column("ms", "ms", ".3f", 11),
    Column("peak_mb", "peak MB", ".0f", 9),
    Column("faster", "faster", ".1f", 8),
    Column("of_conv", "of conv", ".2f", 9),
    Column("teraoperations", "TFLOP/s", ".3g", 11),
    Column("gigabytes", "GB/s", ".4g", 11),
    Column("floor_percent", "floor %", ".1f", 9),
)


def _convolution(*arguments: Any, input_size: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **options)


FORMS: dict[str, tuple[Callable[..., nn.Module], Form]] = {
    "unfold + einsum": (UnfoldEinsum2d, "auto"),
    "LC, batched": (LocallyConnected2d, "batched"),
    "LC, fused": (LocallyConnected2d, "fused"),
    "Conv2d": (_convolution, "auto"),
}
"""How to make a layer, and what its products prefer."""


class Shape(NamedTuple):
    """Of one case: channels in and out, rows and columns of the images, type of automatic mixed precision."""

    batch: int
    channels: int
    size: int
    dtype: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench layer``."""
    add_batches(parser, [128, 512])
    add_dtypes(parser)
    add_machine_options(parser, repeats=5)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    with without_tf32():
        limits = {dtype: ceilings.measured(device, dtype) for dtype in arguments.dtypes}
        for dtype, limit in limits.items():
            print(f"{dtype}: {limit}")
        print(
            f"3 x 3 kernels, padding 1, no bias, on {device}, {arguments.threads} threads: forward + backward (median "
            f"of {arguments.repeats}), the peak of what it allocates,\nhow much faster than unfold + einsum, the time "
            "as a multiple of conv's, least operations and bytes by time, share of the floor in it\n"
        )
        table = Table(COLUMNS)
        for dtype in arguments.dtypes:
            for batch in arguments.batches:
                for channels, size in STAGES:
                    shape = Shape(batch, channels, size, dtype)
                    measure(table, shape, limits[dtype], arguments.repeats, arguments.device)
    return table.records


def measure(table: Table, shape: Shape, limits: Ceilings, repeats: int, device: str) -> None:
    """Add a row for every form."""
    works = {name: step(name, *shape, device) for name in forms(device)}
    seconds = in_turns(works, repeats, torch.device(device))
    for name, time in seconds.items():
        peak, least = peak_bytes(step, name, *shape, device), least_works(name, shape)
        table.add(
            **shape._asdict(),
            name=f"  {name}",
            ms=1e3 * time,
            peak_mb=None if peak is None else peak / 1e6,
            faster=seconds["unfold + einsum"] / time,
            of_conv=time / seconds["Conv2d"],
            teraoperations=sum(work.operations for work in least) / time / 1e12,
            gigabytes=sum(work.bytes for work in least) / time / 1e9,
            floor_percent=100 * sum(work.seconds(limits) for work in least) / time,
        )


def forms(device: str) -> list[str]:
    """The names of the forms that a device can compute."""
    fused = torch.device(device).type == "cuda" and fused_available()
    return [name for name in FORMS if fused or "fused" not in name]


def step(name: str, batch: int, channels: int, size: int, dtype: str, device: str) -> Callable[[], object]:
    """A forward and a backward pass of one form, with the gradients by the input and the weights."""
    make_layer, form = FORMS[name]
    layer = make_layer(channels, channels, 3, input_size=size, padding=1, bias=False, device=device)
    layout = torch.contiguous_format if name == "unfold + einsum" else torch.channels_last
    make = partial(torch.randn, batch, channels, size, size, device=device, dtype=DTYPES[dtype])
    x, cotangent = (make().contiguous(memory_format=layout) for _ in range(2))
    x.requires_grad_()
    kind = torch.device(device).type

    def run(x: torch.Tensor, cotangent: torch.Tensor) -> Sequence[torch.Tensor]:
        with prefer(form):
            with nullcontext() if dtype == "fp32" else torch.autocast(kind, DTYPES[dtype]):
                y = layer(x)
            return torch.autograd.grad(y, [x, *layer.parameters()], cotangent)

    # libraries load what they need at their first call, and Triton compiles kernels of their own for a single image
    first = slice(None) if kind == "cuda" else slice(1)
    run(x[first], cotangent[first])
    return lambda: run(x, cotangent)


def least_works(name: str, shape: Shape) -> list[Work]:
    """What the three products of a form have to do."""
    layer = FORMS[name][0](shape.channels, shape.channels, 3, input_size=shape.size, padding=1, device="meta")
    x = torch.empty(shape.batch, shape.channels, shape.size, shape.size, device="meta").requires_grad_()
    return list(product_works(layer, x, x, DTYPES[shape.dtype].itemsize))
