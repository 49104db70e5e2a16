"""Report of a sleep: SNR, spread and drift of the mean of every layer; printed, stored and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bioshare.bridge.geometry import Border, checked_layers, modules
from bioshare.checks import whole
from bioshare.machine import versions

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

VERSIONED = ("numpy", "torch", "xarray")
"""Packages whose versions a stored report names."""


@dataclass(frozen=True)
class LayerReport:
    """Effect of a sleep on a layer: medians over the sharing groups with a value, NaN if no group has a value.

    Groups without spread before sleep have no ratio of spreads, and groups with a mean of 0 have no drift. All values
    describe the weights in the precision of the layer.

    Attributes:
        name: name of the layer in the model.
        modules: number of modules that changed.
        spread: root of the summed variance of a group's weights after sleep, over the same root before. The spread is
            the number to read first; a mean near 0 does not blow it up, and rescaled means stretch it with them.
        mean_norm: norm of a group's mean weight vector after the circuit's sleep, over the norm before, without
            rescaling: the loss that rescaling makes up for.
        mean_angle: angle between the mean weight vectors before and after sleep, in degrees.
        neg_log_snr_before, neg_log_snr_after: log mean_j(var_j / mean_j^2), large if a single mean lies near 0.
        minutes: time asleep of the layer's neurons, by `bioshare.Sleep.minutes`; NaN if nothing is presented in time.
        seconds: wall-clock time of the change, without maps made before. On a GPU and without measurement, the time
            to queue the work, which may end later.
    """

    name: str
    modules: int
    spread: float
    mean_norm: float
    mean_angle: float
    neg_log_snr_before: float
    neg_log_snr_after: float
    minutes: float
    seconds: float

    @property
    def label(self) -> str:
        """Name for people, also for a model that is itself a layer."""
        return self.name or "(model)"


COLUMNS = {
    "modules": ("modules", "d", "modules that took part"),
    "spread": ("spread", ".4f", "root of the summed variance after sleep, over that before"),
    "mean_norm": ("|mean|", ".4f", "norm of the mean weight vector as the circuit left it, over that before sleep"),
    "mean_angle": ("angle", ".3f", "angle between the mean weight vectors before and after sleep, in degrees"),
    "neg_log_snr_before": ("-log SNR before", ".2f", "log mean_j(var_j / mean_j^2) before sleep"),
    "neg_log_snr_after": ("after", ".2f", "log mean_j(var_j / mean_j^2) after sleep"),
    "minutes": ("minutes", ".2f", "time asleep of the neurons in minutes"),
    "seconds": ("seconds", ".3f", "wall-clock time in seconds"),
}
"""Fields of a `LayerReport` after the name: head and format in the printed table, and the meaning.

