"""Networks whose errors travel back through weights of their own, not through the transposed forward weights.

A layer with feedback has a buffer ``feedback``, B, in the shape and memory order of the weights W. The forward pass
uses W, the learning signal for the layer below goes through B, and W learns from the layer's true input
(`bioshare.nn.paths`). The loss does not depend on B. The phases of `bioshare.bridge` change B between steps of
learning, and leave a B that no phase changes at random: feedback alignment.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from bioshare.checks import choice, real, whole
from bioshare.nn.functional import locally_connected2d
from bioshare.nn.locally_connected import LocallyConnected2d, padded_product
from bioshare.nn.patchwise import PatchwiseLinear
from bioshare.nn.paths import feedback_convolution, feedback_linear
from bioshare.nn.weights import check_module, check_weights, weighted_layers

# single steps in the graphs of torch.fx from this file, too
torch.fx.wrap("feedback_convolution")
torch.fx.wrap("feedback_linear")
torch.fx.wrap("padded_product")

Start = Literal["fan-out", "weights", "zeros"]


class FeedbackLayer(nn.Module):
    """Base of the layers with feedback weights; `with_feedback` makes these layers.

    Attributes:
        feedback: B, a buffer in the shape and memory order of the weights.
        backpropagates: True for a backward pass through the weights, as if B were W; B stays as it is.
        noise: standard deviation of the noise in the signal from which the weights learn, as a multiple of the standard
            deviation of the signal (BP + noise of Moskovitz et al. 2018). The noise does not reach the layers below.
    """

    weight: Any
    feedback: Tensor
    backpropagates: bool
    noise: float
    kept: set[str] = set()  # noqa: RUF012 (never changed in place)

    def keep(self, name: str, values: Tensor) -> None:
        """Store B, or numbers of a phase, in a buffer that a plain layer does not have."""
        self.register_buffer(name, values)
        self.kept = {*self.kept, name}

    def path(self) -> Tensor:
        """The weights of the backward pass."""
        return self.weight.detach() if self.backpropagates else self.feedback

    def mirrored(self) -> Tensor:
        """The weights that a mirror lets B learn."""
        return self.weight.detach()

    def sent_down(self, x: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
        """The signals that B and W send below from the same signal at the outputs; x needs a gradient."""
        sent = list[Tensor]()
        for backpropagates in (False, True):
            with sending(self, backpropagates):
                sent.extend(torch.autograd.grad(self(x), x, signal))
        return sent[0], sent[1]

    def drop_feedback(self) -> None:
        """Become the plain layer, without what `keep` has stored."""
        layer: Any = self
        layer.__class__ = next(plain for plain in WITH_FEEDBACK if isinstance(self, plain))
        for name in layer.kept:
            delattr(layer, name)
        del layer.backpropagates, layer.noise, layer.kept

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Axes of the inputs of a neuron: (in,) or (in / groups, kh, kw)."""
        return tuple(self.weight.shape[-1:] if self.weight.ndim == 2 else self.weight.shape[-3:])

    def input_shape(self, positions: int = 1) -> tuple[int, ...]:
        """Shape of an input without the batch; for a convolution one with so many positions along each axis.

        Padding that copies inputs is a part of the input, since a copy would reach a neuron twice.
        """
        raise NotImplementedError

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply weights in place of the layer's own to inputs (batch, *input_shape), without a bias."""
        raise NotImplementedError


class FeedbackLinear(FeedbackLayer, nn.Linear):
    """A `torch.nn.Linear` with feedback weights (out, in)."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return feedback_linear(input, self.weight, self.bias, self.path(), self.noise)

    def input_shape(self, positions: int = 1) -> tuple[int, ...]:
        return (self.in_features,)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.linear(x, weight)


class FeedbackConv2d(FeedbackLayer, nn.Conv2d):
    """A `torch.nn.Conv2d` with feedback weights (out, in / groups, kh, kw)."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            pad, padding = tuple(self._reversed_padding_repeated_twice), (0, 0)
        else:
            pad, padding = None, self.padding
        geometry = pad, self.padding_mode, padding, self.stride, self.dilation, self.groups
        return feedback_convolution(input, weight, bias, self.path(), self.noise, *geometry)  # pyright: ignore[reportArgumentType]

    def input_shape(self, positions: int = 1) -> tuple[int, ...]:
        sizes = zip(self.kernel_size, self.dilation, self.stride, strict=True)
        return self.in_channels, *(d * (k - 1) + 1 + s * (positions - 1) for k, d, s in sizes)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups)


