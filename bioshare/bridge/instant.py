"""`InstantSharing`: every sharing group becomes its mean, at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bioshare.bridge.changes import Averaging
from bioshare.bridge.lattice import Border, refuse_border
from bioshare.bridge.moments import Moments, Treatment, refuse_treatment
from bioshare.bridge.report import SleepReport
from bioshare.bridge.walk import change_layers


@dataclass(frozen=True)
class InstantSharing:
    """Set every sharing group to its mean: the limit of an ideal sleep, in place.

    Args:
        border: "share": positions whose patch reaches into the padding take part; "keep": they keep their weights.
        moments: as for `Sleep`.

    Example:
        >>> from bioshare.nn import LocallyConnected2d
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> report = InstantSharing()(layer)
        >>> torch.allclose(layer.weight[0, 0], layer.weight[3, 3])
        True
    """

    border: Border = "share"
    moments: Treatment = "keep"

    def __post_init__(self) -> None:
        refuse_border(self.border)
        refuse_treatment(self.moments)

    def __call__(
        self,
        model: nn.Module,
        seed: int = 0,
        progress: bool = True,
        measure: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        keep: tuple[str, int] | None = None,
    ) -> SleepReport:
        """Share the weights of every locally connected layer; the arguments are those of `Sleep`'s call."""
        follow = Moments.of(self.moments, optimizer)
        averaging = Averaging()
        layers, kept = change_layers(
            model, lambda layer, index: averaging, border=self.border, moments=follow, measured=measure, keep=keep
        )
        return SleepReport(layers, kept=kept)