Spread comes first: -log SNR divides by the squared means of single inputs, and has no finite expectation over networks,
where many means lie around 0.
"""

QUANTITIES = tuple(COLUMNS)[1:-2]
"""Names of the quantities measured in every group."""


@dataclass(frozen=True, eq=False)
class KeptChannel:
    """Weights of an output channel before and after a sleep, each (H_out, W_out, in / groups, kh, kw)."""

    name: str
    channel: int
    before: Tensor
    after: Tensor


@dataclass(frozen=True, repr=False)
class SleepReport:
    """Effect of a sleep on a model, printed as a table with a row for every layer.

    `to_xarray` stores the report, `write_to` sends the report to TensorBoard, and `draw` shows the kept weights.

    Attributes:
        layers: rows in the order of the sleep.
        maps: number of linear maps simulated for this sleep.
        map_seconds: wall-clock time of these simulations.
        pool_maps, pool_bytes: number and memory of the maps in the pool.
        kept: weights of a channel, if a call asked for the channel.
        left_alone: names of the locally connected layers that did not take part: frozen, or not among ``layers``.
        seed: seed of the stimuli.
    """

    layers: tuple[LayerReport, ...]
    maps: int = 0
    map_seconds: float = 0.0
    pool_maps: int = 0
    pool_bytes: int = 0
    kept: KeptChannel | None = None
    left_alone: tuple[str, ...] = ()
    seed: int = 0

    def __repr__(self) -> str:
        columns = {name: column for name, column in COLUMNS.items() if name != "minutes" or self._times()}
        heads = "layer", *(head for head, _, _ in columns.values())
        rows = [
            (row.label, *(_cell(getattr(row, name), form) for name, (_, form, _) in columns.items()))
            for row in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (heads, *rows)]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        """Lines below the table: explanation and costs."""
        absent = any(math.isnan(getattr(row, name)) for name in QUANTITIES for row in self.layers)
        missing = "; -: no value" if absent else ""
        notes = [f"(medians over groups; spread and |mean| are ratios, after / before; angle in degrees{missing})"]
        if len(self.layers) > 1:
            notes.append(f"{len(self.layers)} layers in {sum(row.seconds for row in self.layers):.2f} s")
        if self.maps + self.pool_maps:
            kept = f"; {self.pool_maps} kept, {self.pool_bytes / 1e6:.1f} MB" if self.pool_maps else ""
            notes.append(f"maps simulated: {self.maps}, {self.map_seconds:.2f} s{kept}")
        if times := self._times():
            longest = f" one layer after another, {_duration(max(times))} all at once" if len(times) > 1 else ""
            notes.append(f"time asleep: {_duration(sum(times))}{longest}")
        if self.left_alone:
            notes.append(f"left alone (frozen, or not chosen): {', '.join(self.left_alone)}")
        return notes

    def _times(self) -> list[float]:
        """Minutes asleep of all layers with such a time."""
        return [row.minutes for row in self.layers if not math.isnan(row.minutes)]

    def to_xarray(self) -> xr.Dataset:
        """Return the report with the axis layer, without kept weights; costs, the seed and versions are attributes."""
        import xarray as xr

        variables = {
            name: ("layer", np.array([getattr(row, name) for row in self.layers]), {"long_name": meaning})
            for name, (_, _, meaning) in COLUMNS.items()
        }
        names = np.array([row.name for row in self.layers])  # as text, not objects
        coordinates = {"layer": ("layer", names, {"long_name": "name in the model, in the order of sleep"})}
        return xr.Dataset(variables, coordinates, self._costs() | {"seed": self.seed} | versions(*VERSIONED))

    def write_to(self, writer: Any, step: int) -> None:
        """Write every layer's measurements and seconds for TensorBoard, and a picture of kept weights.

        The tags are sleep/spread/<layer>, sleep/neg_log_snr_after/<layer>, ..., sleep/maps, ... and
        sleep/weights/<layer>/<channel>. Curves leave out NaN and infinities: exactly equal weights have a spread of 0
        and a gap in place of a -log SNR of -inf.

        Args:
            writer: a `torch.utils.tensorboard.SummaryWriter`, or an object with the methods add_scalar and, for kept
                weights, add_figure.
            step: position on the horizontal axis, such as the number of optimiser steps.

        Raises:
            TypeError, ValueError: ``writer`` lacks a method, or ``step`` is no whole number >= 0. Nothing was written.
        """
        whole("step", step, "a number of steps", at_least=0)
        for method in ("add_scalar", "add_figure") if self.kept else ("add_scalar",):
            if not hasattr(writer, method):
                raise TypeError(f"writer must have {method}, as a SummaryWriter has; got {writer!r}")
        values: dict[str, float] = self._costs()
        values |= {
            "/".join(filter(None, (name, row.name))): getattr(row, name)
            for name in (*QUANTITIES, "seconds")
            for row in self.layers
        }
        for tag, value in values.items():
            if math.isfinite(value):
                writer.add_scalar(f"sleep/{tag}", value, step)
        if self.kept:
            tag = "/".join(filter(None, ("sleep/weights", self.kept.name, str(self.kept.channel))))
            writer.add_figure(tag, self.draw(), step)

    def draw(self, inputs: int = 0) -> Figure:
        """Draw the kept channel's kernels at all positions before and after sleep; ``draw().savefig(path)`` works.

        For a `bioshare.nn.PatchwiseLinear`, all weights of the output: a row for every token, a column for every input.

        Args:
            inputs: number of the input channel within the output channel's group.

        Raises:
            TypeError, ValueError: no weights were kept, or the layer has no such input channel.
        """
        from bioshare.bridge import picture

        if self.kept is None:
            raise ValueError(
                "this report kept no weights to draw: call the sleep with keep=(layer, output channel), for instance "
                f"keep=({self.layers[0].name!r}, 0)"
            )
        (row,) = (row for row in self.layers if row.name == self.kept.name)
        channels = self.kept.before.shape[2]
        expected = f"an input channel of layer {row.label!r}, a whole number from 0 to {channels - 1}"
        if whole("inputs", inputs, expected, at_least=0) >= channels:
            raise ValueError(f"inputs must be {expected}; got {inputs}")
        title = f"layer {row.label}: output channel {self.kept.channel}, input channel {inputs}"
        both = [weights.double().numpy() for weights in (self.kept.before, self.kept.after)]
        names = "row", "column"
        if both[0].shape[1] == math.prod(both[0].shape[3:]) == 1:  # (tokens, 1, inputs, 1, 1)
            title, names = title.partition(", ")[0], ("token", "input")
            before, after = (weights.swapaxes(1, 2)[:, :, 0] for weights in both)
        else:
            before, after = (weights[:, :, inputs] for weights in both)
        if not math.isnan(row.neg_log_snr_before):
            title += f"\n-log SNR of the layer: {row.neg_log_snr_before:.2f} to {row.neg_log_snr_after:.2f}"
        return picture.draw_mosaics(before, after, title, names)

    def _costs(self) -> dict[str, Any]:
        """Costs of the maps by name."""
        return {name: getattr(self, name) for name in ("maps", "map_seconds", "pool_maps", "pool_bytes")}


def _cell(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _duration(minutes: float) -> str:
    if minutes >= 120:
        return f"{minutes / 60:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.2g} min"


def measure_groups(before: Tensor, after: Tensor, unscaled: Tensor | None = None) -> np.ndarray:
    """Measure the `QUANTITIES` of groups (out, N, K) before and after a sleep, and return an array (5, out).

    ``unscaled`` are the groups after sleep without rescaling, if different from ``after``.
    """
    (old, old_variance), (new, new_variance) = _group_statistics(before), _group_statistics(after)  # each (out, K)
    circuit_mean = new if unscaled is None else _group_statistics(unscaled)[0]
    old_norm, new_norm, circuit_norm = (torch.linalg.vector_norm(mean, dim=-1) for mean in (old, new, circuit_mean))
    old_unit, new_unit = old / old_norm[:, None], new / new_norm[:, None]  # NaN: a mean of 0 has no direction
    apart, along = (torch.linalg.vector_norm(vector, dim=-1) for vector in (old_unit - new_unit, old_unit + new_unit))
    quantities = (
        (new_variance.sum(-1) / old_variance.sum(-1)).sqrt(),  # NaN: equal weights have no spread
        torch.where(old_norm > 0, circuit_norm / old_norm, math.nan),
        2 * torch.atan2(apart, along).rad2deg(),  # exact for small angles, unlike an angle from the cosine
        _group_neg_log_snr(old, old_variance),
        _group_neg_log_snr(new, new_variance),
    )
    return torch.stack(quantities).cpu().numpy()


def _group_statistics(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the neurons of groups (out, N, K), both (out, K), on the device of the groups.

    The precision is float64 if the device supports float64. As in `bioshare.circuit.theory`, deviations are taken
    from the first neuron, so equal weights have a variance of exactly 0.
    """
    neurons = (groups.cpu() if groups.device.type == "mps" else groups).double().transpose(0, 1)  # as in memory
    deviations = neurons - neurons[:1]
    shift = deviations.mean(0)
    return neurons[0] + shift, (deviations - shift).square_().mean(0)


