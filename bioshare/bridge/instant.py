"""`InstantSharing`: every sharing group becomes its mean, at once."""

from __future__ import annotations

from dataclasses import dataclass

from bioshare.bridge.bags import Bags
from bioshare.bridge.changes import Averaging
from bioshare.bridge.lattice import Border, Layers, refuse_border
from bioshare.bridge.moments import Treatment, refuse_treatment
from bioshare.bridge.sharing import Changes, Sharing
from bioshare.nn import LocallyConnected2d


@dataclass(frozen=True)
class InstantSharing(Sharing):
    """Set every sharing group to its mean: the limit of an ideal sleep, in place.

    Args:
        border: "share": positions whose patch reaches into the padding take part; "keep": they keep their weights.
        moments: as for `Sleep`.

    Example:
        >>> import torch
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

    def _changes(self, layers: Layers, seed: int, progress: bool) -> Changes:
        return _Averages(self.border)


@dataclass
class _Averages(Changes):
    """Means, whatever the layer."""

    border: Border

    def check(self) -> None:
        """Any layer will do."""

    def change_of(self, layer: LocallyConnected2d, index: int) -> Averaging:
        return Averaging(Bags.of_layer(layer, self.border))
