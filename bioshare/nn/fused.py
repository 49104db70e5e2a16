"""The products of a locally connected layer as fused GPU kernels, in Triton.

Patches are formed on the fly, in the registers of the program that uses them: nothing is unfolded in memory, and what
moves is x, the weights and the output. Every program sums a whole element of its output (over the taps for the product,
over the taps and positions that see it for the input gradient, over the batch for the weight gradient), so that there
are no atomics and results repeat to the bit. Sums run in float32, or float64 for float64.

Weights may be float32 where the rest is float16 or bfloat16, as in `bioshare.nn.batched`. With TRITON_INTERPRET=1 the
kernels run on the CPU, slowly: that is how they are tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.knobs
import triton.language as tl
from torch import Tensor

from bioshare.nn import kernels
from bioshare.nn.batched import Plan, new_weight_gradient
from bioshare.nn.layout import physical

LEAST = 16
"""Of a block in any direction: what the matrix units take."""


@dataclass(frozen=True)
class Tiles:
    """The largest blocks of a kernel, and what a program of it gets; small products have smaller ones.

    Attributes:
        m, n, k: blocks of the outer axes, the second of them channels, and of the inner one.
        warps: of 32 threads.
        stages: how far loads run ahead of products.
    """

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 3

    def of(self, m: int, n: int, k: int) -> dict[str, int]:
        """The blocks for axes of these lengths, and the options of a launch."""
        sizes = zip("MNK", (self.m, self.n, self.k), (m, n, k), strict=True)
        blocks = {name: min(most, max(LEAST, _power_of_2(size))) for name, most, size in sizes}
        return blocks | {"num_warps": self.warps, "num_stages": self.stages}


TILES = (Tiles(128, 64, 32), Tiles(64, 64, 64))
"""To be chosen from by trying: long and flat, or square."""


def forward(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    tiles: Tiles = TILES[0],
) -> Tensor:
    """The product itself: (batch, out, H_out, W_out).

    A program has one position, ``M`` images of the batch and ``N`` output channels; the inner axis is the patch.
    """
    plan = Plan(x, weight.shape, x.shape[2:], stride, padding, dilation, groups)
    x, weight, y = _channels_last(x), physical(weight).contiguous(), plan.new_output()
    outputs = plan.out_channels // groups
    blocks = tiles.of(plan.batch, outputs, weight[0, 0, 0].numel())
    grid = weight.shape[0] * weight.shape[1], _blocks(plan.batch, blocks["M"]), groups * _blocks(outputs, blocks["N"])
    _launch(kernels.forward, grid, y, (x, weight, y), plan, blocks)
    return y


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    tiles: Tiles = TILES[0],
) -> Tensor:
    """The transposed product: the gradient by x, (batch, in, H, W), from that by y.

    A program has one position of x, ``M`` images and ``N`` input channels; the inner axis has the taps through which
    outputs see that position, times their channels.
    """
    plan = Plan(grad, weight.shape, input_size, stride, padding, dilation, groups)
    grad, weight, dx = _channels_last(grad), physical(weight).contiguous(), plan.new_input()
    blocks = tiles.of(plan.batch, plan.channels, plan.out_channels // groups * plan.kernel_size[0])
    positions = plan.input_size[0] * plan.input_size[1]
    grid = positions, _blocks(plan.batch, blocks["M"]), groups * _blocks(plan.channels, blocks["N"])
    _launch(kernels.input_gradient, grid, dx, (grad, weight, dx), plan, blocks)
    return dx


def weight_gradient(
    x: Tensor,
    grad: Tensor,
    kernel_size: Sequence[int],
    dtype: torch.dtype,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    tiles: Tiles = TILES[1],
) -> Tensor:
    """The gradient by the weights, (H_out, W_out, out, in / groups, kh, kw), from that by y.

    A program has one position, ``M`` elements of its patch and ``N`` output channels; the inner axis is the batch.
    """
    dw = new_weight_gradient(x, grad, kernel_size, dtype, groups)
    plan = Plan(x, dw.shape, x.shape[2:], stride, padding, dilation, groups)
    x, grad, patch, outputs = _channels_last(x), _channels_last(grad), dw[0, 0, 0].numel(), plan.out_channels // groups
    blocks = tiles.of(patch, outputs, plan.batch)
    grid = dw.shape[0] * dw.shape[1], _blocks(patch, blocks["M"]), groups * _blocks(outputs, blocks["N"])
    _launch(kernels.weight_gradient, grid, dw, (x, grad, dw), plan, blocks)
    return dw


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _power_of_2(size: int) -> int:
    """The smallest that isn't below a size."""
    return 1 << max(0, size - 1).bit_length()


def _blocks(length: int, block: int) -> int:
    return -(-length // block)


def _launch(
    kernel: Any, grid: tuple[int, int, int], output: Tensor, tensors: tuple[Tensor, ...], plan: Plan, blocks: dict
) -> None:
    """Start a kernel, if it has anything to write."""
    if not output.numel():
        return
    double = plan.like.dtype == torch.float64
    kernel[grid](
        *tensors,
        plan.batch,
        *plan.input_size,
        *plan.output_size,
        GROUPS=plan.groups,
        CHANNELS=plan.channels,
        OUTPUTS=plan.out_channels // plan.groups,
        KH=plan.kernel_size[0],
        KW=plan.kernel_size[1],
        SH=plan.stride[0],
        SW=plan.stride[1],
        DH=plan.dilation[0],
        DW=plan.dilation[1],
        TOP=plan.padding[2],
        LEFT=plan.padding[0],
        SUM=tl.float64 if double else tl.float32,
        PRECISION="ieee" if double or torch.get_float32_matmul_precision() == "highest" else "tf32",
        EMULATED=triton.knobs.runtime.interpret and plan.like.dtype == torch.bfloat16,
        **blocks,
    )
