"""Several processes, started by torchrun, that train one network as a single process with the whole batch would."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        device: where it computes.
        rank: its number; 0 writes files and shows the bar.
        world: how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each of them."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The largest over all processes, the same in each of them."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        values = values.clone()
        if self.world > 1:
            dist.all_reduce(values, how)
        return values

    def finish(self) -> None:
        """Wait until the device has done what the current stream was given, so that the clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        """A block whose work goes to a CUDA stream of its own, as often as it is entered.

        Nothing but that happens on a CPU; nor among several processes, whose gradients NCCL fetches from the default
        stream. What was made in another stream must be finished before (`finish`).
        """
        if self.device.type != "cuda" or self.world > 1:
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def parallel(self, model: nn.Module) -> nn.Module:
        """A module that computes as ``model`` and averages gradients over the processes; `synchronise` it before.

        The gradient of a batch is exact if a process that has some of its images sums their losses, and scales the sum
        by `world` over the number of images in the whole batch.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, devices, forward_sync_buffers=False)  # they are equal as it is

    def synchronise(self, model: nn.Module) -> None:
        """Let every `torch.nn.BatchNorm2d` of a model see the batches of all processes, in place.

        Parameters, buffers and their names stay. On a GPU the layers become torch's own `torch.nn.SyncBatchNorm`,
        whose kernels know no other device; elsewhere a `SynchronousBatchNorm2d`.
        """
        if self.world == 1:
            return
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                model.set_submodule(name, self._synchronous(module))

    def _synchronous(self, module: nn.BatchNorm2d) -> nn.Module:
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return SynchronousBatchNorm2d.of(module)


@contextmanager
def processes(device: str | torch.device = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, until the end of the block; without torchrun there is only this one.

    Args:
        device: "auto" is the GPU of this process if there is one, and the CPU otherwise.

    Raises:
        ValueError: there is no such device.
    """
    rank, world, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    found = _device(device, local)
    if world == 1:
        yield Processes(found)
        return
    if found.type == "cuda":
        torch.cuda.set_device(found)
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Processes(found, rank, world)
    finally:
        time.sleep(0.2)  # gloo's threads need the interpreter to drop their last tensors, and its destructor holds it
        dist.destroy_process_group()


_ENVIRONMENT = ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")


def _device(device: str | torch.device, local_rank: int) -> torch.device:
    """The device that is meant; a GPU without a number is that of the local rank."""
    told = f'device must be "auto", "cpu", "cuda" or a GPU such as "cuda:0"; got {str(device)!r}'
    try:
        wanted = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise ValueError(told) from None
    if wanted.type not in ("cpu", "cuda"):
        raise ValueError(told)
    if wanted.type != "cuda":
        return wanted
    index = local_rank if wanted.index is None else wanted.index
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"{told}. PyTorch sees {torch.cuda.device_count()} GPUs here, and process {local_rank} wants one"
        )
    return torch.device("cuda", index)


class _Total(torch.autograd.Function):
    """The sum over all processes; every process's loss depends on it, so the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Total.forward(ctx, grads[0])


class SynchronousBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the batches of all processes, whatever their sizes, on any device.

    The mean comes first, and then the squared deviations from it, so that no digits cancel. Every process must take
    part in every forward and backward pass; one without images takes part with an empty batch.
    """

    @classmethod
    def of(cls, module: nn.BatchNorm2d) -> SynchronousBatchNorm2d:
        """A layer with the parameters and buffers of another (the same tensors)."""
        if not module.track_running_stats or module.momentum is None:
            raise ValueError("a BatchNorm2d must have running statistics and a momentum to be synchronised")
        layer = cls(module.num_features, module.eps, module.momentum, module.affine)
        layer._parameters.update(module._parameters)
        layer._buffers.update(module._buffers)
        return layer.train(module.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(self.get_buffer("running_mean"))  # sums in the half types would be inexact
        values = x.new_tensor([x.numel() / x.shape[1]])
        sums = _Total.apply(torch.cat([x.sum((0, 2, 3)), values]))
        count = sums[-1].detach()
        if count < 2:
            raise ValueError(f"a batch must have more than one value per channel in training; got shape {input.shape}")
        mean = sums[:-1] / count
        deviations = x - mean[:, None, None]
        variance = _Total.apply(deviations.square().sum((0, 2, 3))) / count
        self._track(mean, variance * count / (count - 1))
        y = deviations * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        assert self.momentum is not None
        for name, value in (("running_mean", mean), ("running_var", variance)):
            self.get_buffer(name).lerp_(value, self.momentum)
        self.get_buffer("num_batches_tracked").add_(1)
