"""What a sleep did to a model: SNR, spread and drift of the mean, layer by layer; printed, stored and drawn."""

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


@dataclass(frozen=True)
class LayerReport:
    """What a sleep did to one layer; medians over its sharing groups, NaN where none has a value.

    Groups without a spread before sleep have none after it to compare with, and those with a mean of 0 no drift. What
    is measured are the weights as the layer holds them, rounded to its precision.

    Attributes:
        name: of the layer in the model.
        modules: how many of its modules took part.
        neg_log_snr_before, neg_log_snr_after: log mean_j(var_j / mean_j^2).
        spread: root of the summed variance of a group's weights after sleep, over that before. Unlike the SNR it
            knows no mean that may happen to lie near 0.
        mean_norm: norm of a group's mean weight vector as the circuit left it, over that before sleep. Where the sleep
            rescales means, they have their old norm again, and this says how much they had lost.
        mean_angle: angle between the mean weight vectors before and after sleep, in degrees.
        seconds: wall-clock time, that of a map which this layer was the first to need included. On a GPU, without
            measuring, it is the time to hand the work over, which may end later.
    """

    name: str
    modules: int
    neg_log_snr_before: float
    neg_log_snr_after: float
    spread: float
    mean_norm: float
    mean_angle: float
    seconds: float

    @property
    def label(self) -> str:
        """Its name for people: a model that is a layer itself has none."""
        return self.name or "(model)"


COLUMNS = {
    "modules": ("modules", "d", "modules that took part"),
    "neg_log_snr_before": ("-log SNR before", ".2f", "log mean_j(var_j / mean_j^2) before sleep"),
    "neg_log_snr_after": ("after", ".2f", "log mean_j(var_j / mean_j^2) after sleep"),
    "spread": ("spread", ".4f", "root of the summed variance after sleep, over that before"),
    "mean_norm": ("|mean|", ".4f", "norm of the mean weight vector as the circuit left it, over that before sleep"),
    "mean_angle": ("angle", ".3f", "angle between the mean weight vectors before and after sleep, in degrees"),
    "seconds": ("seconds", ".3f", "wall-clock time in seconds"),
}
"""The fields of a `LayerReport` but its name: head and format in the printed table, and the meaning."""

QUANTITIES = tuple(COLUMNS)[1:-1]
"""What is measured in every group."""


@dataclass(frozen=True, eq=False)
class KeptChannel:
    """One output channel's weights over positions, (H_out, W_out, in / groups, kh, kw), before and after a sleep."""

    name: str
    channel: int
    before: Tensor
    after: Tensor


@dataclass(frozen=True, repr=False)
class SleepReport:
    """What a sleep did to a model, a layer a row; prints as a table.

    `to_xarray` stores it, `write_to` shows it in TensorBoard, and `draw` makes a picture of the kept weights.

    Attributes:
        layers: in the order in which they slept.
        maps: how many linear maps were simulated for it.
        map_seconds: wall-clock time of that.
        pool_maps, pool_bytes: maps that are kept for later sleeps, and their memory.
        kept: the weights of one channel, if they were asked for.
    """

    layers: tuple[LayerReport, ...]
    maps: int = 0
    map_seconds: float = 0.0
    pool_maps: int = 0
    pool_bytes: int = 0
    kept: KeptChannel | None = None

    def __repr__(self) -> str:
        heads = "layer", *(head for head, _, _ in COLUMNS.values())
        rows = [
            (row.label, *(_text(getattr(row, name), form) for name, (_, form, _) in COLUMNS.items()))
            for row in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (heads, *rows)]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        """What stands below the table: what it shows, and what it cost."""
        absent = any(math.isnan(getattr(row, name)) for name in QUANTITIES for row in self.layers)
        told = "; -: no value" if absent else ""
        notes = [f"(medians over groups; spread and |mean| are ratios, after / before; angle in degrees{told})"]
        if len(self.layers) > 1:
            notes.append(f"{len(self.layers)} layers in {sum(row.seconds for row in self.layers):.2f} s")
        if self.maps + self.pool_maps:
            kept = f"; {self.pool_maps} kept, {self.pool_bytes / 1e6:.1f} MB" if self.pool_maps else ""
            notes.append(f"maps simulated: {self.maps}, {self.map_seconds:.2f} s{kept}")
        return notes

    def to_xarray(self) -> xr.Dataset:
        """The report with the axis layer; the maps' cost and the versions are attributes. Without the kept weights.

        ``to_netcdf(path)`` works.
        """
        import xarray as xr

        variables = {
            name: ("layer", np.array([getattr(row, name) for row in self.layers]), {"long_name": meaning})
            for name, (_, _, meaning) in COLUMNS.items()
        }
        names = np.array([row.name for row in self.layers])  # as text, not objects
        coordinates = {"layer": ("layer", names, {"long_name": "name in the model, in the order of sleep"})}
        return xr.Dataset(variables, coordinates, self._costs() | versions(*VERSIONED))

    def write_to(self, writer: Any, step: int) -> None:
        """Write every layer's measurements and seconds for TensorBoard, and the picture if weights were kept.

        The tags are sleep/spread/<layer>, sleep/neg_log_snr_after/<layer>, ..., sleep/maps, ... and
        sleep/weights/<layer>/<channel>. NaN and infinities are left out, since a curve has no place for them: where
        sharing makes weights exactly equal, its -log SNR of -inf is a gap, and its spread is 0.

        Args:
            writer: a `torch.utils.tensorboard.SummaryWriter`, or what has its add_scalar; and its add_figure where
                weights were kept.
            step: where on the horizontal axis, such as the steps of the optimiser so far.

        Raises:
            TypeError, ValueError: ``writer`` is no such thing, or ``step`` no whole number >= 0. Nothing was written.
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
        """The kept channel's weights over positions before and after sleep; ``draw().savefig(path)`` stores it.

        Every output position is its kh x kw kernel for one input channel (see `bioshare.bridge.picture.draw_mosaics`).

        Args:
            inputs: which input channel, of those in the output channel's group.

        Raises:
            TypeError, ValueError: no weights were kept, or there is no such input channel.
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
        if not math.isnan(row.neg_log_snr_before):
            title += f"\n-log SNR of the layer: {row.neg_log_snr_before:.2f} to {row.neg_log_snr_after:.2f}"
        before, after = (weights[:, :, inputs].double().numpy() for weights in (self.kept.before, self.kept.after))
        return picture.draw_mosaics(before, after, title)

    def _costs(self) -> dict[str, Any]:
        """What the maps cost, by name."""
        return {name: getattr(self, name) for name in ("maps", "map_seconds", "pool_maps", "pool_bytes")}