class FeedbackLocallyConnected2d(FeedbackLayer, LocallyConnected2d):
    """A `LocallyConnected2d` with feedback weights (H_out, W_out, out, in / groups, kh, kw)."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (batch, in, H, W) to (batch, out, H_out, W_out); the batch axis may be missing."""
        return padded_product(x, self.weight, self.bias, *self._geometry(), self.path(), self.noise)

    def input_shape(self, positions: int = 1) -> tuple[int, ...]:
        left, right, top, bottom = (0, 0, 0, 0) if self.padding_mode == "zeros" else self.pad
        rows, columns = self.input_size
        return self.in_channels, top + rows + bottom, left + columns + right

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        pad = self.pad if self.padding_mode == "zeros" else (0, 0, 0, 0)
        return locally_connected2d(x, weight, None, self.stride, pad, self.dilation, self.groups)


class FeedbackPatchwiseLinear(PatchwiseLinear, FeedbackLocallyConnected2d):
    """A `PatchwiseLinear` with feedback weights (N, 1, out, in, 1, 1); a mirror sees tokens as images of a column."""


WITH_FEEDBACK: dict[type[nn.Module], type[FeedbackLayer]] = {
    nn.Linear: FeedbackLinear,
    nn.Conv2d: FeedbackConv2d,
    PatchwiseLinear: FeedbackPatchwiseLinear,  # before its base class
    LocallyConnected2d: FeedbackLocallyConnected2d,
}
"""Layers with feedback by the layers without."""


@torch.no_grad()
def with_feedback(model: nn.Module, init: Start = "fan-out", seed: int = 0, *, noise: float = 0.0) -> nn.Module:
    """Copy a model with feedback weights in every Conv2d, Linear, LocallyConnected2d and `PatchwiseLinear`.

    The model doesn't change. Convert to locally connected layers first, then add feedback, then make the optimiser from
    the copy. A layer in two places of the model stays a single layer. The feedback weights of the first layer have no
    effect.

    Args:
        model: any module of such layers and others without weight matrices (parameters with "weight" in the name);
            residual connections carry the signal as they are.
        init: feedback weights at the start: "fan-out", independent draws from N(0, 1 / n) with the number n of output
            channels per group times the size of a kernel (Moskovitz et al. 2018); "weights", copies of the weights; or
            "zeros".
        seed: seed of the draws.
        noise: noise in the signal from which weights learn, see `FeedbackLayer`.

    Returns:
        The copy, with the same function and the same parameters' values.

    Raises:
        TypeError: a layer is of a subclass, which may compute something else, or of another class with weights, such as
            `torch.nn.Conv1d`, through which errors would go back.
        ValueError: the model has no such layer.

    Example:
        >>> model = with_feedback(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> model[2].feedback.shape
        torch.Size([2, 3])
    """
    choice("init", init, get_args(Start))
    whole("seed", seed, "a non-negative integer", at_least=0)
    noise = float(real("noise", noise, "a finite number of at least 0", at_least=0, array=False))
    check_module(model)
    model = copy.deepcopy(model)
    layers = weighted_layers(model, tuple(WITH_FEEDBACK))
    if not layers:
        raise ValueError("model must have a Conv2d, a Linear or a LocallyConnected2d; there is none")
    for number, layer in enumerate(layers):
        layer.__class__ = WITH_FEEDBACK[type(layer)]
        layer.keep("feedback", _drawn(layer, init, stream(seed, 0, number)))
        layer.backpropagates, layer.noise = False, noise
    return model


