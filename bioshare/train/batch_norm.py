"""Batch normalisation over the batches of several processes, and of a single image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bioshare.nn.past_norms import PassedNorm


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


@torch.no_grad()
def check_single_image(model: nn.Module, size: Sequence[int]) -> None:
    """Check that a network takes a batch of one image in training; buffers stay as they are.

    Args:
        model: the network, in training mode.
        size: (channels, rows, columns) of an image.

    Raises:
        ValueError: a batch normalisation has a single value in every channel, whose variance can't be estimated.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        model(next(model.parameters()).new_zeros(1, *size))
    finally:
        for buffer, values in zip(model.buffers(), before, strict=True):
            buffer.copy_(values)


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
        with torch.no_grad():
            tracked = self.get_buffer("num_batches_tracked").add_(1)
            share = 1 / tracked.item() if self.momentum is None else self.momentum
            for name, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
                self.get_buffer(name).lerp_(value, share)
        y = deviations * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input)


class PassedSynchronousBatchNorm2d(PassedNorm, SynchronousBatchNorm2d):
    """A `SynchronousBatchNorm2d` behind a layer whose feedback goes past the norm."""


class PassedSyncBatchNorm(PassedNorm, nn.SyncBatchNorm):
    """A `torch.nn.SyncBatchNorm` behind a layer whose feedback goes past the norm."""


PASSED: dict[type[nn.Module], type[PassedNorm]] = {
    SynchronousBatchNorm2d: PassedSynchronousBatchNorm2d,
    nn.SyncBatchNorm: PassedSyncBatchNorm,
}
"""Norms that feedback goes past by the synchronous norms."""
