"""A locally connected layer in three ways, at the sizes of ResNet-20's stages: ``python -m bioshare bench layer``.

The baseline is what one writes in PyTorch today, unfold and einsum; the convolution of the same size is the floor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bioshare.bench.timing import in_turns, megabytes, peak_bytes
from bioshare.cli import device, positive
from bioshare.nn import LocallyConnected2d

STAGES = ((16, 32), (32, 16), (64, 8))
"""Channels, and rows and columns, of ResNet-20's stages on CIFAR."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


FORMS: dict[str, Callable[..., nn.Module]] = {
    "unfold + einsum": UnfoldEinsum2d,
    "LocallyConnected2d": LocallyConnected2d,
    "Conv2d": lambda *arguments, input_size, **options: nn.Conv2d(*arguments, **options),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench layer``."""
    add_options(parser, repeats=5)


def add_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """What benches of networks have in common."""
    parser.add_argument("--batches", type=positive, nargs="+", default=[128, 512], help="(default: %(default)s)")
    add_machine_options(parser, repeats)


def add_machine_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """How often, and on what."""
    parser.add_argument("--repeats", type=positive, default=repeats, help="(default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="(default: %(default)s)")
    parser.add_argument("--device", type=device, default="cpu", help="(default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(arguments.threads)
    print(
        f"3 x 3 kernels, padding 1, no bias, {arguments.dtype} on {arguments.device}, {arguments.threads} threads: "
        f"forward + backward (median of {arguments.repeats}), and the peak of what it allocates\n"
    )
    print(
        f"{'batch  channels  size':24s}"
        + "".join(f"{name:>26s}" for name in FORMS)
        + f"{'faster than naive':>20s}{'time of conv':>14s}"
    )
    for batch in arguments.batches:
        for channels, size in STAGES:
            shape = batch, channels, size, arguments.dtype, arguments.device
            print(f"{batch:5d}{channels:10d}{f'{size} x {size}':>9s}" + _row(shape, arguments.repeats), flush=True)


def _row(shape: Sequence, repeats: int) -> str:
    works = {name: step(name, *shape) for name in FORMS}
    seconds = in_turns(works, repeats, torch.device(shape[-1]))
    naive, ours, conv = seconds.values()
    cells = [f"{1e3 * seconds[name]:13.1f} ms {megabytes(peak_bytes(step, name, *shape)):>6s} MB" for name in FORMS]
    return "".join(cells) + f"{naive / ours:19.1f}x{ours / conv:13.1f}x"


def step(name: str, batch: int, channels: int, size: int, dtype: str, device: str) -> Callable[[], object]:
    """A forward and a backward pass of one form, with the gradients by the input and the weights."""
    options = {"padding": 1, "bias": False, "device": device, "dtype": DTYPES[dtype]}
    layer = FORMS[name](channels, channels, 3, input_size=size, **options)
    layout = torch.contiguous_format if name == "unfold + einsum" else torch.channels_last
    make = partial(torch.randn, batch, channels, size, size, device=device, dtype=DTYPES[dtype])
    x, cotangent = (make().contiguous(memory_format=layout) for _ in range(2))
    x.requires_grad_()
    run = lambda x, cotangent: torch.autograd.grad(layer(x), [x, *layer.parameters()], cotangent)
    run(x[:1], cotangent[:1])  # libraries load what they need at their first call
    return lambda: run(x, cotangent)
