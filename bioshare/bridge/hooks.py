"""`PhaseHook`: a phase after every n-th step of an optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bioshare.bridge.phase import Phase
from bioshare.checks import shown, whole


class PhaseHook:
    """A hook for `torch.optim.Optimizer.register_step_post_hook` that applies a phase after every n-th step.

    The seed of the phase is the number of steps so far, so that every sleep differs and all processes agree. A step
    that a gradient scaler skips does not count, but where the optimiser is fused, whose steps skip themselves.

    Args:
        phase: a sleep, or any other phase, checked against the model at once.
        model: the model with the optimiser's parameters.
        every: number of steps from one application to the next.
        steps: number of steps so far; in a resumed run, `PhaseHook.steps` at the checkpoint.

    Raises:
        TypeError, ValueError: the phase cannot change the model, or a number makes no sense.

    Example:
        >>> from bioshare.bridge import InstantSharing
        >>> from bioshare.nn import LocallyConnected2d
        >>> model = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = optimizer.register_step_post_hook(PhaseHook(InstantSharing(), model, every=10))
    """

    def __init__(self, phase: Phase, model: nn.Module, every: int = 1, steps: int = 0) -> None:
        if not isinstance(phase, Phase):
            raise TypeError(f"phase must be a Phase, such as bs.InstantSharing(); got {shown(phase)}")
        self.every = whole("every", every, "a number of steps", at_least=1)
        self.steps = whole("steps", steps, "a number of steps", at_least=0)
        self.phase, self.model = phase, model
        phase.check(model)

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any = (), kwargs: Any = None) -> None:
        """Count a step, and apply the phase if due."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.phase.change(self.model, seed=self.steps, optimizer=optimizer)
