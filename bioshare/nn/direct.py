"""Direct feedback: the error jumps from the last layer to every layer, or from every layer to all layers below.

A connection without a value, z - stop(z), adds 0 to the forward pass and carries a signal in the backward pass. All of
PyTorch works with such connections, since the backward pass is the derivative of the forward pass as written.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from bioshare.checks import flag, whole
from bioshare.nn.feedback import (
    WITH_FEEDBACK,
    FeedbackConv2d,
    FeedbackLayer,
    FeedbackLinear,
    FeedbackLocallyConnected2d,
    FeedbackPatchwiseLinear,
    stream,
    with_feedback,
)
from bioshare.nn.locally_connected import LocallyConnected2d
from bioshare.nn.patchwise import PatchwiseLinear
from bioshare.nn.probe import run_once
from bioshare.nn.weights import check_module, weighted_layers


class DirectLayer(nn.Module):
    """Base of layers whose outputs send a signal to the inputs of layers below, through connections without a value.

    Attributes:
        sources: layers whose inputs get the signal, through the buffers direct0, direct1, ... (outputs, inputs).
        stops: True if no signal goes down by the weights.
        backpropagates: True for a backward pass through the weights and no other connection.
        finished: layers whose inputs no later layer needs.
        tapped: input of the layer in the pass, while layers above need it.
    """

    sources: list[Any]
    finished: list[Any]
    stops: bool
    backpropagates: bool
    tapped: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer, and connect the sources."""
        if self.backpropagates or not torch.is_grad_enabled():
            return super().forward(input)  # pyright: ignore[reportAttributeAccessIssue]
        self.tapped = input
        y = super().forward(input.detach() if self.stops else input)  # pyright: ignore[reportAttributeAccessIssue]
        for number, source in enumerate(self.sources):
            if source.tapped is None:
                raise RuntimeError(
                    "a pass with direct feedback must run all layers of the model, each once: give the whole model, or "
                    "in torch.utils.checkpoint use_reentrant=False"
                )
            z = source.tapped.flatten(1) @ getattr(self, f"direct{number}").T.to(input.dtype)
            y = y + (z - z.detach()).view_as(y).to(y.dtype)
        for layer in self.finished:
            layer.tapped = None
        return y

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the input of a pass that ended early."""
        return super().__getstate__() | {"tapped": None}

    def sent_down(self, x: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
        """The signals that B and W send to the layer below; the direct connections end in other layers."""
        sources, self.sources = self.sources, []
        try:
            return super().sent_down(x, signal)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            self.sources = sources

    def drop_feedback(self) -> None:
        """Become the plain layer."""
        layer: Any = self
        for number in range(len(self.sources)):
            delattr(layer, f"direct{number}")
        del layer.sources, layer.stops, layer.tapped, layer.finished
        layer.__class__ = next(plain for plain, direct in DIRECT.items() if type(self) is direct)
        if isinstance(layer, FeedbackLayer):
            layer.drop_feedback()
        else:
            del layer.backpropagates


class DirectLinear(DirectLayer, nn.Linear):
    """A `torch.nn.Linear` with direct feedback."""


class DirectConv2d(DirectLayer, nn.Conv2d):
    """A `torch.nn.Conv2d` with direct feedback."""


class DirectLocallyConnected2d(DirectLayer, LocallyConnected2d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A `LocallyConnected2d` with direct feedback."""


class DirectPatchwiseLinear(DirectLayer, PatchwiseLinear):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A `PatchwiseLinear` with direct feedback."""


class DenseLinear(DirectLayer, FeedbackLinear):
    """A `FeedbackLinear` with direct feedback to further layers."""


class DenseConv2d(DirectLayer, FeedbackConv2d):
    """A `FeedbackConv2d` with direct feedback to further layers."""


class DenseLocallyConnected2d(DirectLayer, FeedbackLocallyConnected2d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A `FeedbackLocallyConnected2d` with direct feedback to further layers."""


