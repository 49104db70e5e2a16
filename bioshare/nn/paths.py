"""Products whose backward pass goes through weights of its own: feedback alignment, in one function of autograd.

For y = op(x, W), linear in the input x and in the weights W, the chain rule sends the cotangent dy back through W. With
feedback weights B in the layout of W,

    dx = op^T(dy; B)        dW = (d op / dW)(x; dy)

so that the learning signal of a layer goes through B, and its own weights learn from the true input and the signal
that came (Lillicrap et al. 2016; Moskovitz et al. 2018, Eq. 3; Akrout et al. 2019, Eq. 3, 4). The transposition and
the turned kernel of Eq. 2 are in op^T already: B, W, signs, angles and updates are element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Pair = tuple[int, int]


class Product(Protocol):
    """A product y = op(x, W) and the two products of the backward pass."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return y."""
        ...

    def input_gradient(self, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Return dx, in the shape of x."""
        ...

    def weight_gradient(self, x: Tensor, dy: Tensor, like: Tensor) -> Tensor:
        """Return dW, in the shape, the type and the memory order of a tensor."""
        ...


@dataclass(frozen=True)
class LinearProduct:
    """y = x W^T for x (..., in) and W (out, in)."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return y (..., out)."""
        return nn.functional.linear(x, weight)

    def input_gradient(self, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Return dx (..., in)."""
        return dy @ weight

    def weight_gradient(self, x: Tensor, dy: Tensor, like: Tensor) -> Tensor:
        """Return dW (out, in), summed over the leading axes."""
        return dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])


@dataclass(frozen=True)
class ConvolutionalProduct:
    """A convolution of images (batch, in, H, W) with kernels (out, in / groups, kh, kw), padded by zeros."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return y (batch, out, H_out, W_out)."""
        return nn.functional.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Return dx (batch, in, H, W)."""
        return self._backward(dy, x, weight, (True, False, False))[0]

    def weight_gradient(self, x: Tensor, dy: Tensor, like: Tensor) -> Tensor:
        """Return dW (out, in / groups, kh, kw), summed over the batch and the positions."""
        return self._backward(dy, x, like, (False, True, False))[1]

    def _backward(self, dy: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        sizes = self.stride, self.padding, self.dilation, False, (0, 0), self.groups
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *sizes, wanted)


class TwoPaths(torch.autograd.Function):
    """y = op(x, W) with dx through the feedback weights B, and dW from a signal with noise.

    The noise is independent for every element of dy, N(0, (noise std(dy))^2), and is not passed on. A single number has
    the standard deviation 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, feedback: Tensor, product: Product, noise: float) -> Tensor:
        return product.forward(x, weight)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, _, feedback, ctx.product, ctx.noise = inputs
        ctx.save_for_backward(x, feedback)

    @staticmethod
    def backward(ctx, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, feedback = ctx.saved_tensors
        by_x, by_weight, *_ = ctx.needs_input_grad
        dx = ctx.product.input_gradient(dy, feedback, x) if by_x else None
        if by_weight and ctx.noise:
            dy = dy + ctx.noise * dy.std(correction=min(1, dy.numel() - 1)) * torch.randn_like(dy)
        dw = ctx.product.weight_gradient(x, dy, feedback) if by_weight else None
        return dx, dw, None, None, None


def two_paths(x: Tensor, weight: Tensor, feedback: Tensor, product: Product, noise: float) -> Tensor:
    """Return y = op(x, W), whose backward pass goes through the feedback weights.

    Raises:
        NotImplementedError: forward-mode differentiation.
    """
    if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
        raise NotImplementedError(
            "a layer with feedback weights has no forward-mode derivative: its backward pass is not the derivative of "
            "its forward pass. Use reverse mode, or bioshare.nn.without_feedback(model)"
        )
    return TwoPaths.apply(x, weight, feedback, product, noise)


@torch.fx.wrap  # single steps in the graphs of torch.fx, which does not trace a function of autograd
def feedback_linear(x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor, noise: float) -> Tensor:
    """The product of a `FeedbackLinear`."""
    x, weight, path = _cast(x, weight, path)
    y = two_paths(x, weight, path, LinearProduct(), noise)
    return y if bias is None else y + bias.to(y.dtype)


@torch.fx.wrap
def feedback_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    path: Tensor,
    noise: float,
    pad: tuple[int, int, int, int] | None,
    padding_mode: str,
    padding: Pair,
    stride: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """The product of a `FeedbackConv2d`, after the padding of a mode."""
    images = x if x.ndim == 4 else x[None]
    if pad is not None:
        images = nn.functional.pad(images, pad, "constant" if padding_mode == "zeros" else padding_mode)
    product = ConvolutionalProduct(stride, padding, dilation, groups)
    images, weight, path = _cast(images, weight, path)
    y = two_paths(images, weight, path, product, noise)
    y = y if bias is None else y + bias[:, None, None].to(y.dtype)
    return y if x.ndim == 4 else y[0]


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the type of autocast, where enabled and as for a plain layer: float64 stays."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)
