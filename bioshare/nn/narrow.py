"""Locally connected products of groups with few channels, element by element: depthwise layers, and close to these.

Matrix products would have a tiny matrix for every position and group. Instead, for every tap of the kernel, the pixels
under all positions multiply the weights of the tap, with the groups as the contiguous axis. Sums of the half types run
in float32, as in `bioshare.nn.batched`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from bioshare.nn.plan import HALVES, ProductPlan

FEW_CHANNELS = 16
"""Largest product of a group's input and output channels for sums element by element."""


def fits(plan: ProductPlan) -> bool:
    """Return True where sums element by element are the faster form."""
    return plan.groups > 1 and plan.channels * plan.outputs <= FEW_CHANNELS


def forward(x: Tensor, weight: Tensor, plan: ProductPlan) -> Tensor:
    """Return y (batch, out, H_out, W_out), in the type of x."""
    padded, taps = _padded(x, plan), _taps(weight, plan).to(x.dtype).contiguous()
    sums = padded.new_zeros(plan.outputs, len(x), plan.rows, plan.columns, plan.groups)
    for o, c, j, i, pixels in _shifts(padded, plan):
        # y[h, w] += x[h sh + i dh - top, w sw + j dw - left] kernel[h, w, i, j]: (batch, rows, columns, groups)
        sums[o].addcmul_(pixels, taps[o, c, j, i].to(sums.dtype))
    y = plan.new_output(x)
    _groups_last(y, plan).copy_(sums)
    return y


def input_gradient(grad: Tensor, weight: Tensor, plan: ProductPlan) -> Tensor:
    """Return the gradient by x (batch, in, H, W) from the gradient by y, in the same type."""
    cotangents = _groups_last(_wide(grad), plan).contiguous()
    taps = _taps(weight, plan).to(grad.dtype).contiguous()
    padded = torch.zeros_like(_padded(plan.new_input(grad), plan))
    for o, c, j, i, pixels in _shifts(padded, plan):
        # dx[h sh + i dh - top, w sw + j dw - left] += dy[h, w] kernel[h, w, i, j]: (batch, rows, columns, groups)
        pixels.addcmul_(cotangents[o], taps[o, c, j, i].to(padded.dtype))
    dx, (left, right, top, bottom) = plan.new_input(grad), plan.padding
    _groups_last(dx, plan).copy_(pad(padded, (0, 0, -left, -right, -top, -bottom)))
    return dx


def weight_gradient(x: Tensor, grad: Tensor, plan: ProductPlan, dtype: torch.dtype) -> Tensor:
    """Return the gradient by the weights (H_out, W_out, out, in / groups, kh, kw), in their type, from x and dy."""
    cotangents, dw = _groups_last(_wide(grad), plan).contiguous(), plan.new_weight(dtype, x.device)
    taps = _taps(dw, plan)
    for o, c, j, i, pixels in _shifts(_padded(x, plan), plan):
        # d kernel[h, w, i, j] = sum over images of dy[h, w] x[h sh + i dh - top, w sw + j dw - left]
        taps[o, c, j, i] = (cotangents[o] * pixels).sum(0)
    return dw


def _wide(images: Tensor) -> Tensor:
    return images.to(torch.float32) if images.dtype in HALVES else images


def _groups_last(images: Tensor, plan: ProductPlan) -> Tensor:
    """View images (batch, groups n, H, W) as (n, batch, H, W, groups)."""
    return rearrange(images, "b (g n) h w -> n b h w g", g=plan.groups)


def _padded(x: Tensor, plan: ProductPlan) -> Tensor:
    """Return the padded input, (channels, batch, padded height, padded width, groups), in at least float32."""
    left, right, top, bottom = plan.padding
    return pad(_groups_last(_wide(x), plan), (0, 0, left, right, top, bottom)).contiguous()


def _taps(weight: Tensor, plan: ProductPlan) -> Tensor:
    """View weights by tap: (outputs, channels, kw, kh, H_out, W_out, groups)."""
    return rearrange(weight, "h w (g o) c i j -> o c j i h w g", g=plan.groups)


def _shifts(padded: Tensor, plan: ProductPlan) -> Iterator[tuple[int, int, int, int, Tensor]]:
    """Yield every output and input channel of a group, column j and row i of the kernel, and the pixels under them."""
    for o, c, j, i in product(*map(range, (plan.outputs, plan.channels, plan.kw, plan.kh))):
        rows = slice(i * plan.dh, i * plan.dh + (plan.rows - 1) * plan.sh + 1, plan.sh)
        columns = slice(j * plan.dw, j * plan.dw + (plan.columns - 1) * plan.sw + 1, plan.sw)
        yield o, c, j, i, padded[c, :, rows, columns]
