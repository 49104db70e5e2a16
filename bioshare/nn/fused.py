"""Locally connected products as fused GPU kernels, in Triton.

Each program of a kernel forms the patches on the fly, in registers: only x, the weights and the output move. A program
sums whole elements of its output (over the taps for the product, over the taps and positions that see a pixel for the
input gradient, over the batch for the weight gradient), without atomics, so that results repeat to the bit. Sums run in
float32, or float64 for float64.

Weights may be float32 where the images are float16 or bfloat16, as in `bioshare.nn.batched`. With TRITON_INTERPRET=1,
as in the tests, the kernels run on the CPU, slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.knobs
import triton.language as tl
from torch import Tensor

from bioshare.nn import kernels
from bioshare.nn.plan import ProductPlan, physical

LEAST = 16
"""Smallest length of a block: the matrix units take no less."""


@dataclass(frozen=True)
class Tiles:
    """The largest blocks of a kernel, and the resources of a program; small products have smaller blocks.

    Attributes:
        m, n, k: blocks of the two outer axes, the second of them channels, and of the inner axis.
        warps: number of groups of 32 threads.
        stages: number of loads ahead of the products.
    """

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 3

    def of(self, m: int, n: int, k: int) -> dict[str, int]:
        """Return the blocks for axes of these lengths, and the options of a launch."""
        sizes = zip("MNK", (self.m, self.n, self.k), (m, n, k), strict=True)
        blocks = {name: min(most, max(LEAST, 1 << (size - 1).bit_length())) for name, most, size in sizes}
        return blocks | {"num_warps": self.warps, "num_stages": self.stages}


TILES = (Tiles(128, 64, 32), Tiles(64, 64, 64))
"""Candidates for trial: long and flat, or square."""


def forward(x: Tensor, weight: Tensor, plan: ProductPlan, tiles: Tiles = TILES[0]) -> Tensor:
    """Return y. A program has one position, ``M`` images and ``N`` output channels; the inner axis is the patch."""
    x, weight, y = _channels_last(x), physical(weight).contiguous(), plan.new_output(x)
    lengths = len(x), plan.outputs, plan.patch
    _launch(kernels.forward, (x, weight, y), plan, plan.rows * plan.columns, lengths, tiles)
    return y


def input_gradient(grad: Tensor, weight: Tensor, plan: ProductPlan, tiles: Tiles = TILES[0]) -> Tensor:
    """Return the gradient by x from the gradient by y.

    A program has one pixel of x, ``M`` images and ``N`` input channels; the inner axis has the taps through which
    positions see the pixel, times the output channels.
    """
    grad, weight, dx = _channels_last(grad), physical(weight).contiguous(), plan.new_input(grad)
    lengths = len(grad), plan.channels, plan.outputs * plan.kh
    _launch(kernels.input_gradient, (grad, weight, dx), plan, plan.height * plan.width, lengths, tiles)
    return dx


def weight_gradient(x: Tensor, grad: Tensor, plan: ProductPlan, dtype: torch.dtype, tiles: Tiles = TILES[1]) -> Tensor:
    """Return the gradient by the weights, in their type, from x and the gradient by y.

    A program has one position, ``M`` elements of its patch and ``N`` output channels; the inner axis is the batch.
    """
    x, grad, dw = _channels_last(x), _channels_last(grad), plan.new_weight(dtype, x.device)
    lengths = plan.patch, plan.outputs, len(x)
    _launch(kernels.weight_gradient, (x, grad, dw), plan, plan.rows * plan.columns, lengths, tiles)
    return dw


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, Tensor, Tensor],
    plan: ProductPlan,
    places: int,
    lengths: tuple[int, int, int],
    tiles: Tiles,
) -> None:
    """Start a program for every place, block of the outer axis M, and group and block of N, if there is any output."""
    images, _, output = tensors
    if not output.numel():
        return
    blocks, double = tiles.of(*lengths), images.dtype == torch.float64
    m, n, _ = lengths
    kernel[places, triton.cdiv(m, blocks["M"]), plan.groups * triton.cdiv(n, blocks["N"])](
        *tensors,
        len(images),
        PLAN=plan,
        SUM=tl.float64 if double else tl.float32,
        PRECISION="ieee" if double or torch.get_float32_matmul_precision() == "highest" else "tf32",
        EMULATED=triton.knobs.runtime.interpret and images.dtype == torch.bfloat16,
        **blocks,
    )
