"""A training step of ResNet-20 on random images of CIFAR's size: ``python -m bioshare bench train``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn

from bioshare.bench.layer import DTYPES, UnfoldEinsum2d, add_options
from bioshare.bench.timing import in_turns, megabytes, peak_bytes
from bioshare.bridge import InstantSharing
from bioshare.nn import LocallyConnected2d, resnet20, to_locally_connected

NETWORKS = ("conv", "LC, unfold + einsum", "LC", "LC, sharing after the step")
IMAGE = (3, 32, 32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench train``."""
    add_options(parser, repeats=3)
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits on the GPU")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(arguments.threads)
    where = torch.device(arguments.device)
    if arguments.largest and where.type != "cuda":
        raise ValueError(f"--largest needs --device cuda; got {where}, where a batch that is too large ends everything")
    print(
        f"forward, backward and AdamW step of ResNet-20, {arguments.dtype} on {arguments.device}, {arguments.threads} "
        f"threads, median of {arguments.repeats}; the peak of two steps beyond the weights\n"
    )
    print(f"{'network':30s}{'batch':>6s}{'ms / step':>11s}{'images / s':>12s}{'of conv':>9s}{'peak MB':>9s}")
    for batch in arguments.batches:
        options = batch, arguments.dtype, arguments.device
        seconds = in_turns({name: step(name, *options) for name in NETWORKS}, arguments.repeats, where)
        for name in NETWORKS:
            peak = megabytes(peak_bytes(_two_steps, name, *options))
            ratio = seconds[name] / seconds["conv"]
            print(
                f"{name:30s}{batch:6d}{1e3 * seconds[name]:11.0f}{batch / seconds[name]:12.0f}{ratio:9.2f}{peak:>9s}",
                flush=True,
            )
    if arguments.largest:
        for name in NETWORKS[:3]:
            print(f"largest batch that fits, {name}: {largest_batch(name, arguments.dtype, arguments.device)}")


def network(name: str) -> nn.Module:
    """ResNet-20 in one of its forms."""
    if name == "conv":
        return resnet20().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model = to_locally_connected(resnet20(), IMAGE)
    if "unfold" in name:
        for layer in model.modules():
            if isinstance(layer, LocallyConnected2d):
                layer.__class__ = UnfoldEinsum2d
                layer.weight = nn.Parameter(layer.weight.detach().contiguous())
    return model


def step(name: str, batch: int, dtype: str, device: str) -> Callable[[], None]:
    """A training step of one network on one random batch."""
    return training_step(network(name).to(device), IMAGE, batch, dtype, InstantSharing() if "sharing" in name else None)


def training_step(
    model: nn.Module, image: tuple[int, int, int], batch: int, dtype: str, share: InstantSharing | None = None
) -> Callable[[], None]:
    """A training step of a model, which has at least ten classes, on one random batch, with sharing after it or not."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(batch, *image, device=device), torch.randint(10, (batch,), device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "fp32"):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if share:
            share(model, measure=False)

    return run


def _two_steps(name: str, batch: int, dtype: str, device: str) -> Callable[[], None]:
    """Two steps: gradients and the optimiser's moments are there in the second."""
    run = step(name, batch, dtype, device)

    def work() -> None:
        run()
        run()

    return work


def largest_batch(name: str, dtype: str, device: str) -> int:
    """The largest multiple of 512, found by doubling and halving, whose step fits into the GPU's memory."""
    fits, fails = 0, 0
    while not fails or fails - fits > 512:
        batch = (fits + fails) // 1024 * 512 if fails else max(512, 2 * fits)
        try:
            step(name, batch, dtype, device)()
            fits = batch
        except torch.OutOfMemoryError:
            fails = batch
        torch.cuda.empty_cache()
    return fits
