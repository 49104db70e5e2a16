"""Feedback past normalisation: the feedback weights stand for a layer and the batch normalisation behind it.

No synapse tells a layer the standard deviations by which its outputs are divided. The learning signal for the layer
below leaves from behind the normalisation and goes through the feedback weights alone, and a mirror lets the feedback
weights learn gamma / sigma times W (Akrout et al. 2019, Sec. C.3). A layer's own W, gamma and beta learn as ever.

The signal goes down by a connection without a value, z - stop(z) with z = op(x, B), which adds 0 behind the norm.
"""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from bioshare.nn.feedback import (
    FeedbackConv2d,
    FeedbackLayer,
    FeedbackLinear,
    FeedbackLocallyConnected2d,
    check_feedback,
)
from bioshare.nn.locally_connected import padded_product
from bioshare.nn.probe import run_once


class PastNorm(FeedbackLayer):
    """Base of layers with feedback whose signal goes past the norm behind; `with_feedback_past_norms` makes these.

    Attributes:
        norm: the norm, in a tuple, since the norm is no part of the layer.
        silent: connection without a value, from the layer's forward pass to the norm's.
    """

    norm: tuple[Any]
    silent: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to an input that gets no signal, and leave the connection to the norm."""
        self.silent = None
        if input.requires_grad and not self.backpropagates:
            z = self.applied(input, self.feedback)
            self.silent, input = z - z.detach(), input.detach()
        return super().forward(input)

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply weights in place of the layer's own to any input of the layer, without a bias."""
        return self.product(x, weight)

    def mirrored(self) -> Tensor:
        """Weights of the layer and the norm together, gamma / sigma W with the running variance of the norm."""
        (norm,) = self.norm
        gain = (norm.running_var + norm.eps).rsqrt()
        gain = gain if norm.weight is None else gain * norm.weight.detach()
        after = 1 if self.weight.ndim == 2 else 3  # axes behind the output channels
        return self.weight.detach() * gain.view(-1, *[1] * after)

    def sent_down(self, x: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
        """The signals below from the same signal behind the norm: through B, and through norm and weights as fixed."""
        down, right = (
            torch.autograd.grad(self.applied(x, weight), x, signal)[0] for weight in (self.feedback, self.mirrored())
        )
        return down, right

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection of a pass that ended before the norm."""
        return super().__getstate__() | {"silent": None}

    def drop_feedback(self) -> None:
        (norm,) = self.norm
        norm.__class__ = type(norm).__bases__[1]
        del norm.below, self.norm, self.silent
        super().drop_feedback()


class PastNormLinear(PastNorm, FeedbackLinear):
    """A `FeedbackLinear` in front of a `torch.nn.BatchNorm1d`."""


class PastNormConv2d(PastNorm, FeedbackConv2d):
    """A `FeedbackConv2d` in front of a `torch.nn.BatchNorm2d`."""

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.Conv2d._conv_forward(self, x, weight, None)


class PastNormLocallyConnected2d(PastNorm, FeedbackLocallyConnected2d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A `FeedbackLocallyConnected2d` in front of a `torch.nn.BatchNorm2d`."""

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        return padded_product(x, weight, None, *self._geometry())


class PassedNorm(nn.Module):
    """Base of norms behind a `PastNorm`.

    Attributes:
        below: the layer, in a tuple, since the layer is no part of the norm.
    """

    below: tuple[Any]

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, and add the connection without a value."""
        y = super().forward(input)  # pyright: ignore[reportAttributeAccessIssue]
        silent, self.below[0].silent = self.below[0].silent, None
        return y if silent is None else y + silent


class PassedBatchNorm1d(PassedNorm, nn.BatchNorm1d):
    """A `torch.nn.BatchNorm1d` behind a layer whose feedback goes past the norm."""


class PassedBatchNorm2d(PassedNorm, nn.BatchNorm2d):
    """A `torch.nn.BatchNorm2d` behind a layer whose feedback goes past the norm."""


PAST_NORMS = {
    FeedbackLinear: PastNormLinear,
    FeedbackConv2d: PastNormConv2d,
    FeedbackLocallyConnected2d: PastNormLocallyConnected2d,
}
"""Layers whose feedback goes past a norm by the layers with feedback."""
PASSED_NORMS = {nn.BatchNorm1d: PassedBatchNorm1d, nn.BatchNorm2d: PassedBatchNorm2d}
"""Norms that feedback goes past by the plain norms."""


@torch.inference_mode(False)
def with_feedback_past_norms(model: nn.Module, input_size: tuple[int, ...]) -> nn.Module:
    """Copy a model with feedback; the learning signal goes past every batch normalisation right behind a layer.

    A `bioshare.Mirror` of the copy lets B learn gamma / sigma W, layer and norm together, and the signal is multiplied
    by no standard deviation on its way down. With B = gamma / sigma W the signal is the gradient of the loss at fixed
    statistics: in training, backpropagation also takes the mean of the signal off, and its projection to the
    normalised outputs. W, gamma and beta learn from the same signal as behind any norm.

    Args:
        model: a model with feedback (`with_feedback`), with norms that keep running statistics. A norm with another
            step between the layer and the norm, such as a ReLU or dropout, stays as it is, and so does one behind a
            layer whose outputs also go elsewhere.
        input_size: shape of one input, such as (3, 32, 32).

    Returns:
        The copy, with the same function and the same names of parameters and buffers. A forward pass costs one more
        product for every such layer.

    Raises:
        TypeError: model is no module, or input_size no shape.
        ValueError: the model has no feedback weights, does not run on such an input, or has no norm behind a layer.

    Example:
        >>> from bioshare.nn import with_feedback
        >>> model = with_feedback(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)))
        >>> with_feedback_past_norms(model, (4,))[0]
        PastNormLinear(in_features=4, out_features=3, bias=True)
    """
    check_feedback(model)
    model = copy.deepcopy(model)
    for layer, norm in _pairs(model, input_size):
        layer.__class__, layer.silent = PAST_NORMS[type(layer)], None
        join(layer, norm, PASSED_NORMS[type(norm)])
    return model


def join(layer: PastNorm, norm: Any, passed: type[PassedNorm]) -> None:
    """Let the signal of a layer go past a norm, which becomes one of the class ``passed``."""
    norm.__class__ = passed
    layer.norm, norm.below = (norm,), (layer,)


def _pairs(model: nn.Module, input_size: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """The layers whose output is the input of a norm and of nothing else, with the norms.

    The graph of a pass tells steps between, in place as well; what makes no node, as dropout in evaluation mode, is a
    module that takes the output.
    """
    probe = copy.deepcopy(model).requires_grad_()
    outputs: list[tuple[Any, Any]] = []  # layers, and the nodes of the graph that made their outputs
    inputs: list[tuple[Any, Any]] = []  # modules without parts, and the nodes that made their inputs

    def after(layer: Any, module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append((layer, output.grad_fn))

    def before(original: Any, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.extend((original, x.grad_fn) for x in args if isinstance(x, Tensor))

    hooks: list[RemovableHandle] = []
    for original, module in zip(model.modules(), probe.modules(), strict=True):
        if type(module) in PAST_NORMS:
            hooks.append(module.register_forward_hook(partial(after, original)))
        if not any(True for _ in module.children()):
            hooks.append(module.register_forward_pre_hook(partial(before, original)))
    uses = _uses(run_once(probe, input_size, hooks, graph=True))
    calls = Counter(module for module, _ in inputs)
    pairs: list[tuple[Any, Any]] = []
    for layer, node in outputs:
        takers = [module for module, taken in inputs if taken is node] if node is not None else []
        if len(takers) == 1 and uses[node] <= 1 and type(takers[0]) in PASSED_NORMS:
            (norm,) = takers
            if norm.running_var is None:
                continue
            if calls[layer] > 1 or calls[norm] > 1:
                raise ValueError(
                    "model must use every layer in front of a norm, and every norm, once in a forward pass"
                )
            pairs.append((layer, norm))
    if not pairs:
        raise ValueError(
            "model must have a BatchNorm1d or BatchNorm2d with running statistics right behind a layer with feedback; "
            "the graph of a pass has none. Without norms the feedback of with_feedback(model) is all there is"
        )
    return pairs


def _uses(output: Any) -> Counter[Any]:
    """Number of steps that take the result of every node in the graph of a model's output, and of results returned."""
    nodes = [leaf.grad_fn for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    uses = Counter(nodes)
    for node in (waiting := list(uses)):
        below = [one for one, _ in node.next_functions if one is not None]
        waiting.extend(dict.fromkeys(one for one in below if one not in uses))
        uses.update(below)
    return uses
