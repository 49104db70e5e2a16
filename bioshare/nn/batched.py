"""Locally connected products: their sizes, and the products in batches, over some rows of the output at a time.

Patches exist for some rows of the output only. On a CPU even a row's patches are not copied: with the kernel's rows
stacked next to the channels, neighbouring patches overlap in memory, and one batched matrix product reads them in
place. The input gradient runs backwards, one column of the kernel after another, since patches of one column do not
overlap.

Groups with few channels would make tiny matrices; `bioshare.nn.narrow` has their products.

Weights may be float32 where the images are float16 or bfloat16: each product rounds the weights on use, and the weight
gradient stays in float32. All images are (batch, channels, rows, columns), all weights (H_out, W_out, out, in / groups,
kh, kw).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor

from bioshare.nn import narrow
from bioshare.nn.plan import HALVES as HALVES
from bioshare.nn.plan import ProductPlan as ProductPlan
from bioshare.nn.plan import new_weight as new_weight
from bioshare.nn.plan import physical as physical

CHUNK_BYTES = {"cpu": 2**18, "cuda": 2**28}
"""Size of the patches in memory at a time, at least one row of the output."""


def forward(x: Tensor, weight: Tensor, plan: Sequence[int]) -> Tensor:
    """Return y (batch, out, H_out, W_out), the kernels applied to the patches of x, in the type of x."""
    plan = ProductPlan(*plan)
    if narrow.fits(plan):
        return narrow.forward(x, weight, plan)
    kernels, y = _kernel_matrices(weight, plan), plan.new_output(x)
    outputs = rearrange(y, "b (g o) h w -> h w g b o", g=plan.groups)
    for chunk, patches in _patches(x, plan):
        # y[h, w] = patch[h, w] @ kernel[h, w].T: (positions groups, batch, outputs)
        product = torch.bmm(patches, kernels[chunk].flatten(0, 2).mT.to(x.dtype))
        outputs[chunk] = product.unflatten(0, (-1, plan.columns, plan.groups))
    return y


def input_gradient(grad: Tensor, weight: Tensor, plan: Sequence[int]) -> Tensor:
    """Return the gradient by x (batch, in, H, W) from the gradient by y, in the same type."""
    plan = ProductPlan(*plan)
    if narrow.fits(plan):
        return narrow.input_gradient(grad, weight, plan)
    # one matrix for each column j of the kernel: (H_out, W_out, groups, outputs, kw, kh channels)
    kernels = _kernel_matrices(weight, plan).unflatten(-1, (plan.kw, -1))
    dx = plan.new_input(grad, torch.float32 if grad.dtype in HALVES else grad.dtype).zero_()
    cotangents = rearrange(grad, "b (g o) h w -> h w g b o", g=plan.groups)
    rows = rearrange(dx, "b (g c) h w -> h b w g c", g=plan.groups)
    unpadded = slice(plan.left, plan.left + plan.width)
    for chunk, stack in _stacks(dx, plan):
        stack.zero_()
        # dy[h, w]: (positions groups, batch, outputs)
        cotangent = cotangents[chunk].flatten(0, 2)
        for j in range(plan.kw):
            # d patch[h, w, j] = dy[h, w] @ kernel[h, w, j]: (rows, columns, groups, batch, kh channels), added in place
            last = j * plan.dw + (plan.columns - 1) * plan.sw
            pixels = stack[:, :, j * plan.dw : last + 1 : plan.sw].permute(0, 2, 3, 1, 4, 5).flatten(4)
            factors = cotangent, kernels[chunk, ..., j, :].flatten(0, 2).to(grad.dtype)
            if len(pixels) == plan.groups == 1 and grad.dtype == dx.dtype:
                pixels[0, :, 0].baddbmm_(*factors)
            else:
                pixels += torch.bmm(*factors).view(pixels.shape)
        for inside, seen, i in _kernel_rows(chunk, plan):
            # dx[h sh + i dh - top] += d stack[h, i]: (rows, batch, width, groups, channels)
            rows[seen] += stack[inside, :, unpadded, :, i]
    return dx.to(grad.dtype)


def weight_gradient(x: Tensor, grad: Tensor, plan: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the gradient by the weights (H_out, W_out, out, in / groups, kh, kw), in their type, from x and dy."""
    plan = ProductPlan(*plan)
    if narrow.fits(plan):
        return narrow.weight_gradient(x, grad, plan, dtype)
    dw = plan.new_weight(dtype, x.device)
    kernels, cotangents = _kernel_matrices(dw, plan), rearrange(grad, "b (g o) h w -> h w g b o", g=plan.groups)
    for chunk, patches in _patches(x, plan):
        # d kernel[h, w] = dy[h, w].T @ patch[h, w]: (positions groups, outputs, kw kh channels), written into dw
        cotangent, out = cotangents[chunk].flatten(0, 2), kernels[chunk].flatten(0, 2)
        if dtype == x.dtype:
            torch.bmm(cotangent.mT, patches, out=out)
        elif x.is_cuda and dtype == torch.float32:
            torch.bmm(cotangent.mT, patches, dtype, out=out)  # without rounding of the sums
        else:
            torch.bmm(cotangent.mT.to(dtype), patches.to(dtype), out=out)
    return dw


