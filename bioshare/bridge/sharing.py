"""What `Sleep`, `InstantSharing` and `HebbianSharing` have in common: their call, and `change`, its silent form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from bioshare.bridge.changes import Change
from bioshare.bridge.lattice import Border, Layers, layers_of, sharing_layers
from bioshare.bridge.moments import Moments, Treatment
from bioshare.bridge.report import SleepReport
from bioshare.bridge.walk import change_layers, report_changes
from bioshare.checks import whole
from bioshare.nn import LocallyConnected2d


@dataclass(frozen=True)
class Costs:
    """What the maps of a call cost; as in a `SleepReport`."""

    maps: int = 0
    map_seconds: float = 0.0
    pool_maps: int = 0
    pool_bytes: int = 0


class Changes(ABC):
    """The changes of one call, layer by layer.

    Attributes:
        rescale: whether every group's mean is brought back to its norm.
    """

    rescale: bool = False

    @abstractmethod
    def check(self) -> None:
        """Refuse what can't be done, before any layer has changed."""

    @abstractmethod
    def change_of(self, layer: LocallyConnected2d, index: int) -> Change:
        """The change of one layer, just before it happens."""

    def costs(self) -> Costs:
        """What was spent on maps so far."""
        return Costs()


class Sharing(ABC):
    """What changes the weights of a model's sharing groups, in place."""

    border: Border
    moments: Treatment

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
        """Change the weights of ``model`` in place. Modules with a single neuron are left alone.

        Args:
            model: its `LocallyConnected2d` layers change one after the other, in the order of ``model.modules()``.
            seed: any non-negative integer; decides the stimuli, if there are any.
            progress: show a bar for a layer that takes longer than two seconds.
            measure: whether to spend time on SNR, spread and drift; the report has NaN for them without.
            optimizer: whose ``moments`` are shared or reset.
            keep: name of a layer and number of an output channel, whose weights the report keeps and draws.

        Returns:
            What happened, a layer a row.

        Raises:
            TypeError, ValueError: the model has no locally connected layer, or one with weights that aren't finite;
                ``moments`` need an optimizer; ``keep`` names nothing; or the way of sharing refuses a layer (see the
                class). No weight was changed.
            DivergenceError: a simulated sleep diverges; layers and modules before the one that does have slept.
        """
        whole("seed", seed, "a non-negative integer", at_least=0)
        follow = Moments.of(self.moments, optimizer)
        layers = sharing_layers(model)
        changes = self._changes(layers, seed, progress)
        changes.check()
        reports, kept = report_changes(
            layers,
            changes.change_of,
            border=self.border,
            rescale=changes.rescale,
            moments=follow,
            measured=measure,
            keep=keep,
        )
        return SleepReport(reports, kept=kept, **vars(changes.costs()))

    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Do to the weights what a call does, to the bit, without its checks and its report: for training loops.

        Nothing here waits for a GPU, but for what a call would simulate. So `InstantSharing` can be captured in a CUDA
        graph once it has been called for a model, which puts its indices on the device; and a `Sleep` whose pool is
        filled only hands over work. What a call would refuse is not refused: call once before.

        Args:
            model, seed, optimizer: as for the call.
        """
        follow = Moments.of(self.moments, optimizer)
        layers = layers_of(model)
        changes = self._changes(layers, seed, progress=False)
        change_layers(layers, changes.change_of, border=self.border, rescale=changes.rescale, moments=follow)

    @abstractmethod
    def _changes(self, layers: Layers, seed: int, progress: bool) -> Changes:
        """The changes of one call."""
