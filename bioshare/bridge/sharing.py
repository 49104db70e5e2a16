"""Phases that share weights: first the changes of all layers, then a loop over the layers from input to output."""

from __future__ import annotations

import difflib
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from bioshare.bridge.changes import Averaging, Change, LinearSleep
from bioshare.bridge.geometry import (
    Border,
    Chosen,
    GroupMeans,
    Layers,
    all_layers,
    checked_layers,
    inputs_of,
    layers_of,
    modules,
)
from bioshare.bridge.moments import Moments, Treatment
from bioshare.bridge.norms import mean_ratio, rms_ratio
from bioshare.bridge.phase import Phase, check_call, seed_for
from bioshare.bridge.report import KeptChannel, LayerReport, SleepReport, measure_groups, medians
from bioshare.checks import choice, flag, real, whole
from bioshare.nn import LocallyConnected2d
from bioshare.nn.functional import physical

Note = Callable[[Tensor, Tensor, Tensor], None]
"""A function of the groups (out, N, K) of a module before a change, after the change, and before rescaling."""


class Sharing(Phase):
    """A phase that changes the sharing groups of locally connected layers, in the order of ``model.modules()``.

    Modules with a single neuron are left alone, and so are layers with a frozen weight (``requires_grad=False``) unless
    ``layers`` names the layer. The biases of a group become the mean without simulation: a bias is the weight of an
    input that is always active, and no pattern distinguishes the neurons. Frozen biases are left alone.

    In a model with feedback (`bioshare.nn.with_feedback`), the difference of weights and feedback weights that
    `bioshare.KolenPollack` keeps follows the linear part of the change, so that W - B is as if both had changed.
    """

    border: Border
    moments: Treatment
    layers: Chosen
    spread: float = 0.0
    rescale: bool = False
    gain: float = 1.0
    feedback: bool = False
    pooled: dict[Any, LinearSleep] = {}  # noqa: RUF012 (nothing writes to the empty pool of a phase without one)

    def __post_init__(self) -> None:
        for name, values in {"border": get_args(Border), "moments": get_args(Treatment)}.items():
            choice(name, getattr(self, name), values)
        names = () if self.layers is None else self.layers
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(f'layers must be a tuple of names, such as ("stages.0.*",), or None; got {self.layers!r}')
        flag("feedback", self.feedback)

    def __call__(
        self,
        model: nn.Module,
        seed: int | None = None,
        progress: bool = True,
        measure: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        keep: tuple[str, int] | None = None,
    ) -> SleepReport:
        """Change the weights of ``model`` in place and return a report with a row for every layer.

        Args:
            model, progress: as for `Phase`.
            seed: seed of the stimuli; without a seed the seeds of a model's calls are 0, 1, 2, ... as for `Phase`.
            measure: measure SNR, spread and drift; NaN in the report otherwise.
            optimizer: the optimiser whose ``moments`` are shared or reset.
            keep: name of a layer and number of an output channel, whose weights the report stores and draws.

        Raises:
            TypeError, ValueError: the model has no locally connected layer, or a weight is not finite; ``moments``
                need an optimizer; ``keep`` names nothing; or a layer cannot share (see the class). No weight has
                changed.
            DivergenceError: a simulated sleep diverges. No weight has changed, except in a relayed or noisy sleep,
                where the layers before the diverging layer have slept.
        """
        check_call(progress, measure, optimizer)
        moments = None if self.moments == "keep" else Moments.of(self.moments, optimizer)
        layers = self._checked_layers(model)
        if keep is not None:
            _check_channel(keep, dict(layers))
        if moments:
            moments.check_layers(layers)
        seed = seed_for(model, seed)
        map_seconds, rows, kept = list[float](), list[LayerReport](), None
        for (name, layer), change in zip(layers, self._changes(layers, seed, progress, map_seconds), strict=True):
            start, values, channel = time.perf_counter(), [], keep[1] if keep and keep[0] == name else None
            before = None if channel is None else layer.weight[:, :, channel].detach().cpu().clone()
            note = (lambda *groups, values=values: values.append(measure_groups(*groups))) if measure else None
            self._change_layer(layer, change, moments, note)
            if before is not None and channel is not None:
                kept = KeptChannel(name, channel, before, layer.weight[:, :, channel].detach().cpu().clone())
            seconds, count = time.perf_counter() - start, len(modules(layer, self.border))
            minutes = self.minutes(inputs_of(layer)) if count else math.nan
            rows.append(LayerReport(name, count, **medians(values), minutes=minutes, seconds=seconds))
        pool_maps, pool_bytes = len(self.pooled), sum(sleep.bytes for sleep in self.pooled.values())
        left_alone = tuple(name for name, _ in all_layers(model) if name not in dict(layers))
        costs = len(map_seconds), sum(map_seconds), pool_maps, pool_bytes
        return SleepReport(tuple(rows), *costs, kept, left_alone, seed)

    def change(
        self, model: nn.Module, seed: int | None = None, *, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Change the weights with the same bits as a call, without checks and report: for training loops.

        Only the simulation of maps may wait for a GPU. Errors are those of a call: call once before a loop.
        """
        layers, seed = layers_of(model, self.layers), seed_for(model, seed)
        self._change_layers(layers, self._changes(layers, seed, progress=False, map_seconds=[]), optimizer)

    def check(self, model: nn.Module) -> None:
        """Raise TypeError or ValueError if the layers of a model cannot share, before any time is spent."""
        self._checked_layers(model)

    def minutes(self, inputs: int) -> float:
        """Return the time asleep of neurons with K inputs in minutes, or NaN: only a `bioshare.Sleep` takes time."""
        return math.nan

    def _checked_layers(self, model: nn.Module) -> Layers:
        """The layers of a model after all checks that need no stimuli."""
        layers = checked_layers(model, self.layers)
        if self.feedback and not any(hasattr(layer, "feedback") for _, layer in layers):
            raise ValueError("feedback=True needs a model with feedback weights: bioshare.nn.with_feedback(model)")
        return layers

    @abstractmethod
    def _changes(self, layers: Layers, seed: int, progress: bool, map_seconds: list[float]) -> Iterable[Change]:
        """The change of every layer in turn; the durations of simulated maps are appended to ``map_seconds``."""

    def _change_layers(
        self, layers: Layers, changes: Iterable[Change], optimizer: torch.optim.Optimizer | None
    ) -> None:
        moments = None if self.moments == "keep" else Moments.of(self.moments, optimizer)
        for (_, layer), change in zip(layers, changes, strict=True):
            self._change_layer(layer, change, moments)

    @torch.no_grad()
    def _change_layer(
        self, layer: LocallyConnected2d, change: Change, moments: Moments | None, note: Note | None = None
    ) -> None:
        weight, bias, members, factors = layer.weight, layer.bias, modules(layer, self.border), None
        group_means = GroupMeans.of_layer(layer, self.border)
        with torch.autocast(weight.device.type, enabled=False):
            if note or self.rescale or self.gain != 1 or self.border == "scale":
                factors = self._change_modules(layer, change, note)
            else:
                change.apply_to(weight, members)
            if moments:
                moments.follow(weight, members, group_means, change, factors)
            followers = {"difference": change.apply_linear_to, "feedback": change.apply_to}
            for name in ("difference", "feedback") if self.feedback else ("difference",):
                if (tensor := getattr(layer, name, None)) is not None:
                    followers[name](tensor, members)
                    if factors is not None:
                        physical(tensor).mul_(factors[..., None, None, None])
            if bias is not None and bias.requires_grad:
                group_means.average_bias(bias, self.spread)
                if moments:
                    moments.follow_bias(bias, group_means, self.spread)

    def _change_modules(self, layer: LocallyConnected2d, change: Change, note: Note | None) -> Tensor:
        """Change and scale a layer module by module; return all factors (H_out, W_out, out) besides the change."""
        weight, whole = layer.weight, modules(layer, "share", smallest=0)
        wide = torch.promote_types(weight.dtype, torch.float32)
        factors = torch.ones(weight.shape[:3], dtype=wide, device=weight.device)
        for module, before, slept in change(weight, modules(layer, self.border)):
            constant = slept.new_full(slept.shape[:1], self.gain)  # (out,)
            # rescaled, the mean of every group gets the norm from before the sleep
            factor = mean_ratio(before, slept) if self.rescale else constant
            after = slept * factor[:, None, None]
            if note:
                note(before, after.to(weight.dtype), slept)
            if self.border == "scale":  # all positions of the module, of which the sharing positions change below
                row, column = (part.start % part.step for part in (module.rows, module.columns))
                ratio, padded = rms_ratio(after, before), whole[row * module.columns.step + column]
                padded.write(weight, padded.groups(weight) * ratio[:, None, None])
                factors[padded.rows, padded.columns] = ratio
            module.write(weight, after)
            factors[module.rows, module.columns] = factor
        return factors


@dataclass(frozen=True)
class InstantSharing(Sharing):
    """Set every sharing group to the group's mean, or closer to the mean, in place: the limit of an ideal sleep.

    Args:
        border, moments, layers, feedback: as for `Sleep`.
        spread: fraction of every deviation from the mean that remains, w_i = mean + spread (w_i - mean); 0 leaves the
            mean alone, 1 changes nothing.

    Example:
        >>> layer = LocallyConnected2d(1, 2, 3, input_size=8)
        >>> report = InstantSharing()(layer)
        >>> torch.allclose(layer.weight[0, 0], layer.weight[3, 3])
        True
    """

    border: Border = "share"
    moments: Treatment = "keep"
    spread: float = 0.0
    layers: Chosen = None
    feedback: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real("spread", self.spread, "a fraction from 0 to 1", at_least=0, below=math.nextafter(1, 2), array=False)

    @property
    def capturable(self) -> bool:
        """True: group means need no seed."""
        return True

    def _changes(self, layers: Layers, seed: int, progress: bool, map_seconds: list[float]) -> Iterable[Change]:
        return [Averaging(GroupMeans.of_layer(layer, self.border), self.spread) for _, layer in layers]


def _check_channel(keep: object, layers: Mapping[str, LocallyConnected2d]) -> None:
    """Raise TypeError or ValueError if ``keep`` names no layer and channel."""
    expected = "keep must be a layer's name and the number of an output channel, such as ('stages.0.0.conv1', 0)"
    if not isinstance(keep, tuple) or len(keep) != 2 or not isinstance(keep[0], str):
        raise TypeError(f"{expected}; got {keep!r}")
    name, channel = keep
    if name not in layers:
        near = ", ".join(map(repr, difflib.get_close_matches(name, layers, cutoff=0.0)))
        raise ValueError(f"keep must name a locally connected layer of the model; got {name!r}. Nearest: {near}")
    channels = layers[name].out_channels
    expected = f"an output channel of layer {name!r} (0 to {channels - 1})"
    if whole("keep", channel, expected, at_least=0) >= channels:
        raise ValueError(f"keep must have {expected}; got {channel}")
