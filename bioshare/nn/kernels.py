"""The fused kernels of a locally connected layer, in Triton; `bioshare.nn.fused` launches them and says what they do.

Tensors lie as `bioshare.nn.batched` lays them out: images as (batch, rows, columns, channels), weights as
(H_out, W_out, out, kw, kh, in / groups), of which the last three are the axis of a patch. x is (batch, height, width,
GROUPS CHANNELS), y is (batch, rows, columns, GROUPS OUTPUTS). All kernels are matrix products whose two outer axes are
in blocks ``M`` and ``N``, and whose inner axis is walked in blocks ``K``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr, EMULATED: tl.constexpr):
    """The sum so far and a matrix product; b is rounded to a's type. The interpreter has no product of bfloat16."""
    b = b.to(a.dtype)
    if EMULATED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def seen_by(
    position,
    tap,
    height,
    width,
    columns,
    CHANNELS: tl.constexpr,
    KH: tl.constexpr,
    PATCH: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
):
    """The pixel of x that taps of a position's patch see, and whether there is such a tap and such a pixel."""
    row = position // columns * SH - TOP + tap // CHANNELS % KH * DH
    column = position % columns * SW - LEFT + tap // (CHANNELS * KH) * DW
    seen = (tap < PATCH) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row * width + column, seen


@triton.jit
def seeing(
    position,
    index,
    width,
    rows,
    columns,
    OUTPUTS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    NEXT_I: tl.constexpr,
    NEXT_J: tl.constexpr,
    NI: tl.constexpr,
):
    """The position of y that sees one of x, the row and column of the kernel by which it does, and whether it does."""
    bottom, right = position // width + TOP, position % width + LEFT
    i = bottom % NEXT_I + index // OUTPUTS % NI * NEXT_I
    j = right % NEXT_J + index // (OUTPUTS * NI) * NEXT_J
    below, beside = bottom - i * DH, right - j * DW
    row, column = below // SH, beside // SW
    seen = (i < KH) & (j < KW) & (below >= 0) & (beside >= 0) & (row < rows) & (column < columns)
    return row * columns + column, i, j, seen & (below % SH == 0) & (beside % SW == 0)


