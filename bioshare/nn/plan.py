"""Sizes of locally connected products, and the order of their weights in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
"""Floating-point types with sums in float32."""


FIXED = "A layer keeps its number of positions: make a new layer with other sizes, or set the old sizes again"
"""Remedy for a layer whose sizes have changed."""


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
        """Make the plan for x (batch, in, H, W) and weights (H_out, W_out, out, in / groups, kh, kw).

        Raises:
            ValueError: the sizes do not fit together.
        """
        if x.ndim != 4 or weight.ndim != 6 or x.shape[1] != groups * weight.shape[3] or weight.shape[2] % groups:
            raise ValueError(
                f"x must be (batch, in, H, W) and weight (H_out, W_out, out, in / groups, kh, kw) with groups={groups} "
                f"equal blocks of channels in and out; got {tuple(x.shape)} and {tuple(weight.shape)}"
            )
        height, width = x.shape[2:]
        rows, columns, out_channels, channels, kh, kw = weight.shape
        left, right, top, _ = padding
        expected = output_size((height, width), (kh, kw), stride, padding, dilation)
        if (rows, columns) != expected:
            raise ValueError(
                f"weight must have {expected[0]} x {expected[1]} kernels, one for every position of the output of an "
                f"input of {height} x {width} with kernels of {kh} x {kw}, stride={stride}, padding={padding} and "
                f"dilation={dilation}; got {rows} x {columns} kernels. {FIXED}"
            )
        sizes = height, width, rows, columns, groups, channels, out_channels // groups, kh, kw
        return cls(*sizes, *stride, *dilation, left, right, top)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Zeros to the left, right, top and bottom, exactly as many as the patches reach; negative where they end."""
        right = (self.columns - 1) * self.sw + (self.kw - 1) * self.dw + 1 - self.left - self.width
        bottom = (self.rows - 1) * self.sh + (self.kh - 1) * self.dh + 1 - self.top - self.height
        return self.left, right, self.top, bottom

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


def output_size(
    input_size: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Return the rows and columns of the output of a convolution, below 1 where the kernel does not fit."""
    left, right, top, bottom = padding
    padded = input_size[0] + top + bottom, input_size[1] + left + right
    axes = zip(padded, kernel_size, dilation, stride, strict=True)
    rows, columns = ((n - d * (k - 1) - 1) // s + 1 for n, k, d, s in axes)
    return rows, columns


def physical(weight: Tensor) -> Tensor:
    """Permute the axes of weights to their order in memory, (H_out, W_out, out, kw, kh, in / groups), or back."""
    return weight.permute(0, 1, 2, 5, 4, 3)


def new_weight(shape: tuple[int, ...], dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Allocate weights (H_out, W_out, out, in / groups, kh, kw) in the order of `physical`."""
    rows, columns, out_channels, channels, kh, kw = shape
    layout = physical(torch.empty(rows, columns, out_channels, kw, kh, channels, dtype=dtype, device="meta"))
    return torch.empty_like(layout, device=device)  # PyTorch's own strides where an axis has length 1
