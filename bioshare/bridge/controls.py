"""Controls: phases that share differently, more, or not at all, to find out why sharing helps a network."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bioshare.bridge.changes import Averaging
from bioshare.bridge.geometry import GroupMeans, checked_layers, class_tokens_of, layers_of, modules
from bioshare.bridge.norms import rms_ratio
from bioshare.bridge.phase import Phase
from bioshare.checks import whole
from bioshare.circuit.stimuli import derived
from bioshare.nn import LocallyConnected2d


class Control(Phase):
    """A change of all layers whose weights learn, positions at the padding included; moments of an optimiser stay."""

    def check(self, model: nn.Module) -> None:
        """Raise TypeError or ValueError if the layers of a model cannot share, before any time is spent."""
        checked_layers(model)

    @torch.no_grad()
    def change(self, model: nn.Module, seed: int = 0, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change the weights of all layers; neither the seed nor the optimiser matters."""
        for index, (_, layer) in enumerate(layers_of(model)):
            self.change_layer(layer, index)

    @abstractmethod
    def change_layer(self, layer: LocallyConnected2d, index: int) -> None:
        """Change the weights of a layer in place; layers are counted from the input."""


@dataclass(frozen=True)
class RandomGroups(Control):
    """Set random groups of positions to the means of the groups, as many and as large as the modules of a layer.

    A layer has the same groups at every call, for all output channels. If random groups help as much as
    `bioshare.InstantSharing`, then lateral connections could be anywhere.

    Args:
        groups_seed: seed of the groups.

    Example:
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> report = RandomGroups()(layer)
        >>> len(layer.weight.flatten(2).flatten(0, 1).unique(dim=0))  # nine groups of four positions
        9
    """

    groups_seed: int = 0

    def __post_init__(self) -> None:
        whole("groups_seed", self.groups_seed, "a non-negative integer", at_least=0)

    def change_layer(self, layer: LocallyConnected2d, index: int) -> None:
        """Average the groups of a layer; layers differ in their groups."""
        own, first = GroupMeans.of_layer(layer, "share"), class_tokens_of(layer)
        order = np.random.default_rng(derived(self.groups_seed, index)).permutation(len(own.set_of) - first)
        order = np.concatenate([np.arange(first), first + order])  # class tokens stay alone
        moved, back = (torch.from_numpy(numbers).to(own.set_of.device) for numbers in (order, order.argsort()))
        groups = GroupMeans(moved[own.positions], own.starts, own.set_of[back])
        groups.average(layer.weight)
        if layer.bias is not None:
            groups.average_bias(layer.bias)


@dataclass(frozen=True)
class LayerMean(Control):
    """Set all positions of a layer to one mean: the weights of a convolution, and the best that sharing could reach.

    Example:
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> report = LayerMean()(layer)
        >>> bool((layer.weight == layer.weight[0, 0]).all())
        True
    """

    def change_layer(self, layer: LocallyConnected2d, index: int) -> None:
        """Average a layer."""
        wide, first = torch.promote_types(layer.weight.dtype, torch.float32), class_tokens_of(layer)
        weight = layer.weight[first:]
        weight.copy_(weight.mean((0, 1), keepdim=True, dtype=wide))
        if layer.bias is not None:
            bias = layer.bias[:, first:]
            bias.copy_(bias.mean((1, 2), keepdim=True, dtype=wide))


@dataclass(frozen=True)
class Shrinking(Control):
    """Shrink all kernels without sharing, so that norms fall as `bioshare.InstantSharing` would have made norms fall.

    The kernels of every module and output channel have one factor: the norm of the mean kernel over the root mean
    square norm of the kernels. Directions stay. If shrinking helps as much as sharing, smaller weights suffice.

    Example:
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> before = layer.weight.norm()
        >>> report = Shrinking()(layer)
        >>> bool(layer.weight.norm() < before)
        True
    """

    def change_layer(self, layer: LocallyConnected2d, index: int) -> None:
        """Shrink the kernels of a layer."""
        averaging = Averaging(GroupMeans.of_layer(layer, "share"))
        for module, kernels, means in averaging(layer.weight, modules(layer)):
            module.write(layer.weight, kernels * rms_ratio(means, kernels)[:, None, None])
