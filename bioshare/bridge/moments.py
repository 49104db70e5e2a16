"""What becomes of an optimiser's moments when weights are shared behind its back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bioshare.bridge.changes import Change, GroupChange
from bioshare.bridge.lattice import SharingModule

Treatment = Literal["keep", "share", "reset"]
"""An optimiser's moments stay as they are, follow the weights, or start anew."""

LINEAR = ("exp_avg", "momentum_buffer", "grad_avg")
"""Sums of gradients: they have directions, as weights have."""

SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""Sums of squared gradients: they must stay positive."""


@dataclass(frozen=True)
class Moments:
    """An optimiser whose moments follow the weights ("share") or start anew ("reset")."""

    optimizer: torch.optim.Optimizer
    treatment: Treatment

    @staticmethod
    def of(treatment: Treatment, optimizer: torch.optim.Optimizer | None) -> Moments | None:
        """None where they stay.

        Raises:
            ValueError: there is no optimiser, or it keeps something that can't be shared.
        """
        if treatment == "keep":
            return None
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f'moments="{treatment}" needs the optimizer: call with optimizer=...; got {optimizer!r}')
        names = {
            name
            for parameter, state in optimizer.state.items()
            for name, value in state.items()
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim
        }
        if unknown := names - {*LINEAR, *SQUARES}:
            raise ValueError(
                f'moments must be "keep" for {type(optimizer).__name__}: how its {", ".join(sorted(unknown))} '
                "should be shared is not known"
            )
        return Moments(optimizer, treatment)

    def follow(self, weight: Tensor, modules: Sequence[SharingModule], change: Change) -> None:
        """Treat the moments of a weight whose modules have changed; none before its first step.

        Sums of gradients obey the linear part of the change, sums of squares become the mean of their group.
        """
        state: dict[str, Any] = self.optimizer.state.get(weight, {})
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if self.treatment == "reset":
                value.fill_(name == "mu_product")  # NAdam's product of factors starts at 1
            elif name in (*LINEAR, *SQUARES):
                assert isinstance(change, GroupChange), "Sleep refuses to share moments otherwise"
                for module in modules:
                    groups = module.groups(value)
                    shared = change.apply_linear(module, groups) if name in LINEAR else groups.mean(1, keepdim=True)
                    module.write(value, shared.expand_as(groups))


def refuse_treatment(treatment: str) -> None:
    """Refuse what is no `Treatment`."""
    if treatment not in get_args(Treatment):
        raise ValueError(f"moments must be one of {', '.join(map(repr, get_args(Treatment)))}; got {treatment!r}")
