"""Fused kernels of a locally connected layer, in Triton; `bioshare.nn.fused` launches and describes them.

Images lie in memory as (batch, rows, columns, channels), weights as (H_out, W_out, out, kw, kh, in / groups), of which
the last three are the axis of a patch. All kernels are matrix products whose two outer axes are in blocks ``M`` and
``N``, and whose inner axis is summed in blocks ``K``. ``PLAN`` is a `bioshare.nn.batched.ProductPlan`, a constant of
the compiled kernel.
"""

# pyright: reportAttributeAccessIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply_add(a, b, total, PRECISION: tl.constexpr, EMULATED: tl.constexpr):
    """Return total + a @ b, with b rounded to the type of a. The interpreter has no product of bfloat16."""
    b = b.to(a.dtype)
    if EMULATED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def pixel_under(position, tap, PLAN: tl.constexpr):
    """Return the pixel of x under taps of the patch at a position, and whether tap and pixel exist."""
    row = position // PLAN.columns * PLAN.sh - PLAN.top + tap // PLAN.channels % PLAN.kh * PLAN.dh
    column = position % PLAN.columns * PLAN.sw - PLAN.left + tap // (PLAN.channels * PLAN.kh) * PLAN.dw
    inside = (row >= 0) & (row < PLAN.height) & (column >= 0) & (column < PLAN.width)
    return row * PLAN.width + column, (tap < PLAN.patch) & inside


@triton.jit
def position_over(pixel, index, PLAN: tl.constexpr, STEP_I: tl.constexpr, STEP_J: tl.constexpr, NI: tl.constexpr):
    """Return the position whose patch has a pixel of x at (i, j), then i and j, and whether this position exists."""
    bottom, right = pixel // PLAN.width + PLAN.top, pixel % PLAN.width + PLAN.left
    i = bottom % STEP_I + index // PLAN.outputs % NI * STEP_I
    j = right % STEP_J + index // (PLAN.outputs * NI) * STEP_J
    # h sh + i dh = bottom and w sw + j dw = right, solved for (h, w)
    below, beside = bottom - i * PLAN.dh, right - j * PLAN.dw
    row, column = below // PLAN.sh, beside // PLAN.sw
    inside = (i < PLAN.kh) & (j < PLAN.kw) & (below >= 0) & (beside >= 0) & (row < PLAN.rows) & (column < PLAN.columns)
    return row * PLAN.columns + column, i, j, inside & (below % PLAN.sh == 0) & (beside % PLAN.sw == 0)


