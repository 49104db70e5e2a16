"""The moments of an optimiser, which follow a change of the weights or start anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bioshare.bridge.changes import Averaging, Change
from bioshare.bridge.geometry import GroupMeans, SharingModule
from bioshare.nn.functional import physical

Treatment = Literal["keep", "share", "reset"]
"""The moments of an optimiser stay unchanged, follow the weights, or start anew."""

LINEAR = ("exp_avg", "momentum_buffer", "grad_avg")
"""Moments that sum gradients and so have directions, as weights have."""

SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""Moments that sum squared gradients and must stay positive."""

RESETTABLE = ("exp_inf", "acc_delta", "step", "mu_product")
"""Other moments with a known initial value; no sums of gradients, so sharing does not apply."""


@dataclass(frozen=True)
class Moments:
    """An optimiser whose moments follow the weights ("share") or start anew ("reset")."""

    optimizer: torch.optim.Optimizer
    treatment: Treatment

    @staticmethod
    def of(treatment: Treatment, optimizer: torch.optim.Optimizer | None) -> Moments:
        """Check that an optimiser's moments can be treated.

        Raises:
            ValueError: there is no optimiser, or a moment of an unknown kind.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f'moments="{treatment}" needs the optimizer: call with optimizer=...; got {optimizer!r}')
        share = treatment == "share"
        names = {
            name
            for state in optimizer.state.values()
            for name, value in state.items()
            if isinstance(value, Tensor) and (value.ndim or not share)  # counters are not shared
        }
        if unknown := names - {*LINEAR, *SQUARES, *(() if share else RESETTABLE)}:
            reason = "how they should be shared is not known" if share else "what they start at is not known"
            raise ValueError(
                f'moments must not be "{treatment}" for {type(optimizer).__name__}, which keeps '
                f"{', '.join(sorted(unknown))}: {reason}"
            )
        return Moments(optimizer, treatment)

    def check_layers(self, layers: Iterable[tuple[str, nn.Module]]) -> None:
        """Raise ValueError if the optimiser lacks the weight of a layer, unless the weight is frozen."""
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        for name, layer in layers:
            weight = layer.get_parameter("weight")
            if weight.requires_grad and id(weight) not in held:
                raise ValueError(
                    f'optimizer must hold the weight of layer {name!r} for moments="{self.treatment}"; got that of '
                    "another model, or of the one before to_locally_connected. Make it from this model's parameters"
                )

    def follow(
        self,
        weight: Tensor,
        modules: Sequence[SharingModule],
        group_means: GroupMeans,
        change: Change,
        factors: Tensor | None = None,
    ) -> None:
        """Treat the moments of a changed weight; before the first step of the optimiser there are none.

        Sums of gradients obey the linear part of the change and are multiplied by the factors (H_out, W_out, out) that
        scaled the weights: a sum of gradients m is a pending step of the weights, in proportion to m or, for Adam, to
        m / sqrt(v). Sums of squares v become the group means, or obey an `Averaging`, without factors: v only divides
        a step, which has the factor from m.
        """
        state: dict[str, Any] = self.optimizer.state.get(weight, {})
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if self.treatment == "reset":
                value.fill_(self._initial(weight, name))
            elif name in SQUARES:
                averaging = change if isinstance(change, Averaging) else Averaging(group_means)
                averaging.apply_to(value, modules)
            elif name in LINEAR:
                change.apply_linear_to(value, modules)
                if factors is not None:
                    physical(value).mul_(factors[..., None, None, None])

    def follow_bias(self, bias: Tensor, group_means: GroupMeans, spread: float) -> None:
        """Treat the moments of a shared bias; sums of gradients and of squares both follow the bias."""
        for name, value in self.optimizer.state.get(bias, {}).items():
            if not isinstance(value, Tensor):
                continue
            if self.treatment == "reset":
                value.fill_(self._initial(bias, name))
            elif name in (*LINEAR, *SQUARES):
                group_means.average_bias(value, spread)

    def _initial(self, weight: Tensor, name: str) -> float:
        """Value of a moment before the first step."""
        if name == "mu_product":  # NAdam's product of factors
            return 1.0
        if name == "sum":  # Adagrad's
            (group,) = (g for g in self.optimizer.param_groups if any(p is weight for p in g["params"]))
            return group.get("initial_accumulator_value", 0.0)
        return 0.0