def _text(value: float, form: str) -> str:
    """A number in the table."""
    return "-" if math.isnan(value) else format(value, form)


def measure_groups(before: Tensor, after: Tensor, unscaled: Tensor | None = None) -> np.ndarray:
    """The `QUANTITIES` of groups (out, N, K) before and after a sleep, (5, out).

    ``unscaled`` are the groups after sleep and before their means were rescaled; None where they were not.
    """
    (old, old_variance), (new, new_variance) = _moments(before), _moments(after)
    left = new if unscaled is None else _moments(unscaled)[0]
    old_norm, new_norm, left_norm = (torch.linalg.vector_norm(mean, dim=-1) for mean in (old, new, left))
    turned_from, turned_to = old / old_norm[:, None], new / new_norm[:, None]  # NaN for a mean of 0
    differences = turned_from - turned_to, turned_from + turned_to
    halves = (torch.linalg.vector_norm(vector, dim=-1) for vector in differences)  # exact for small angles
    quantities = (
        _neg_log_snr(old, old_variance),
        _neg_log_snr(new, new_variance),
        (new_variance.sum(-1) / old_variance.sum(-1)).sqrt(),  # equal weights have no spread
        torch.where(old_norm > 0, left_norm / old_norm, math.nan),
        2 * torch.atan2(*halves).rad2deg(),
    )
    return torch.stack(quantities).cpu().numpy()


def _moments(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the neurons of groups (out, N, K), both (out, K), where they lie.

    In float64 if the device has it, and as in `bioshare.circuit.theory`: equal weights deviate from the first by 0.
    """
    neurons = (groups.cpu() if groups.device.type == "mps" else groups).double().transpose(0, 1)  # as in memory
    deviations = neurons - neurons[:1]
    shift = deviations.mean(0)
    return neurons[0] + shift, (deviations - shift).square_().mean(0)


def _neg_log_snr(mean: Tensor, variance: Tensor) -> Tensor:
    """`bioshare.circuit.theory.neg_log_snr` of groups on any device."""
    return torch.where(variance > 0, variance / mean.square(), 0).mean(-1).log()


def medians(measured: Sequence[np.ndarray]) -> dict[str, float]:
    """The `QUANTITIES` of a layer by name, from those of its modules: over the groups that have a value, else NaN."""
    values = np.concatenate(measured, 1) if measured else np.empty((len(QUANTITIES), 0))
    return {name: _median(row[~np.isnan(row)]) for name, row in zip(QUANTITIES, values, strict=True)}


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else math.nan


def neg_log_snr(model: nn.Module, border: Border = "share") -> dict[str, float]:
    """-log SNR of every locally connected layer by name, the median over its sharing groups (as Fig. 6)."""
    measured = {}
    for name, layer in checked_layers(model):
        groups = [module.groups(layer.weight.detach()) for module in modules(layer, border)]
        values = [_neg_log_snr(*_moments(one)) for one in groups]
        measured[name] = _median(torch.cat(values).cpu().numpy()) if values else math.nan
    return measured
