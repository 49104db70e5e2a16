"""Layers and networks with a matrix for every token, against shared ones: ``python -m bioshare bench patches``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from bioshare.bench.harness import DTYPES, BenchTable, add_common_options, median_seconds, peak_bytes
from bioshare.cli import positive
from bioshare.nn import MLPMixer, PatchwiseLinear, VisionTransformer, to_locally_connected

PATCHES_COLUMNS = (
    "work 37 s | million weights 15 .3f | ms 8 .2f | peak MB 7 .1f | of shared 9 .2f | peak of shared 14 .2f"
)

IMAGE = (3, 16, 16)
"""Channels, rows and columns of an image, which becomes 64 patches of 2 x 2 pixels."""

LAYERS = ((16, 48, 192), (64, 48, 192), (196, 192, 768))
"""Tokens, input and output features: the MLP of the table "patches" on digits and on CIFAR-10, and of ViT-Ti/16."""

PATCH_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "transformer": partial(VisionTransformer, input_size=IMAGE, patch=2, features=48),
    "Mixer": partial(MLPMixer, input_size=IMAGE, patch=2, features=48),
}
"""The networks of the table "patches" on CIFAR-10."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench patches``."""
    parser.add_argument("--batch", type=positive, default=128, help="(default: %(default)s)")
    add_common_options(parser, repeats=9)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a row for every layer and network, shared and with a matrix for every token."""
    device = torch.device(arguments.device)
    print(
        f"Forward, backward and AdamW, batch {arguments.batch}, {arguments.dtype} on {device}, {arguments.threads} "
        f"threads:\nmedian of {arguments.repeats}, peak of allocated memory with gradients and AdamW's moments\n"
    )
    table = BenchTable(PATCHES_COLUMNS)
    for title, shape, modules in compared():
        prepared = {
            name: partial(training_step, make, (arguments.batch, *shape), arguments.dtype, device)
            for name, make in modules.items()
        }
        seconds = median_seconds({name: make() for name, make in prepared.items()}, arguments.repeats, device)
        peaks = {name: peak_bytes(make, device) for name, make in prepared.items()}
        shared = next(iter(modules))
        for name, make in modules.items():
            peak, least = peaks[name], peaks[shared]
            row = {
                "work": f"{title}: {name}",
                "million weights": sum(weight.numel() for weight in make().parameters()) / 1e6,
                "ms": 1e3 * seconds[name],
                "peak MB": None if peak is None else peak / 1e6,
                "of shared": seconds[name] / seconds[shared],
                "peak of shared": None if peak is None or not least else peak / least,
            }
            table.add(row)
    return table.records


def compared() -> list[tuple[str, tuple[int, ...], dict[str, Callable[[], nn.Module]]]]:
    """Title, shape of an input, and the shared and the unshared module, of every layer and network."""
    layers = [
        (
            f"{tokens} x {inputs} to {outputs}",
            (tokens, inputs),
            {
                "Linear": partial(nn.Linear, inputs, outputs),
                "PatchwiseLinear": partial(PatchwiseLinear, tokens, inputs, outputs, bias=True),
            },
        )
        for tokens, inputs, outputs in LAYERS
    ]
    networks = [
        (title, IMAGE, {"shared": make, "unshared": partial(without_sharing, make)})
        for title, make in PATCH_NETWORKS.items()
    ]
    return [*layers, *networks]


def without_sharing(make: Callable[[], nn.Module]) -> nn.Module:
    """A network of patches with a matrix for every token."""
    return to_locally_connected(make(), IMAGE, layout="channels_last", linear=True)


def training_step(
    make: Callable[[], nn.Module], shape: tuple[int, ...], dtype: str, device: torch.device
) -> Callable[[], None]:
    """A step on a random batch, with the gradient by the input; a pass of one image has loaded the libraries."""
    module, x = make().to(device), torch.randn(shape, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW(module.parameters())

    def gradients(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "fp32"):
            loss = module(x).square().mean()
        loss.backward()

    def step() -> None:
        x.grad = None
        gradients(x)
        optimizer.step()

    gradients(x[:1])
    optimizer.zero_grad()
    return step