def _group_neg_log_snr(mean: Tensor, variance: Tensor) -> Tensor:
    """`bioshare.circuit.theory.neg_log_snr` from the mean and variance (out, K) on any device, (out,)."""
    return torch.where(variance > 0, variance / mean.square(), 0).mean(-1).log()


def medians(measured: Sequence[np.ndarray]) -> dict[str, float]:
    """Take the medians of the `QUANTITIES` of a layer's modules over all groups with a value; NaN without any."""
    values = np.concatenate([np.full((len(QUANTITIES), 0), math.nan), *measured], 1)
    finite = (row[~np.isnan(row)] for row in values)
    return {name: float(np.median(row)) if row.size else math.nan for name, row in zip(QUANTITIES, finite, strict=True)}


def neg_log_snr(model: nn.Module, border: Border = "share") -> dict[str, float]:
    """Measure -log SNR of every locally connected layer by name, the median over the sharing groups (as in Fig. 6)."""
    measured = {}
    for name, layer in checked_layers(model, ("*",)):
        groups = [module.groups(layer.weight.detach()) for module in modules(layer, border)]
        values = [_group_neg_log_snr(*_group_statistics(one)) for one in groups]
        measured[name] = float(np.median(torch.cat(values).cpu().numpy())) if values else math.nan
    return measured