def _kernel_matrices(weight: Tensor, plan: ProductPlan) -> Tensor:
    """View weights as matrices: (H_out, W_out, groups, outputs, kw kh channels)."""
    return rearrange(physical(weight).contiguous(), "h w (g o) j i c -> h w g o (j i c)", g=plan.groups)


def _stacks(x: Tensor, plan: ProductPlan) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of the output at a time, with memory for their stack: zeros at first, then the last stack.

    A stack holds the input's row under every row of the kernel: (rows, batch, padded width, groups, kh, channels). With
    one row and one group, a patch is contiguous in the stack.
    """
    row_bytes = len(x) * plan.columns * plan.groups * plan.patch * x.element_size()
    several = min(plan.rows, max(1, CHUNK_BYTES.get(x.device.type, CHUNK_BYTES["cuda"]) // max(1, row_bytes)))
    memory = x.new_zeros(several, len(x), plan.left + plan.width + plan.right, plan.groups, plan.kh, plan.channels)
    for start in range(0, plan.rows, several):
        chunk = slice(start, min(start + several, plan.rows))
        yield chunk, memory[: chunk.stop - chunk.start]


def _patches(x: Tensor, plan: ProductPlan) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of the output at a time, with the patches: (positions groups, batch, kw kh channels)."""
    rows = rearrange(x.contiguous(memory_format=torch.channels_last), "b (g c) h w -> h b w g c", g=plan.groups)
    unpadded = slice(plan.left, plan.left + plan.width)
    for chunk, stack in _stacks(x, plan):
        for inside, seen, i in _kernel_rows(chunk, plan):
            # stack[h, i] = x[h sh + i dh - top], or 0 outside x: (rows, batch, width, groups, channels)
            stack[: inside.start, ..., i, :] = 0
            stack[inside, :, unpadded, :, i] = rows[seen]
            stack[inside.stop :, ..., i, :] = 0
        # patch[h, w, j] = stack[h, w sw + j dw]: (rows, batch, columns, groups, kh, channels, kw)
        windows = stack.unfold(2, (plan.kw - 1) * plan.dw + 1, plan.sw)[:, :, : plan.columns, ..., :: plan.dw]
        yield chunk, rearrange(windows, "h b w g i c j -> (h w g) b (j i c)")


def _kernel_rows(chunk: slice, plan: ProductPlan) -> Iterator[tuple[slice, slice, int]]:
    """Yield, for row i of the kernel, the chunk's rows inside the input, the input's rows under them, and i."""
    for i in range(plan.kh):
        offset = i * plan.dh - plan.top
        first = min(max(chunk.start, -(offset // plan.sh)), chunk.stop)
        last = min(max(first, -((offset - plan.height) // plan.sh)), chunk.stop)
        seen = slice(first * plan.sh + offset, max(0, (last - 1) * plan.sh + offset + 1), plan.sh)
        yield slice(first - chunk.start, last - chunk.start), seen if last > first else slice(0, 0), i
