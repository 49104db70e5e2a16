"""The locally connected product and its derivatives, as operators of PyTorch.

y[b, o, h, w] = sum over c, i, j of weight[h, w, o, c, i, j] x[b, c, h s + i d - p, w s + j d - p] is trilinear in the
cotangent of y, x and the weights. The three products (`forward`, `input_gradient`, `weight_gradient`) are derivatives
of each other, so that derivatives of any order exist. A backward pass needs x and the weights only. Each product is an
operator in two forms: batched matrix products on any device (`bioshare.nn.batched`), and fused kernels on a GPU
(`bioshare.nn.fused`); `bioshare.nn.forms` chooses. The transforms of torch.func, forward-mode differentiation and
exporters get a third form, plain operations of PyTorch (`bioshare.nn.plain`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bioshare.checks import shown, whole
from bioshare.nn import batched, forms, plain
from bioshare.nn.forms import prefer as prefer
from bioshare.nn.paths import two_paths
from bioshare.nn.plan import ProductPlan
from bioshare.nn.plan import physical as physical

Pair = tuple[int, int]


def locally_connected2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: int | Pair = 1,
    groups: int = 1,
    feedback: Tensor | None = None,
    noise: float = 0.0,
) -> Tensor:
    """Apply the kernel ``weight[h, w]`` to the patch of x under position (h, w).

    Autocast casts x as for a convolution; float32 weights are rounded on use, but not the sums of their gradient. Sums
    run in float32 for the half types.

    Args:
        x: (batch, in, H, W); fastest in torch's channels_last memory format, the format of the result.
        weight: (H_out, W_out, out, in / groups, kh, kw); fastest in the memory order of `physical`.
        bias: (out, H_out, W_out), or None.
        stride, dilation: an int, or a pair for rows and columns.
        padding: zeros to the left, right, top and bottom, as in `torch.nn.functional.pad`.
        groups: blocks of input channels, each for its own block of output channels.
        feedback, noise: weights in the shape of ``weight`` and noise of the backward pass, see `bioshare.nn.paths`;
            without feedback weights the backward pass is the derivative.

    Returns:
        (batch, out, H_out, W_out).

    Raises:
        TypeError: x and the weights have different types and autocast is off, or an argument is no whole number.
        ValueError: the sizes of x, weight, bias and padding do not fit together.
    """
    if not isinstance(x, Tensor) or not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None):
        kinds = ", ".join(type(one).__name__ for one in (x, weight, bias))
        raise TypeError(f"x, weight and bias must be tensors; got {kinds}")
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    plan = ProductPlan.of(
        x, weight, stride, margins(padding), dilation, whole("groups", groups, "a number", at_least=1)
    )
    if bias is not None and bias.shape != (weight.shape[2], *weight.shape[:2]):
        raise ValueError(
            f"bias must be (out, H_out, W_out), {weight.shape[2], *weight.shape[:2]}; got {tuple(bias.shape)}"
        )
    if feedback is not None and (not isinstance(feedback, Tensor) or feedback.shape != weight.shape):
        expected = f"a tensor in the shape of weight, {tuple(weight.shape)}"
        raise TypeError(f"feedback must be {expected}; got {shown(feedback)}")
    if type(noise) not in (float, int) or not 0 <= noise < math.inf or (noise and feedback is None):
        raise TypeError(f"noise must be a finite number of at least 0, and 0 without feedback; got {shown(noise)}")
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x = x if x.dtype == torch.float64 else x.to(dtype)
        weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.to(dtype)
    elif x.dtype != weight.dtype:
        raise TypeError(f"x must have the weights' type {weight.dtype}; got {x.dtype}. Convert one, or use autocast")
    if feedback is None:
        y = _product("forward", x, weight, [*plan])
    else:
        y = two_paths(x, weight, feedback.to(weight.dtype), LocallyConnectedProduct(plan), noise)
    return y if bias is None else y + bias.to(y.dtype)


@dataclass(frozen=True)
class LocallyConnectedProduct:
    """The locally connected product of a plan, as one of the products of `bioshare.nn.paths`."""

    plan: ProductPlan

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return y (batch, out, H_out, W_out)."""
        return _product("forward", x, weight, [*self.plan])

    def input_gradient(self, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Return dx (batch, in, H, W)."""
        return _product("input_gradient", dy, weight, [*self.plan])

    def weight_gradient(self, x: Tensor, dy: Tensor, like: Tensor) -> Tensor:
        """Return dW (H_out, W_out, out, in / groups, kh, kw)."""
        return _product("weight_gradient", x, dy, [*self.plan], like.dtype)


def pair(name: str, value: int | Pair, at_least: int) -> Pair:
    """Return an int twice, or a pair, after a check of both."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise TypeError(f"{name} must be an int or a pair of ints (rows, columns); got {value!r}")
    rows, columns = (whole(name, n, "a whole number or a pair of them", at_least=at_least) for n in both)
    return rows, columns


def margins(padding: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return zeros to the left, right, top and bottom, after a check."""
    if not isinstance(padding, tuple | list) or len(padding) != 4:
        raise TypeError(f"padding must be four whole numbers (left, right, top, bottom); got {padding!r}")
    left, right, top, bottom = (whole("padding", n, "four whole numbers", at_least=0) for n in padding)
    return left, right, top, bottom


_custom_op = partial(torch.library.custom_op, mutates_args=())
forward = _custom_op("bioshare::locally_connected2d", batched.forward)
input_gradient = _custom_op("bioshare::locally_connected2d_input_gradient", batched.input_gradient)
weight_gradient = _custom_op("bioshare::locally_connected2d_weight_gradient", batched.weight_gradient)

forward.register_kernel("cuda")(forms.chosen("forward"))
input_gradient.register_kernel("cuda")(forms.chosen("input_gradient"))
weight_gradient.register_kernel("cuda")(forms.chosen("weight_gradient"))

forward.register_fake(lambda x, weight, plan: ProductPlan(*plan).new_output(x))
input_gradient.register_fake(lambda grad, weight, plan: ProductPlan(*plan).new_input(grad))
weight_gradient.register_fake(lambda x, grad, plan, dtype: ProductPlan(*plan).new_weight(dtype, x.device))


OPERATORS = {"forward": forward, "input_gradient": input_gradient, "weight_gradient": weight_gradient}


def _product(name: str, first: Tensor, second: Tensor, plan: list[int], *dtype: torch.dtype) -> Tensor:
    """Compute a product by its operator, or in plain operations where PyTorch must look inside."""
    if forms.preferred() == "plain" or plain.needed():
        return getattr(plain, name)(first, second, plan, *dtype)
    return OPERATORS[name](first, second, plan, *dtype)


def _setup(ctx, inputs, output):
    """Keep the two factors and the plan."""
    ctx.save_for_backward(*inputs[:2])
    ctx.plan = inputs[2]


def _forward_backward(ctx, dy):
    x, weight = (factor.conj() for factor in ctx.saved_tensors)  # the same tensors, if real
    by_x, by_weight, _ = ctx.needs_input_grad
    dx = _product("input_gradient", dy, weight, ctx.plan) if by_x else None
    dw = _product("weight_gradient", x, dy, ctx.plan, weight.dtype) if by_weight else None
    return dx, dw, None


def _input_gradient_backward(ctx, ddx):
    grad, weight = (factor.conj() for factor in ctx.saved_tensors)
    by_grad, by_weight, _ = ctx.needs_input_grad
    dgrad = _product("forward", ddx, weight, ctx.plan) if by_grad else None
    dw = _product("weight_gradient", ddx, grad, ctx.plan, weight.dtype) if by_weight else None
    return dgrad, dw, None


def _weight_gradient_backward(ctx, ddw):
    x, grad = (factor.conj() for factor in ctx.saved_tensors)
    by_x, by_grad, *_ = ctx.needs_input_grad
    dx = _product("input_gradient", grad, ddw, ctx.plan) if by_x else None
    dgrad = _product("forward", x, ddw, ctx.plan) if by_grad else None
    return dx, dgrad, None, None


forward.register_autograd(_forward_backward, setup_context=_setup)
input_gradient.register_autograd(_input_gradient_backward, setup_context=_setup)
weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_setup)