@triton.jit
def forward(
    x,
    weight,
    y,
    batch,
    PLAN: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Write y at one position, for M images and N output channels."""
    IN: tl.constexpr = PLAN.groups * PLAN.channels
    OUT: tl.constexpr = PLAN.groups * PLAN.outputs
    PARTS: tl.constexpr = (PLAN.outputs + N - 1) // N
    position, group = tl.program_id(0), tl.program_id(2) // PARTS
    image = tl.program_id(1) * M + tl.arange(0, M)
    output = tl.program_id(2) % PARTS * N + tl.arange(0, N)
    # the first elements of the group in every image (M, 1), and of every kernel (1, N)
    images = x + image.to(tl.int64)[:, None] * (PLAN.height * PLAN.width * IN) + group * PLAN.channels
    kernels = weight + (position.to(tl.int64) * OUT + group * PLAN.outputs + output)[None, :] * PLAN.patch
    total = tl.zeros((M, N), SUM)
    for start in range(0, PLAN.patch, K):
        # patch[h, w] (M, K), and kernel[h, w].T (K, N)
        tap = start + tl.arange(0, K)
        pixel, inside = pixel_under(position, tap, PLAN)
        offset = pixel * IN + tap % PLAN.channels
        patch = tl.load(images + offset[None, :], mask=(image < batch)[:, None] & inside[None, :], other=0.0)
        exists = (tap < PLAN.patch)[:, None] & (output < PLAN.outputs)[None, :]
        kernel = tl.load(kernels + tap[:, None], mask=exists, other=0.0)
        total = multiply_add(patch, kernel, total, PRECISION, EMULATED)
    offset = (image.to(tl.int64) * (PLAN.rows * PLAN.columns) + position)[:, None] * OUT
    offset += (group * PLAN.outputs + output)[None, :]
    exists = (image < batch)[:, None] & (output < PLAN.outputs)[None, :]
    tl.store(y + offset, total.to(y.dtype.element_ty), mask=exists)


@triton.jit
def input_gradient(
    grad,
    weight,
    dx,
    batch,
    PLAN: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Write the gradient at one pixel of x, for M images and N input channels."""
    IN: tl.constexpr = PLAN.groups * PLAN.channels
    OUT: tl.constexpr = PLAN.groups * PLAN.outputs
    # positions see a pixel through every tap, or without dilation through every stride-th: (NI x NJ) taps
    STEP_I: tl.constexpr = PLAN.sh if PLAN.dh == 1 else 1
    STEP_J: tl.constexpr = PLAN.sw if PLAN.dw == 1 else 1
    NI: tl.constexpr = (PLAN.kh + STEP_I - 1) // STEP_I
    NJ: tl.constexpr = (PLAN.kw + STEP_J - 1) // STEP_J
    PARTS: tl.constexpr = (PLAN.channels + N - 1) // N
    pixel, group = tl.program_id(0), tl.program_id(2) // PARTS
    image = tl.program_id(1) * M + tl.arange(0, M)
    channel = tl.program_id(2) % PARTS * N + tl.arange(0, N)
    # the first element of the group in every image: (M, 1)
    images = grad + image.to(tl.int64)[:, None] * (PLAN.rows * PLAN.columns * OUT) + group * PLAN.outputs
    total = tl.zeros((M, N), SUM)
    for start in range(0, NI * NJ * PLAN.outputs, K):
        # dy[h, w] (M, K) and kernel[h, w, :, :, i, j] (K, N), over positions and output channels
        index = start + tl.arange(0, K)
        position, i, j, inside = position_over(pixel, index, PLAN, STEP_I, STEP_J, NI)
        output = index % PLAN.outputs
        offset = (position * OUT + output)[None, :]
        cotangent = tl.load(images + offset, mask=(image < batch)[:, None] & inside[None, :], other=0.0)
        taps = ((position.to(tl.int64) * OUT + group * PLAN.outputs + output) * PLAN.kw + j) * PLAN.kh + i
        offset = (taps * PLAN.channels)[:, None] + channel[None, :]
        kernel = tl.load(weight + offset, mask=inside[:, None] & (channel < PLAN.channels)[None, :], other=0.0)
        total = multiply_add(cotangent, kernel, total, PRECISION, EMULATED)
    offset = (image.to(tl.int64) * (PLAN.height * PLAN.width) + pixel)[:, None] * IN
    offset += (group * PLAN.channels + channel)[None, :]
    exists = (image < batch)[:, None] & (channel < PLAN.channels)[None, :]
    tl.store(dx + offset, total.to(dx.dtype.element_ty), mask=exists)


@triton.jit
def weight_gradient(
    x,
    grad,
    dw,
    batch,
    PLAN: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Write the gradient of M elements of the patch at one position, for N output channels."""
    IN: tl.constexpr = PLAN.groups * PLAN.channels
    OUT: tl.constexpr = PLAN.groups * PLAN.outputs
    PARTS: tl.constexpr = (PLAN.outputs + N - 1) // N
    position, group = tl.program_id(0), tl.program_id(2) // PARTS
    tap = tl.program_id(1) * M + tl.arange(0, M)
    pixel, inside = pixel_under(position, tap, PLAN)
    output = tl.program_id(2) % PARTS * N + tl.arange(0, N)
    # elements of the first image: of the patch (M, 1), and of dy[h, w] (1, N)
    patches = x + (pixel * IN + group * PLAN.channels + tap % PLAN.channels)[:, None]
    cotangents = grad + (position * OUT + group * PLAN.outputs + output)[None, :]
    total = tl.zeros((M, N), SUM)
    for start in range(0, batch, K):
        # patch[h, w].T (M, K) and dy[h, w] (K, N), over images
        image = (start + tl.arange(0, K)).to(tl.int64)
        offset = (image * (PLAN.height * PLAN.width * IN))[None, :]
        patch = tl.load(patches + offset, mask=inside[:, None] & (image < batch)[None, :], other=0.0)
        offset = (image * (PLAN.rows * PLAN.columns * OUT))[:, None]
        exists = (image < batch)[:, None] & (output < PLAN.outputs)[None, :]
        cotangent = tl.load(cotangents + offset, mask=exists, other=0.0)
        total = multiply_add(patch, cotangent, total, PRECISION, EMULATED)
    row = (position.to(tl.int64) * OUT + group * PLAN.outputs + output)[None, :]
    exists = (tap < PLAN.patch)[:, None] & (output < PLAN.outputs)[None, :]
    tl.store(dw + (row * PLAN.patch + tap[:, None]), total.to(dw.dtype.element_ty), mask=exists)
