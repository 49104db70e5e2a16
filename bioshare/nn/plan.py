"""The sizes of a locally connected product, and the layout of its tensors in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class ProductPlan(NamedTuple):
    """Sizes of a locally connected product and its derivatives, all but the batch size.

    Row i and column j of the kernel at position (h, w) of the output multiply pixel (h sh + i dh - top,
    w sw + j dw - left) of the input. Plain integers, so that a plan fits into the flat signature of a PyTorch operator
    and into a Triton kernel as a constant.

    Attributes:
        height, width: rows and columns of the input.
        rows, columns: rows and columns of the output.
        groups: number of blocks of channels.
        channels, outputs: input and output channels of a block.
        kh, kw: rows and columns of the kernel.
        sh, sw: strides.
        dh, dw: dilations.
        left, right, top: zeros around the input; the output's rows imply the zeros below.
    """

    height: int
    width: int
    rows: int
    columns: int
    groups: int
    channels: int
    outputs: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    left: int
    right: int
    top: int

    @classmethod
    def of(
        cls,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> ProductPlan:
        """Make the plan for x (batch, in, H, W) and weights (H_out, W_out, out, in / groups, kh, kw)."""
        height, width = x.shape[2:]
        rows, columns, out_channels, channels, kh, kw = weight.shape
        left, right, top, _ = padding
        sizes = height, width, rows, columns, groups, channels, out_channels // groups, kh, kw
        return cls(*sizes, *stride, *dilation, left, right, top)

    @property
    def patch(self) -> int:
        """Elements of a patch in one group."""
        return self.kw * self.kh * self.channels

    def new_input(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Allocate (batch, in, H, W) in channels_last, with the batch, device and dtype of a tensor."""
        shape = like.shape[0], self.groups * self.channels, self.height, self.width
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)

    def new_output(self, like: Tensor) -> Tensor:
        """Allocate (batch, out, H_out, W_out) in channels_last, with the batch, device and dtype of a tensor."""
        shape = like.shape[0], self.groups * self.outputs, self.rows, self.columns
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)

    def new_weight(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Allocate (H_out, W_out, out, in / groups, kh, kw) in the order of `physical`."""
        shape = self.rows, self.columns, self.groups * self.outputs, self.channels, self.kh, self.kw
        return new_weight(shape, dtype, device)


def physical(weight: Tensor) -> Tensor:
    """Permute the axes of weights to their order in memory, (H_out, W_out, out, kw, kh, in / groups), or back."""
    return weight.permute(0, 1, 2, 5, 4, 3)


def new_weight(shape: tuple[int, ...], dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Allocate weights (H_out, W_out, out, in / groups, kh, kw) in the order of `physical`."""
    rows, columns, out_channels, channels, kh, kw = shape
    layout = physical(torch.empty(rows, columns, out_channels, kw, kh, channels, dtype=dtype, device="meta"))
    return torch.empty_like(layout, device=device)  # PyTorch's own strides where an axis has length 1