def without_feedback(model: nn.Module) -> nn.Module:
    """Copy a model with plain layers in place of layers with feedback, direct or not; the weights stay, the rest goes.

    Raises:
        TypeError: model is no module, or a weight is computed from others (a parametrization).

    Example:
        >>> without_feedback(with_feedback(nn.Linear(4, 3)))
        Linear(in_features=4, out_features=3, bias=True)
    """
    check_module(model)
    check_weights(signal_layers(model))
    model = copy.deepcopy(model)
    for _, layer in signal_layers(model):
        layer.drop_feedback()
    return model


def check_feedback(model: nn.Module) -> None:
    """Raise TypeError for a model that is no module, and ValueError for a model without feedback weights.

    Weights that are computed from others, which no phase can change, are a TypeError, too.
    """
    check_module(model)
    if not (layers := feedback_layers(model)):
        raise ValueError("model must have feedback weights: make them with bioshare.nn.with_feedback(model)")
    check_weights(layers)


def feedback_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers with feedback of a model, by name, in the order of ``model.modules()``."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, FeedbackLayer)]


def signal_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers with feedback weights or direct feedback, by name, in the order of ``model.modules()``."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "backpropagates")]


def backpropagating(model: nn.Module) -> Any:
    """Let the learning signal go through the weights until the end of the block: gradients are those of the loss.

    Direct feedback (`bioshare.nn.with_direct_feedback`) is silent in the block.

    Angles compare with these gradients.
    """
    check_module(model)
    return sending(model, backpropagates=True)


@contextmanager
def sending(model: nn.Module, backpropagates: bool) -> Iterator[None]:
    """Let the learning signal go through the weights, or through B, until the end of the block."""
    layers = [(layer, layer.backpropagates) for _, layer in signal_layers(model)]
    try:
        for layer, _ in layers:
            layer.backpropagates = backpropagates
        yield
    finally:
        for layer, before in layers:
            layer.backpropagates = before


@torch.inference_mode(False)
def connected(layer: FeedbackLayer, positions: int = 1) -> Tensor:
    """Number of positions of an input at which every weight of a layer sees the input and not zeros around it."""
    weight = layer.weight.detach().requires_grad_()
    ones = weight.new_ones(1, *layer.input_shape(positions))
    with torch.enable_grad():
        z = layer.product(ones, weight)
    return torch.autograd.grad(z, weight, torch.ones_like(z))[0].round()


def compared(layer: FeedbackLayer) -> tuple[float, float]:
    """The angle between B and W in degrees, and the norm of B over the norm of W, over all connected weights."""
    seen = connected(layer).flatten().nonzero()[:, 0]  # once for both, in the order of a mask
    b, w = (weights.detach().flatten().index_select(0, seen) for weights in (layer.feedback, layer.mirrored()))
    return degrees(b, w), ratio(b, w)


def ratio(a: Tensor, b: Tensor) -> float:
    """The norm of a tensor over the norm of another."""
    return float(a.double().norm() / b.double().norm())


def degrees(a: Tensor, b: Tensor) -> float:
    """The angle between two tensors as vectors, in degrees; NaN if one of them is 0."""
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    a, b = a / a.norm(), b / b.norm()
    return float(2 * torch.atan2((a - b).norm(), (a + b).norm()).rad2deg())  # small angles keep their digits


def stream(seed: int, *place: int) -> torch.Generator:
    """A generator of its own for every place: equal seeds of PyTorch would make B of the draws of the weights."""
    state = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def fan_out(weight: Tensor, groups: int = 1) -> int:
    """Outputs that an input of a layer reaches: output channels per group times the size of a kernel."""
    channels, *kernel = weight.shape[2:] if weight.ndim == 6 else weight.shape  # without positions
    return channels // groups * math.prod(kernel[1:])


def _drawn(layer: Any, init: Start, generator: torch.Generator) -> Tensor:
    """First feedback weights of a layer; the same draws in every memory order and on every device."""
    feedback = torch.empty_like(layer.weight)
    if init == "weights":
        return feedback.copy_(layer.weight)
    if init == "zeros":
        return feedback.zero_()
    std = fan_out(layer.weight, getattr(layer, "groups", 1)) ** -0.5
    return feedback.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float32).mul_(std))
