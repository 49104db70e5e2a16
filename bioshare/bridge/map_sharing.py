"""`MapSharing`: phases that apply a linear map to every layer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bioshare.bridge.changes import Change, LinearSleep
from bioshare.bridge.geometry import Kind, Layers, inputs_of, kind_of, layers_of
from bioshare.bridge.phase import seed_for
from bioshare.bridge.scaling import NormalisedRule, check_scalars
from bioshare.bridge.sharing import Sharing
from bioshare.circuit.rules import Hebbian
from bioshare.nn import LocallyConnected2d


class MapSharing(Sharing):
    """A phase that applies a linear map to every layer; layers with equal K, device and precision share a map."""

    rule: Any

    @property
    def capturable(self) -> bool:
        """True if the maps do not depend on the weights."""
        return True

    @abstractmethod
    def length(self, inputs: int) -> int:
        """Return the number of patterns for layers with K inputs per neuron."""

    def rule_for(self, inputs: int) -> Hebbian:
        """Return the rule of layers with K inputs per neuron.

        Raises:
            TypeError: the rule's function returns no Hebbian.
            ValueError: a parameter differs between groups.
        """
        rule = self.rule if isinstance(self.rule, Hebbian) else self.rule(inputs)
        if not isinstance(rule, Hebbian):
            raise TypeError(f"rule must return a Hebbian for {inputs} inputs; got {rule!r}")
        check_scalars(rule)
        return rule

    def tensors(self, model: nn.Module, seed: int | None = None) -> tuple[Tensor, ...]:
        """Return A, B and c of every map in turn, from the pool or simulated, one map for each kind of layer.

        Raises:
            ValueError: the phase is not `capturable`.
            DivergenceError: a map diverges.
        """
        if not self.capturable:
            raise ValueError(f'tensors need the exact engine, no noise, and patterns="drawn"; got {self!r}')
        layers, seed = layers_of(model, self.layers), seed_for(model, seed)
        kinds = [kind_of(layer) for _, layer in layers]
        maps = dict[Kind, Any](zip(kinds, self._changes(layers, seed, False, []), strict=True))
        return tuple(tensor for sleep in maps.values() for tensor in sleep.tensors)

    def apply(
        self, model: nn.Module, tensors: tuple[Tensor, ...], *, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Apply the maps of `tensors` to all layers; a CUDA graph can capture this after a first call.

        Raises:
            ValueError: a layer has no map, since the layer was not among the model's learning layers in `tensors`.
        """
        layers = layers_of(model, self.layers)
        triples = zip(tensors[::3], tensors[1::3], tensors[2::3], strict=True)
        maps: dict[Kind, LinearSleep] = {(len(A), A.device, A.dtype): LinearSleep(A, B, c) for A, B, c in triples}
        for name, layer in layers:
            if kind_of(layer) not in maps:
                raise ValueError(
                    f"tensors must have a map for layer {name!r}, with K = {inputs_of(layer)} inputs, in "
                    f"{kind_of(layer)[2]} on {layer.weight.device}; got none. Call tensors(model, seed) again after a "
                    "layer is moved, cast or learns again"
                )
        self._change_layers(layers, [maps[kind_of(layer)] for _, layer in layers], optimizer)

    def _checked_layers(self, model: nn.Module) -> Layers:
        layers = super()._checked_layers(model)
        for name, layer in layers:
            if any(math.gcd(*pair) > 1 for pair in zip(layer.kernel_size, layer.dilation, strict=True)):
                raise ValueError(
                    f"layer {name!r} has kernel_size={layer.kernel_size} and dilation={layer.dilation}: they share a "
                    "factor, so its taps see the same part of the sleeping pattern twice and never the rest, and "
                    "sleep cannot tell them apart. Use a dilation coprime to the kernel, or InstantSharing"
                )
            inputs = inputs_of(layer)
            with layer_named(name, self.rule):
                self.rule_for(inputs)
                self.length(inputs)
        return layers

    def _changes(self, layers: Layers, seed: int, progress: bool, map_seconds: list[float]) -> Iterable[Change]:
        maps = dict[Kind, LinearSleep]()
        for name, layer in layers:
            if (kind := kind_of(layer)) not in maps:
                with layer_named(name, self.rule), torch.autocast(layer.weight.device.type, enabled=False):
                    maps[kind] = self._map(layer, seed, progress, map_seconds)
        return [maps[kind_of(layer)] for _, layer in layers]

    @abstractmethod
    def _map(self, layer: LocallyConnected2d, seed: int, progress: bool, map_seconds: list[float]) -> LinearSleep:
        """The map of a layer; appends the duration to ``map_seconds`` if simulated."""


@contextmanager
def layer_named(name: str, rule: object) -> Iterator[None]:
    """Put the name of a layer, and the strength of a normalised rule, into the errors of a block."""
    try:
        yield
    except (TypeError, ValueError) as error:
        strength = f" (its strength is {rule.strength:g})" if isinstance(rule, NormalisedRule) else ""
        raise type(error)(f"layer {name!r}: {error}{strength}") from error
