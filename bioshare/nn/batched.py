"""The products of a locally connected layer as batched matrix products, a few rows of the output at a time.

Nothing but their arguments is kept: the patches that a product needs live for some rows of the output only. On a CPU a
row's patches are not even copied: with the kernel's rows stacked next to the channels, neighbouring patches overlap in
memory, and one batched matrix product reads them in place. The input gradient is the same backwards, column by column
of the kernel, where the patches do not overlap.

The weights may be float32 where everything else is float16 or bfloat16: they are rounded as they are used, and their
gradient comes in float32. `bioshare.nn.functional` says what the arguments are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bioshare.nn.layout import new_weight, physical

CHUNK_BYTES = {"cpu": 2**18, "cuda": 2**28}
"""Patches of so many bytes are formed at once; one row of the output at the least."""

HALVES = (torch.float16, torch.bfloat16)
"""Types whose sums run in float32."""


def forward(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """The product itself: (batch, out, H_out, W_out)."""
    plan = Plan(x, weight.shape, x.shape[2:], stride, padding, dilation, groups)
    kernels, y = plan.kernels(weight), plan.new_output()
    for chunk, patches in plan.patches(x):
        product = torch.bmm(patches, kernels[chunk].flatten(0, 2).mT.to(x.dtype))
        plan.by_position(y)[chunk] = product.unflatten(0, (-1, *kernels.shape[1:3]))
    return y


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The transposed product: the gradient by x, (batch, in, H, W), from that by y."""
    plan = Plan(grad, weight.shape, input_size, stride, padding, dilation, groups)
    kernels = plan.kernels(weight).unflatten(-1, (plan.kernel_size[1], -1))
    dx = plan.new_input(torch.float32 if grad.dtype in HALVES else grad.dtype).zero_()
    for chunk, stack in plan.stacks(dx):
        stack.zero_()
        cotangent = plan.by_position(grad)[chunk].flatten(0, 2)
        for j, seen in enumerate(plan.kernel_columns(stack)):
            factors = cotangent, kernels[chunk, ..., j, :].flatten(0, 2).to(grad.dtype)
            if len(seen) == groups == 1 and grad.dtype == dx.dtype:
                seen[0, :, 0].baddbmm_(*factors)
            else:
                seen += torch.bmm(*factors).view(seen.shape)
        for here, there, i in plan.kernel_rows(chunk):
            plan.by_row(dx)[there] += plan.unpadded(stack)[here, ..., i, :]
    return dx.to(grad.dtype)


