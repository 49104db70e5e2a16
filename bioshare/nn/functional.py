"""The locally connected product and its derivatives.

y[b, o, h, w] = sum over c, i, j of weight[h, w, o, c, i, j] x[b, c, h s + i d - p, w s + j d - p] is trilinear in y's
cotangent, x and the weights. Its three products (`forward`, `input_gradient`, `weight_gradient`) are each other's
derivatives, so that derivatives of any order exist (by torch.autograd; the transforms of torch.func would need more).
Nothing but x and the weights is kept for them. Each product has two forms: batched matrix products on any device
(`bioshare.nn.batched`), and fused kernels on a GPU (`bioshare.nn.fused`); `bioshare.nn.forms` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bioshare.nn import batched, forms
from bioshare.nn.forms import prefer as prefer
from bioshare.nn.layout import logical as logical
from bioshare.nn.layout import new_weight as new_weight
from bioshare.nn.layout import physical as physical


def locally_connected2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Apply the kernel ``weight[h, w]`` to the patch that a convolution sees at (h, w).

    Under autocast, x is cast as a convolution's would be, and weights in float32 are rounded as they are used; the sums
    of their gradient are not. Sums run in float32 for the half types.

    Args:
        x: (batch, in, H, W); fastest in torch's channels_last memory format, in which the result comes.
        weight: (H_out, W_out, out, in / groups, kh, kw); fastest as `physical` lays it out.
        bias: (out, H_out, W_out), or None.
        stride, dilation: for rows and columns.
        padding: zeros to the left, right, top and bottom, as in `torch.nn.functional.pad`.
        groups: blocks of input channels that feed separate blocks of output channels.

    Returns:
        (batch, out, H_out, W_out).

    Raises:
        TypeError: x and the weights have different types, and autocast is off.
    """
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = (t if t.dtype in kept else t.to(dtype) for t, kept in ((x, DOUBLE), (weight, WIDE)))
    elif x.dtype != weight.dtype:
        raise TypeError(f"x must have the weights' type {weight.dtype}; got {x.dtype}. Convert one, or use autocast")
    y = forward(x, weight, stride, padding, dilation, groups)
    return y if bias is None else y + bias.to(y.dtype)


DOUBLE = (torch.float64,)
"""What autocast leaves alone."""

WIDE = (torch.float32, *DOUBLE)
"""What the products round by themselves."""


@torch.library.custom_op("bioshare::locally_connected2d", mutates_args=())
def forward(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """The product itself: (batch, out, H_out, W_out), in x's type."""
    return batched.forward(x, weight, stride, padding, dilation, groups)


@torch.library.custom_op("bioshare::locally_connected2d_input_gradient", mutates_args=())
def input_gradient(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The transposed product: the gradient by x, (batch, in, H, W), from that by y and in its type."""
    return batched.input_gradient(grad, weight, input_size, stride, padding, dilation, groups)


@torch.library.custom_op("bioshare::locally_connected2d_weight_gradient", mutates_args=())
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
    """The gradient by the weights, (H_out, W_out, out, in / groups, kh, kw), from that by y, in the weights' type."""
    return batched.weight_gradient(x, grad, kernel_size, dtype, stride, padding, dilation, groups)


forward.register_kernel("cuda")(forms.chosen("forward"))
input_gradient.register_kernel("cuda")(forms.chosen("input_gradient"))
weight_gradient.register_kernel("cuda")(forms.chosen("weight_gradient"))


@forward.register_fake
def _(x, weight, stride, padding, dilation, groups):
    return batched.Plan(x, weight.shape, x.shape[2:], stride, padding, dilation, groups).new_output()


@input_gradient.register_fake
def _(grad, weight, input_size, stride, padding, dilation, groups):
    return batched.Plan(grad, weight.shape, input_size, stride, padding, dilation, groups).new_input()


@weight_gradient.register_fake
def _(x, grad, kernel_size, dtype, stride, padding, dilation, groups):
    return batched.new_weight_gradient(x, grad, kernel_size, dtype, groups)


def _setup(ctx, inputs, output):
    """Keep the two factors and the geometry; what only a derivative needs is taken from their shapes."""
    first, second, *_ = inputs
    ctx.save_for_backward(first, second)
    ctx.geometry = inputs[-4:]


def _forward_backward(ctx, dy):
    x, weight = ctx.saved_tensors
    by_x, by_weight, *_ = ctx.needs_input_grad
    dx = input_gradient(dy, weight, x.shape[2:], *ctx.geometry) if by_x else None
    dw = weight_gradient(x, dy, weight.shape[4:], weight.dtype, *ctx.geometry) if by_weight else None
    return dx, dw, None, None, None, None


def _input_gradient_backward(ctx, ddx):
    grad, weight = ctx.saved_tensors
    by_grad, by_weight, *_ = ctx.needs_input_grad
    dgrad = forward(ddx, weight, *ctx.geometry) if by_grad else None
    dw = weight_gradient(ddx, grad, weight.shape[4:], weight.dtype, *ctx.geometry) if by_weight else None
    return dgrad, dw, None, None, None, None, None


def _weight_gradient_backward(ctx, ddw):
    x, grad = ctx.saved_tensors
    by_x, by_grad, *_ = ctx.needs_input_grad
    dx = input_gradient(grad, ddw, x.shape[2:], *ctx.geometry) if by_x else None
    dgrad = forward(x, ddw, *ctx.geometry) if by_grad else None
    return dx, dgrad, None, None, None, None, None, None


forward.register_autograd(_forward_backward, setup_context=_setup)
input_gradient.register_autograd(_input_gradient_backward, setup_context=_setup)
weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_setup)