class DensePatchwiseLinear(DirectLayer, FeedbackPatchwiseLinear):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A `FeedbackPatchwiseLinear` with direct feedback to further layers."""


DIRECT: dict[type[nn.Module], type[DirectLayer]] = {
    nn.Linear: DirectLinear,
    nn.Conv2d: DirectConv2d,
    LocallyConnected2d: DirectLocallyConnected2d,
    PatchwiseLinear: DirectPatchwiseLinear,
    FeedbackLinear: DenseLinear,
    FeedbackConv2d: DenseConv2d,
    FeedbackLocallyConnected2d: DenseLocallyConnected2d,
    FeedbackPatchwiseLinear: DensePatchwiseLinear,
}


@torch.no_grad()
def with_direct_feedback(
    model: nn.Module, input_size: tuple[int, ...], dense: bool = False, seed: int = 0
) -> nn.Module:
    """Copy a model with direct feedback in every Conv2d, Linear and LocallyConnected2d; the model doesn't change.

    In direct feedback alignment (DFA, Noekland 2016), the signal at the outputs of the last layer goes to the input of
    every layer through a random matrix of its own, delta_l = (A_l^T delta_L) phi', and no layer sends a signal down. In
    dense feedback alignment (Moskovitz et al. 2018), every layer has feedback weights as in `with_feedback`, and random
    matrices to all layers below the next. The signal passes pooling and activations between two layers by their own
    derivatives, and so residual connections, too. The matrices are drawn from N(0, 1 / outputs), in float32.

    Args:
        model: a model whose layers each run once in a pass, on inputs with a batch axis.
        input_size: shape of one input, such as (3, 32, 32).
        dense: dense feedback alignment.
        seed: seed of the draws.

    Returns:
        The copy, with the same function and the same parameters' values.

    Raises:
        TypeError: a layer is of a subclass, or of another class with weights.
        ValueError: the model has fewer than two layers, or a layer runs twice.

    Example:
        >>> model = with_direct_feedback(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (4,))
        >>> model[2].direct0.shape
        torch.Size([2, 3])
    """
    flag("dense", dense)
    whole("seed", seed, "a non-negative integer", at_least=0)
    check_module(model)
    model = with_feedback(model, seed=seed) if dense else copy.deepcopy(model)
    layers, sizes = _in_order(model, input_size)
    for number, layer in enumerate(layers):
        layer.__class__ = DIRECT[type(layer)]
        last = number == len(layers) - 1
        layer.stops, layer.tapped, layer.sources, layer.finished = not dense, None, [], layers if last else []
        layer.backpropagates = False
        if dense:
            layer.sources = layers[1:number]
        elif last:
            layer.sources = layers[1:]
        outputs = sizes[number][1]
        for j, source in enumerate(layer.sources):
            inputs = sizes[layers.index(source)][0]
            matrix = torch.randn(outputs, inputs, generator=stream(seed, 1, number, j)).div_(math.sqrt(outputs))
            layer.register_buffer(f"direct{j}", matrix.to(layer.weight))
    return model


def _in_order(model: nn.Module, input_size: tuple[int, ...]) -> tuple[list[Any], list[tuple[int, int]]]:
    """The layers in the order of a pass, with the numbers of inputs and outputs."""
    kinds = (*WITH_FEEDBACK, *WITH_FEEDBACK.values())
    layers, sizes = list[Any](), list[tuple[int, int]]()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if any(layer is other for other in layers):
            raise ValueError(f"every layer must run once in a pass; {layer} runs twice")
        layers.append(layer)
        sizes.append((inputs[0][0].numel(), output[0].numel()))

    hooks = [layer.register_forward_hook(note) for layer in weighted_layers(model, kinds)]
    run_once(model, input_size, hooks)
    if len(layers) < 2:
        raise ValueError(f"model must have two layers for feedback to jump; got {len(layers)}")
    return layers, sizes
