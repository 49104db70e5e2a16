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
    """This process among the processes of one run.

    Attributes:
        device: device of this process.
        rank: number of this process; 0 writes files and shows the bar.
        world: number of processes.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    def total(self, values: Tensor, reduction: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """The sum over all processes, the same in each process."""
        values = values.clone()
        if self.world > 1:
            dist.all_reduce(values, reduction)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """The maximum over all processes, the same in each process."""
        return self.total(values, dist.ReduceOp.MAX)

    def finish(self) -> None:
        """Wait for the work of the current CUDA stream, so that the clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        """A block whose work goes to a new CUDA stream, since graphs can't be recorded in the default stream.

        The block does nothing on a CPU, nor with several processes: NCCL reads gradients in the default stream.
        """
        if self.device.type != "cuda" or self.world > 1:
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self.device))

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()

    def parallel(self, model: nn.Module) -> nn.Module:
        """A module with the outputs of ``model`` and gradients averaged over the processes; `synchronise` first.

        The gradient of a batch is exact if every process sums the losses of its images and scales the sum by `world`
        over the number of images in the whole batch.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, devices, forward_sync_buffers=False)  # buffers are equal anyway

    def synchronise(self, model: nn.Module) -> None:
        """Let every `torch.nn.BatchNorm2d` of a model see the batches of all processes, in place.

        Parameters, buffers and names stay. Layers become torch's `torch.nn.SyncBatchNorm` on a GPU, the only device
        of that class, and `SynchronousBatchNorm2d` elsewhere.
        """
        if self.world == 1:
            return
        convert = SynchronousBatchNorm2d.of
        if self.device.type == "cuda":
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                model.set_submodule(name, convert(module))


@contextmanager
def processes(device: str | torch.device = "auto") -> Iterator[Processes]:
    """Join the processes of torchrun until the end of the block; without torchrun there is a single process.

    Args:
        device: "auto" is the GPU of this process if there is one, and the CPU otherwise.

    Raises:
        ValueError: there is no such device.
    """
    rank, world, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    chosen = _device(device, local_rank)
    if world == 1:
        yield Processes(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Processes(chosen, rank, world)
    finally:
        time.sleep(0.2)  # gloo's threads need the interpreter to drop their last tensors, and its destructor holds it
        dist.destroy_process_group()


def _device(device: str | torch.device, local_rank: int) -> torch.device:
    """The device of a process; a GPU without a number has the number of the local rank."""
    message = f'device must be "auto", "cpu", "cuda" or a GPU such as "cuda:0"; got {str(device)!r}'
    try:
        wanted = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise ValueError(message) from None
    if wanted.type not in ("cpu", "cuda"):
        raise ValueError(message)
    if wanted.type == "cpu":
        return wanted
    index = local_rank if wanted.index is None else wanted.index
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"{message}. PyTorch sees {count} GPUs here, and process {local_rank} wants one")
    return torch.device("cuda", index)


class _TotalOfProcesses(torch.autograd.Function):
    """The sum over all processes. The loss of every process depends on the sum, so the gradient is a sum, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _TotalOfProcesses.forward(ctx, grads[0])


class SynchronousBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the batches of all processes, of any sizes, on any device.

    The mean comes before the squared deviations from the mean, so that no digits cancel. Every process must take part
    in every forward and backward pass, if need be with an empty batch.
    """

    @classmethod
    def of(cls, module: nn.BatchNorm2d) -> SynchronousBatchNorm2d:
        """A layer with the parameters and buffers of ``module`` (the same tensors)."""
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
        # sum of every channel and number of values in a channel, over all processes: (channels + 1,)
        values = x.new_tensor([x.numel() / x.shape[1]])
        sums = _TotalOfProcesses.apply(torch.cat([x.sum((0, 2, 3)), values]))
        count = sums[-1].detach()
        if count < 2:
            raise ValueError(f"a batch must have more than one value per channel in training; got shape {input.shape}")
        mean = sums[:-1] / count  # (channels,)
        deviations = x - mean[:, None, None]  # (b, channels, rows, columns)
        variance = _TotalOfProcesses.apply(deviations.square().sum((0, 2, 3))) / count  # (channels,)
        assert self.momentum is not None
        with torch.no_grad():
            for name, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
                self.get_buffer(name).lerp_(value, self.momentum)
            self.get_buffer("num_batches_tracked").add_(1)
        y = deviations * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input)
