"""Angles between the learning signal that feedback weights carry and the gradient of the loss, layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bioshare.checks import shown, takes
from bioshare.nn.feedback import FeedbackLayer, compared, degrees, ratio, sending, signal_layers
from bioshare.nn.weights import check_module

if TYPE_CHECKING:
    import xarray as xr

MEANINGS = {
    "weight": "angle between feedback weights and weights",
    "signal": "angle between the learning signal and the gradient, accumulated from the top",
    "local": "angle between the signals that feedback weights and weights send down from the same signal",
    "weight_ratio": "norm of the feedback weights over the norm of the weights",
    "signal_ratio": "norm of the learning signal over the norm of the gradient",
}


@dataclass(frozen=True)
class LayerAngles:
    """Angles of a layer in degrees, and ratios of norms; NaN for those of B in a layer without B.

    Attributes:
        name: name of the layer in the model.
        weight: angle between B and W, over all weights whose input is not padding.
        signal: angle between the learning signal at the outputs of the layer and the gradient of the loss, with all
            layers above sending their signals through B: 0 for the last layer.
        local: angle between op^T(delta; B) and op^T(delta; W) for the learning signal delta at the outputs of the
            layer, the part of this layer alone. Nothing receives the signal of the first layer.
        weight_ratio: norm of B over the norm of W.
        signal_ratio: norm of the learning signal over the norm of the gradient.
    """

    name: str
    weight: float
    signal: float
    local: float
    weight_ratio: float
    signal_ratio: float


@dataclass(frozen=True)
class AngleReport:
    """Angles of a model's layers, from the input to the output; see `angles`."""

    layers: tuple[LayerAngles, ...]

    def __str__(self) -> str:
        width = max(len("layer"), *(len(row.name) for row in self.layers))
        lines = [f"{'layer':{width}}  B to W  signal   local  |B| / |W|  |signal| / |gradient|"]
        for row in self.layers:
            numbers = f"{row.weight:6.2f}  {row.signal:6.2f}  {row.local:6.2f}"
            lines.append(f"{row.name:{width}}  {numbers}  {row.weight_ratio:9.3g}  {row.signal_ratio:.3g}")
        return "\n".join(lines)

    def to_xarray(self) -> xr.Dataset:
        """The angles and ratios along the axis layer."""
        import xarray as xr

        rows = [asdict(row) for row in self.layers]
        units = {name: {} if name.endswith("ratio") else {"units": "degrees"} for name in MEANINGS}
        variables = {
            name: ("layer", np.array([row[name] for row in rows]), {"long_name": meaning} | units[name])
            for name, meaning in MEANINGS.items()
        }
        return xr.Dataset(variables, {"layer": [row["name"] for row in rows]})

    def draw(self, ax: Any = None) -> Any:
        """Draw all angles over the layers, on axes of Matplotlib or new ones."""
        import matplotlib.pyplot as plt

        ax = ax or plt.figure(figsize=(6, 3.5), layout="constrained").add_subplot()
        names = [row.name for row in self.layers]
        for name, label in (("weight", "B to W"), ("signal", "signal to gradient"), ("local", "this layer alone")):
            ax.plot(names, [getattr(row, name) for row in self.layers], "o-", label=label)
        ax.set(ylabel="angle, degrees", ylim=(0, None))
        ax.tick_params(axis="x", rotation=90)
        ax.legend()
        return ax


def angles(model: nn.Module, x: Tensor, loss: Callable[[Any], Tensor]) -> AngleReport:
    """Measure the learning signals of a model with feedback against the gradients of the loss, on one batch.

    The signals go through B, also in a layer that backpropagates: what such a layer aligns with, or could learn from.

    The two backward passes have the same weights, batch, statistics of normalisation and dropout. The model is not
    changed.

    Args:
        model: a model with feedback (`with_feedback`, `with_direct_feedback`), in the mode in which it learns.
        x: a batch.
        loss: function of the model's output to a number, such as ``lambda scores: cross_entropy(scores, y)``.

    Raises:
        ValueError: the model has no feedback weights, or a layer was not used, or used twice.
        RuntimeError: inference mode is on, which has no gradients.

    Example:
        >>> from bioshare.nn import with_feedback
        >>> model = with_feedback(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), "weights")
        >>> report = angles(model, torch.ones(2, 4), lambda y: y.square().sum())
        >>> [round(row.signal, 3) for row in report.layers]
        [0.0, 0.0]
    """
    check_module(model)
    if not signal_layers(model):
        raise ValueError("model must have feedback weights: make them with bioshare.nn.with_feedback(model)")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, a batch of inputs; got {shown(x)}")
    if not takes(loss, x):
        raise TypeError(f"loss must be a function of the model's output; got {shown(loss)}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("angles are of gradients, and inference mode has none: measure outside")
    plain: Any = getattr(model, "_orig_mod", model)  # a compiled model sees no hooks
    model = copy.deepcopy(plain).requires_grad_()  # a pass in training mode changes statistics; all layers get a signal
    layers = signal_layers(model)
    with sending(model, backpropagates=False):
        fed, signals = _signals(model, layers, x, loss)
    with sending(model, backpropagates=True):
        _, gradients = _signals(model, layers, x, loss)
    rows = [
        _measured(name, layer, fed[name], signal, gradient)
        for (name, layer), signal, gradient in zip(layers, signals, gradients, strict=True)
    ]
    return AngleReport(tuple(rows))


def _signals(
    model: nn.Module, layers: list[tuple[str, Any]], x: Tensor, loss: Callable[[Any], Tensor]
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """The inputs of all layers by name, and the learning signals at their outputs; equal random numbers every time."""
    inputs, outputs = dict[str, Tensor](), dict[str, Tensor]()

    def noting(name: str) -> Callable[..., Tensor]:
        def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in outputs:
                raise ValueError(f"layer {name!r} must be used once in a pass: its two signals are one sum")
            inputs[name], outputs[name] = arguments[0].detach(), output
            return output.clone()  # what follows may change its input in place

        return note

    hooks = [layer.register_forward_hook(noting(name)) for name, layer in layers]
    try:
        with torch.enable_grad(), torch.random.fork_rng():
            value = loss(model(x))
    finally:
        for hook in hooks:
            hook.remove()
    if unused := [name for name, _ in layers if name not in outputs]:
        raise ValueError(f"all layers must be used in a pass; {', '.join(unused)} are not")
    return inputs, torch.autograd.grad(value, [outputs[name] for name, _ in layers])


def _measured(name: str, layer: Any, x: Tensor, signal: Tensor, gradient: Tensor) -> LayerAngles:
    angle, size = degrees(signal, gradient), ratio(signal, gradient)
    if not isinstance(layer, FeedbackLayer):
        return LayerAngles(name, math.nan, angle, math.nan, math.nan, size)
    weight_angle, weight_size = compared(layer)
    x = x.requires_grad_()
    with torch.enable_grad():
        down, right = layer.sent_down(x, signal)
    return LayerAngles(name, weight_angle, angle, degrees(down, right), weight_size, size)