def weight_gradient(
    x: Tensor,
    grad: Tensor,
    kernel_size: Sequence[int],
    dtype: torch.dtype,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient by the weights, (H_out, W_out, out, in / groups, kh, kw), from that by y."""
    dw = new_weight_gradient(x, grad, kernel_size, dtype, groups)
    plan = Plan(x, dw.shape, x.shape[2:], stride, padding, dilation, groups)
    kernels = plan.kernels(dw)
    for chunk, patches in plan.patches(x):
        cotangent, here = plan.by_position(grad)[chunk].flatten(0, 2), kernels[chunk].flatten(0, 2)
        if dtype == x.dtype:
            torch.bmm(cotangent.mT, patches, out=here)
        elif x.is_cuda and dtype == torch.float32:
            torch.bmm(cotangent.mT, patches, dtype, out=here)  # sums are not rounded
        else:
            torch.bmm(cotangent.mT.to(dtype), patches.to(dtype), out=here)
    return dw


def new_weight_gradient(x: Tensor, grad: Tensor, kernel_size: Sequence[int], dtype: torch.dtype, groups: int) -> Tensor:
    """Memory for the gradient by the weights."""
    return new_weight((*grad.shape[2:], grad.shape[1], x.shape[1] // groups, *kernel_size), dtype, x.device)


class Plan:
    """How a product goes over the rows of the output, and the views of the tensors that it needs.

    The *stack* of some rows of the output has, for each of them, the rows of the padded input that its positions see,
    one for every row of the kernel: (rows, batch, padded columns, groups, kh, in / groups). With one row and one group
    a patch is contiguous in it.

    Args:
        like: a tensor with the batch, the dtype and the device of all others.
        shape: of the weights.
        input_size: H and W.
    """

    def __init__(
        self,
        like: Tensor,
        shape: Sequence[int],
        input_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        self.like, self.batch, self.input_size = like, len(like), tuple(input_size)
        self.output_size, self.out_channels, self.channels = tuple(shape[:2]), shape[2], shape[3]
        self.kernel_size = tuple(shape[4:])
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def new_input(self, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for (batch, in, H, W)."""
        return self._new((self.batch, self.groups * self.channels, *self.input_size), dtype)

    def new_output(self) -> Tensor:
        """Memory for (batch, out, H_out, W_out)."""
        return self._new((self.batch, self.out_channels, *self.output_size))

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.like.dtype
        return torch.empty(shape, dtype=dtype, device=self.like.device, memory_format=torch.channels_last)

    def kernels(self, weight: Tensor) -> Tensor:
        """The weights as matrices: (H_out, W_out, groups, out / groups, kw kh in / groups)."""
        return physical(weight).contiguous().flatten(3).unflatten(2, (self.groups, -1))

    def by_position(self, y: Tensor) -> Tensor:
        """(batch, out, H_out, W_out) as (H_out, W_out, groups, batch, out / groups), without a copy."""
        return y.unflatten(1, (self.groups, -1)).permute(3, 4, 1, 0, 2)

    def by_row(self, x: Tensor) -> Tensor:
        """(batch, in, H, W) as (H, batch, W, groups, in / groups), without a copy."""
        return x.unflatten(1, (self.groups, -1)).permute(3, 0, 4, 1, 2)

    def stacks(self, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of the output at a time, with memory for their stack; it starts as zeros, and is used again."""
        rows, columns = self.output_size
        kh, kw = self.kernel_size
        row_bytes = self.batch * columns * self.groups * self.channels * kh * kw * like.element_size()
        several = min(rows, max(1, CHUNK_BYTES.get(like.device.type, CHUNK_BYTES["cuda"]) // max(1, row_bytes)))
        padded = self.padding[0] + self.input_size[1] + self.padding[1]
        memory = like.new_zeros(several, self.batch, padded, self.groups, kh, self.channels)
        for start in range(0, rows, several):
            chunk = slice(start, min(start + several, rows))
            yield chunk, memory[: chunk.stop - chunk.start]

    def patches(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of the output, and what their positions see: (rows W_out groups, batch, kw kh in / groups)."""
        x = x.contiguous(memory_format=torch.channels_last)
        for chunk, stack in self.stacks(x):
            for here, there, i in self.kernel_rows(chunk):
                stack[: here.start, ..., i, :] = 0
                self.unpadded(stack)[here, ..., i, :] = self.by_row(x)[there]
                stack[here.stop :, ..., i, :] = 0
            windows = stack.unfold(2, (self.kernel_size[1] - 1) * self.dilation[1] + 1, self.stride[1])
            windows = windows[:, :, : self.output_size[1], ..., :: self.dilation[1]]
            yield chunk, windows.permute(0, 2, 3, 1, 6, 4, 5).flatten(4).flatten(0, 2)

    def unpadded(self, stack: Tensor) -> Tensor:
        """The columns of a stack that are no padding."""
        return stack[:, :, self.padding[0] : self.padding[0] + self.input_size[1]]

    def kernel_rows(self, chunk: slice) -> Iterator[tuple[slice, slice, int]]:
        """For every row of the kernel: which rows of the chunk see a row of the input in it, which rows, its index."""
        stride, inputs = self.stride[0], self.input_size[0]
        for i in range(self.kernel_size[0]):
            offset = i * self.dilation[0] - self.padding[2]
            first = min(max(chunk.start, -(offset // stride)), chunk.stop)
            last = min(max(first, -((offset - inputs) // stride)), chunk.stop)
            there = slice(first * stride + offset, max(0, (last - 1) * stride + offset + 1), stride)
            yield slice(first - chunk.start, last - chunk.start), there if last > first else slice(0, 0), i

    def kernel_columns(self, stack: Tensor) -> Iterator[Tensor]:
        """For every column of the kernel, what positions see in it: (rows, W_out, groups, batch, kh in / groups)."""
        stride, columns = self.stride[1], self.output_size[1]
        for start in range(0, self.kernel_size[1] * self.dilation[1], self.dilation[1]):
            seen = stack[:, :, start : start + (columns - 1) * stride + 1 : stride]
            yield seen.permute(0, 2, 3, 1, 4, 5).flatten(4)
