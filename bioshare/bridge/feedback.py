"""Phases that keep feedback weights B in a relation to the weights W, and that keep signs or norms of W.

Each is due after every step of the optimiser: ``Every(1, SignSymmetry())``, in the order FixedSigns, FixedNorms,
SignSymmetry or KolenPollack: a scale keeps signs, but weights whose signs are put back change the norm. Three of them
keep numbers in buffers of the layers, which `Phase.prepare` makes before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bioshare.bridge.phase import Phase
from bioshare.checks import choice, real
from bioshare.nn.feedback import check_feedback, feedback_layers


class FeedbackPhase(Phase):
    """A phase over the layers with feedback of a model.

    Attributes:
        buffer: name of a buffer of every layer that `prepare` makes; empty for none.
    """

    buffer = ""

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for a model without feedback weights, or a model that was not prepared."""
        check_feedback(model)
        for name, layer in feedback_layers(model):
            if self.buffer and not hasattr(layer, self.buffer):
                phase = type(self).__name__
                raise ValueError(
                    f"layer {name!r} lacks the buffer {self.buffer!r}: call {phase}().prepare(model) before training"
                )

    @property
    def capturable(self) -> bool:
        """True: nothing depends on the seed."""
        return True


@dataclass(frozen=True)
class SignSymmetry(FeedbackPhase):
    """Give feedback weights the signs of the weights (sign-concordant feedback, uSF of Moskovitz et al. 2018).

    Args:
        scale: "init" keeps the sizes of the feedback weights, ``B = |B_0| sign(W)`` (Eq. 4); "norm" gives all the same
            size and the layer the norm of its weights, ``B = |W| sign(W) / |sign(W)|`` (Eq. 5).

    A weight of exactly 0 has no sign: B is 0 with "norm", and keeps the sign of the 0 with "init".

    Example:
        >>> from bioshare.nn import with_feedback
        >>> layer = with_feedback(nn.Linear(4, 3))
        >>> report = SignSymmetry("norm")(layer)
        >>> torch.allclose(layer.feedback.norm(), layer.weight.norm())
        True
    """

    scale: Literal["init", "norm"] = "init"

    def __post_init__(self) -> None:
        choice("scale", self.scale, ("init", "norm"))

    def prepare(self, model: nn.Module) -> None:
        """Give the feedback weights the signs of the first weights."""
        self.check(model)
        self.change(model)

    @torch.no_grad()
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change all feedback weights."""
        for _, layer in feedback_layers(model):
            if self.scale == "init":
                torch.copysign(layer.feedback, layer.weight, out=layer.feedback)
            else:
                signs = layer.weight.sign()
                layer.feedback.copy_(signs * (layer.weight.norm() / signs.norm().clamp(min=1)))


@dataclass(frozen=True)
class KolenPollack(FeedbackPhase):
    """Let feedback weights learn as the weights do, with the same decay (Kolen and Pollack 1994).

    Both get the same update, so W - B only decays: W_t - B_t = d_t (W_0 - B_0) with d_0 = 1, and B is W - d (W_0 - B_0)
    without an optimiser of B. With the learning rate eta and the weight decay lambda, a step of AdamW or SGD makes d

        d <- (1 - eta lambda) d

    and momentum mu makes v <- mu v + lambda d, d <- d - eta v. Two kinds of steps count although the optimiser leaves a
    weight alone: those that a gradient scaler skips, and those without a gradient of the weight. Adam with L2
    regularisation scales the decay weight by weight, so that no number d exists; such an optimiser is refused. The
    buffer ``difference`` of every layer is W_0 - B_0, made by `prepare` before the first step. A sleep that shares W
    shares this difference, too.

    Example:
        >>> from bioshare.nn import with_feedback
        >>> model = with_feedback(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> KolenPollack().prepare(model)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> report = KolenPollack()(model, optimizer=optimizer)
        >>> torch.allclose(model[2].weight - model[2].feedback, 0.95 * model[2].difference)
        True
    """

    buffer = "difference"

    def prepare(self, model: nn.Module) -> None:
        """Store W_0 - B_0 and d in buffers of the layers, before the first step of the optimiser."""
        check_feedback(model)
        for _, layer in feedback_layers(model):
            layer.keep("difference", layer.weight.detach() - layer.feedback)
            # d and its velocity, in float64: differences of d stay exact over many steps
            layer.keep("remaining", torch.tensor([1.0, 0.0], dtype=torch.float64, device=layer.weight.device))

    @torch.no_grad()
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change all feedback weights after a step of the optimiser, once for every step.

        The rate is that of the step: a scheduler has its turn afterwards. A layer whose weights do not learn
        (``requires_grad=False``) keeps its feedback weights.

        Raises:
            ValueError: there is no optimiser, or one without a number d.
        """
        groups = _groups(optimizer)
        for name, layer in feedback_layers(model):
            if not layer.weight.requires_grad:
                continue
            group = groups.get(layer.weight)
            if group is None:
                raise ValueError(
                    f"optimizer must hold the weight of layer {name!r}: make the optimizer from this model"
                )
            _decay(layer.remaining, group)
            layer.feedback.copy_(layer.weight - layer.remaining[0].to(layer.difference.dtype) * layer.difference)


def _groups(optimizer: torch.optim.Optimizer | None) -> dict[Tensor, dict[str, Any]]:
    """The group of an optimiser for every parameter.

    Raises:
        ValueError: the difference of two weights with the same gradient is not multiplied by a number at every step.
    """
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    if not decoupled and not isinstance(optimizer, torch.optim.SGD):
        plain = isinstance(optimizer, torch.optim.Adam)
        if not plain or any(
            group["weight_decay"] and not group["decoupled_weight_decay"] for group in optimizer.param_groups
        ):
            got = f"{type(optimizer).__name__}{' with L2 regularisation' if plain else ''}"
            raise ValueError(f"KolenPollack needs the optimizer: SGD, AdamW, or Adam without weight_decay; got {got}")
    assert optimizer is not None
    if any(group.get("dampening") for group in optimizer.param_groups):
        raise ValueError("KolenPollack needs SGD without dampening")
    return {weight: group for group in optimizer.param_groups for weight in group["params"]}


def _decay(remaining: Tensor, group: dict[str, Any]) -> None:
    """Change d and its velocity as a step of the optimiser changes a weight that has no gradient but the decay."""
    rate, decay = group["lr"], group["weight_decay"]
    if "momentum" not in group:  # AdamW
        remaining[0] *= 1 - rate * decay
        return
    pull = decay * remaining[0]
    velocity = remaining[1].mul_(group["momentum"]).add_(pull)
    step = pull + group["momentum"] * velocity if group["nesterov"] else velocity
    remaining[0] -= rate * step


@dataclass(frozen=True)
class FixedSigns(FeedbackPhase):
    """Keep the signs of the weights: excitatory synapses stay excitatory, inhibitory ones inhibitory (E/I).

    The signs are those of the weights at the first change, in the buffer ``signs`` of every layer, which `prepare`
    makes before the first step. A weight that has another sign later is set to ``floor`` with the first one; a weight
    that was 0 is free.

    Args:
        floor: least absolute value of a weight.

    Example:
        >>> from bioshare.nn import with_feedback
        >>> layer, signs = with_feedback(nn.Linear(4, 3)), FixedSigns()
        >>> signs.prepare(layer)
        >>> signs.change(layer)  # from here on
        >>> with torch.no_grad():
        ...     _ = layer.weight.fill_(1.0)
        ...     signs.change(layer)
        >>> bool((layer.weight < 0).any())
        True
    """

    floor: float = 1e-10
    buffer = "signs"

    def __post_init__(self) -> None:
        real("floor", self.floor, "a positive number", above=0, array=False)

    def prepare(self, model: nn.Module) -> None:
        """Make the buffer of the signs, 0 until the first change."""
        check_feedback(model)
        for _, layer in feedback_layers(model):
            layer.keep("signs", torch.zeros_like(layer.weight, dtype=torch.int8))

    @torch.no_grad()
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change all weights of layers with feedback whose signs differ."""
        for _, layer in feedback_layers(model):
            signs = layer.signs.copy_(torch.where(layer.signs.any(), layer.signs, layer.weight.sign().to(torch.int8)))
            kept = signs * (signs * layer.weight).clamp(min=self.floor)
            layer.weight.copy_(torch.where(signs == 0, layer.weight, kept))


@dataclass(frozen=True)
class FixedNorms(FeedbackPhase):
    """Keep the norm of every layer's weights, W <- |W_0| W / |W| (Moskovitz et al. 2018, Eq. 10), in place.

    The norm |W_0| is a buffer of every layer, which `prepare` makes before the first step.
    """

    buffer = "initial_norm"

    def prepare(self, model: nn.Module) -> None:
        """Store the norms of the weights in buffers of the layers.

        Raises:
            ValueError: all weights of a layer are 0, and would stay 0.
        """
        check_feedback(model)
        for name, layer in feedback_layers(model):
            if not layer.weight.any():
                raise ValueError(f"layer {name!r} must have weights other than 0: with the norm 0 it would never learn")
        for _, layer in feedback_layers(model):
            layer.keep("initial_norm", layer.weight.detach().norm())

    @torch.no_grad()
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Scale all weights of layers with feedback."""
        for _, layer in feedback_layers(model):
            layer.weight.mul_(layer.initial_norm / layer.weight.norm())
