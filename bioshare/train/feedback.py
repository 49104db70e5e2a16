"""Feedback weights of the network of a run, in place of backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from bioshare.checks import choice, flag, real
from bioshare.nn import with_direct_feedback, with_feedback, with_feedback_past_norms
from bioshare.nn.feedback import feedback_layers
from bioshare.train.seeds import seed_at


class Feedback:
    """Base of the ways in which errors travel back; None in a configuration is backpropagation."""

    def build(self, model: nn.Module, input_size: Sequence[int], seed: int) -> nn.Module:
        """The model with feedback weights drawn from the run's seed."""
        raise NotImplementedError

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Change what an optimiser does before every step, where needed."""


@dataclass(frozen=True)
class FeedbackWeights(Feedback):
    """Feedback weights in every layer (`bioshare.nn.with_feedback`), random unless phases of the run change them.

    Attributes:
        init: feedback weights at the start: "fan-out", "weights" or "zeros".
        noise: noise in the signal from which weights learn, see `bioshare.nn.feedback.FeedbackLayer`.
        backpropagates: send errors through the weights in spite of the feedback weights: with ``noise`` or
            ``alignment``, the controls "BP + noise" and "BP + alignment" of Moskovitz et al. (2018).
        alignment: factor lambda of a pull of the weights to the feedback weights, the gradient of
            ``lambda |W - B|^2`` (Moskovitz et al. 2018, Eq. 9).
        past_norms: send signals past batch normalisation, whose gamma / sigma a mirror lets B learn
            (`bioshare.nn.with_feedback_past_norms`).
    """

    init: Literal["fan-out", "weights", "zeros"] = "fan-out"
    noise: float = 0.0
    backpropagates: bool = False
    alignment: float = 0.0
    past_norms: bool = False

    def __post_init__(self) -> None:
        choice("init", self.init, ("fan-out", "weights", "zeros"))
        flag("backpropagates", self.backpropagates)
        flag("past_norms", self.past_norms)
        for name in ("noise", "alignment"):
            real(name, getattr(self, name), "a finite number of at least 0", at_least=0, array=False)

    def build(self, model: nn.Module, input_size: Sequence[int], seed: int) -> nn.Module:
        model = with_feedback(model, self.init, seed_at("feedback", seed), noise=self.noise)
        for _, layer in feedback_layers(model):
            layer.backpropagates = self.backpropagates
        return with_feedback_past_norms(model, tuple(input_size)) if self.past_norms else model

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if not self.alignment:
            return

        @torch.no_grad()
        def pull(*arguments: Any) -> None:
            scale = getattr(optimizer, "grad_scale", None)  # of gradients that a fused step of a scaler scales back
            for _, layer in feedback_layers(model):
                if layer.weight.grad is not None:
                    gradient = 2 * self.alignment * (layer.weight - layer.feedback)
                    layer.weight.grad.add_(gradient if scale is None else gradient * scale)

        optimizer.register_step_pre_hook(pull)


@dataclass(frozen=True)
class DirectFeedback(Feedback):
    """Direct feedback alignment (`bioshare.nn.with_direct_feedback`).

    Attributes:
        dense: signals go from every layer to all layers below, not from the last layer alone.
    """

    dense: bool = False

    def __post_init__(self) -> None:
        flag("dense", self.dense)

    def build(self, model: nn.Module, input_size: Sequence[int], seed: int) -> nn.Module:
        return with_direct_feedback(model, tuple(input_size), self.dense, seed_at("feedback", seed))