@triton.jit
def forward(
    x,
    weight,
    y,
    batch,
    height,
    width,
    rows,
    columns,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The product at one position, for M images and N output channels."""
    PATCH: tl.constexpr = KW * KH * CHANNELS
    PARTS: tl.constexpr = (OUTPUTS + N - 1) // N
    position, group = tl.program_id(0), tl.program_id(2) // PARTS
    image = tl.program_id(1) * M + tl.arange(0, M)
    output = tl.program_id(2) % PARTS * N + tl.arange(0, N)
    images = x + image.to(tl.int64)[:, None] * (height * width * GROUPS * CHANNELS) + group * CHANNELS
    kernels = weight + (position.to(tl.int64) * (GROUPS * OUTPUTS) + group * OUTPUTS + output)[None, :] * PATCH
    total = tl.zeros((M, N), SUM)
    for start in range(0, PATCH, K):
        tap = start + tl.arange(0, K)
        pixel, seen = seen_by(position, tap, height, width, columns, CHANNELS, KH, PATCH, SH, SW, DH, DW, TOP, LEFT)
        place = pixel * (GROUPS * CHANNELS) + tap % CHANNELS
        patch = tl.load(images + place[None, :], mask=(image < batch)[:, None] & seen[None, :], other=0.0)
        kernel = tl.load(kernels + tap[:, None], mask=(tap < PATCH)[:, None] & (output < OUTPUTS)[None, :], other=0.0)
        total = product(patch, kernel, total, PRECISION, EMULATED)
    place = (image.to(tl.int64) * (rows * columns) + position)[:, None] * (GROUPS * OUTPUTS)
    place += (group * OUTPUTS + output)[None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=(image < batch)[:, None] & (output < OUTPUTS)[None, :])


@triton.jit
def input_gradient(
    grad,
    weight,
    dx,
    batch,
    height,
    width,
    rows,
    columns,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The gradient at one position of x, for M images and N input channels."""
    # outputs see a position of x through every tap, or without dilation through every stride-th: (NI x NJ) of them
    NEXT_I: tl.constexpr = SH if DH == 1 else 1  # pyright: ignore[reportAssignmentType]
    NEXT_J: tl.constexpr = SW if DW == 1 else 1  # pyright: ignore[reportAssignmentType]
    NI: tl.constexpr = (KH + NEXT_I - 1) // NEXT_I
    NJ: tl.constexpr = (KW + NEXT_J - 1) // NEXT_J
    PARTS: tl.constexpr = (CHANNELS + N - 1) // N
    position, group = tl.program_id(0), tl.program_id(2) // PARTS
    image = tl.program_id(1) * M + tl.arange(0, M)
    channel = tl.program_id(2) % PARTS * N + tl.arange(0, N)
    images = grad + image.to(tl.int64)[:, None] * (rows * columns * GROUPS * OUTPUTS) + group * OUTPUTS
    total = tl.zeros((M, N), SUM)
    for start in range(0, NI * NJ * OUTPUTS, K):
        index = start + tl.arange(0, K)
        place, i, j, seen = seeing(
            position, index, width, rows, columns, OUTPUTS, KH, KW, SH, SW, DH, DW, TOP, LEFT, NEXT_I, NEXT_J, NI
        )
        output = index % OUTPUTS
        cotangent = tl.load(
            images + (place * (GROUPS * OUTPUTS) + output)[None, :],
            mask=(image < batch)[:, None] & seen[None, :],
            other=0.0,
        )
        taps = (place.to(tl.int64) * (GROUPS * OUTPUTS) + group * OUTPUTS + output) * KW + j
        kernel = tl.load(
            weight + ((taps * KH + i) * CHANNELS)[:, None] + channel[None, :],
            mask=seen[:, None] & (channel < CHANNELS)[None, :],
            other=0.0,
        )
        total = product(cotangent, kernel, total, PRECISION, EMULATED)
    place = (image.to(tl.int64) * (height * width) + position)[:, None] * (GROUPS * CHANNELS)
    place += (group * CHANNELS + channel)[None, :]
    tl.store(dx + place, total.to(dx.dtype.element_ty), mask=(image < batch)[:, None] & (channel < CHANNELS)[None, :])


@triton.jit
def weight_gradient(
    x,
    grad,
    dw,
    batch,
    height,
    width,
    rows,
    columns,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The gradient of M elements of the patch at one position, for N output channels."""
    PATCH: tl.constexpr = KW * KH * CHANNELS
    PARTS: tl.constexpr = (OUTPUTS + N - 1) // N
    position, group = tl.program_id(0), tl.program_id(2) // PARTS
    tap = tl.program_id(1) * M + tl.arange(0, M)
    pixel, seen = seen_by(position, tap, height, width, columns, CHANNELS, KH, PATCH, SH, SW, DH, DW, TOP, LEFT)  # pyright: ignore[reportGeneralTypeIssues]
    output = tl.program_id(2) % PARTS * N + tl.arange(0, N)
    patches = x + (pixel * (GROUPS * CHANNELS) + group * CHANNELS + tap % CHANNELS)[:, None]
    cotangents = grad + (position * (GROUPS * OUTPUTS) + group * OUTPUTS + output)[None, :]
    total = tl.zeros((M, N), SUM)
    for start in range(0, batch, K):
        image = (start + tl.arange(0, K)).to(tl.int64)
        patch = tl.load(
            patches + (image * (height * width * GROUPS * CHANNELS))[None, :],
            mask=seen[:, None] & (image < batch)[None, :],
            other=0.0,
        )
        cotangent = tl.load(
            cotangents + (image * (rows * columns * GROUPS * OUTPUTS))[:, None],
            mask=(image < batch)[:, None] & (output < OUTPUTS)[None, :],
            other=0.0,
        )
        total = product(patch, cotangent, total, PRECISION, EMULATED)
    place = (position.to(tl.int64) * (GROUPS * OUTPUTS) + group * OUTPUTS + output)[None, :] * PATCH + tap[:, None]
    tl.store(dw + place, total.to(dw.dtype.element_ty), mask=(tap < PATCH)[:, None] & (output < OUTPUTS)[None, :])
