"""What a sleep did to a model: SNR, spread and drift of the mean, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor, nn

from bioshare.bridge.modules import Border, modules, sharing_layers
from bioshare.circuit import theory


@dataclass(frozen=True)
class LayerReport:
    """What a sleep did to one layer; medians over its sharing groups, NaN where nothing was measured.

    Attributes:
        name: of the layer in the model.
        modules: how many of its modules took part.
        neg_log_snr_before, neg_log_snr_after: log mean_j(var_j / mean_j^2).
        spread: root of the summed variance of a group's weights after sleep, over that before. Unlike the SNR it
            knows no mean that may happen to lie near 0.
        mean_norm: norm of a group's mean weight vector after sleep, over that before.
        mean_cosine: cosine between the two.
        seconds: wall-clock time, that of a map which this layer was the first to need included.
    """

    name: str
    modules: int
    neg_log_snr_before: float
    neg_log_snr_after: float
    spread: float
    mean_norm: float
    mean_cosine: float
    seconds: float


QUANTITIES = tuple(field.name for field in fields(LayerReport))[2:-1]
"""What is measured in every group."""


@dataclass(frozen=True, eq=False)
class Kept:
    """One output channel's weights over positions, (H_out, W_out, in / groups, kh, kw), before and after a sleep."""

    name: str
    channel: int
    before: Tensor
    after: Tensor


@dataclass(frozen=True, repr=False)
class SleepReport:
    """What a sleep did to a model, a layer a row; prints as a table.

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
    kept: Kept | None = None

    def __repr__(self) -> str:
        heads = "layer", "modules", "-log SNR before", "after", "spread", "|mean|", "cosine", "seconds"
        forms = ("d", ".2f", ".2f", ".4f", ".4f", ".4f", ".3f")
        rows = [
            (
                row.name or "(model)",
                *(format(getattr(row, f.name), form) for f, form in zip(fields(row)[1:], forms, strict=True)),
            )
            for row in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (heads, *rows)]
        return "\n".join(
            [*lines, "(medians over groups; spread and |mean| are ratios, after / before)", *self._costs()]
        )

    def _costs(self) -> Sequence[str]:
        """The maps in words, if there are any."""
        if not self.maps + self.pool_maps:
            return []
        kept = f"; {self.pool_maps} kept, {self.pool_bytes / 1e6:.1f} MB" if self.pool_maps else ""
        return [f"maps simulated: {self.maps}, {self.map_seconds:.2f} s{kept}"]


def measure(before: Tensor, after: Tensor) -> np.ndarray:
    """The `QUANTITIES` of groups (out, N, K) before and after a sleep, (5, out)."""
    pair = [groups.double().cpu().numpy() for groups in (before, after)]
    old, new = (weights.mean(1) for weights in pair)
    (old_spread, old_norm), (new_spread, new_norm) = (
        (np.sqrt(weights.var(1).sum(-1)), np.linalg.norm(mean, axis=-1))
        for weights, mean in zip(pair, (old, new), strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # a mean of 0 has no direction, equal weights no spread
        drift = new_spread / old_spread, new_norm / old_norm, (old * new).sum(-1) / (old_norm * new_norm)
    return np.stack([*map(theory.neg_log_snr, pair), *drift])


def medians(measured: Sequence[np.ndarray]) -> dict[str, float]:
    """The `QUANTITIES` of a layer by name, from those of its modules; NaN for none."""
    values = np.median(np.concatenate(measured, 1), 1) if measured else np.full(len(QUANTITIES), math.nan)
    return dict(zip(QUANTITIES, values.tolist(), strict=True))


def neg_log_snr(model: nn.Module, border: Border = "share") -> dict[str, float]:
    """-log SNR of every locally connected layer by name, the median over its sharing groups (as Fig. 6)."""
    measured = {}
    for name, layer in sharing_layers(model):
        groups = [module.groups(layer.weight.detach()).double().cpu().numpy() for module in modules(layer, border)]
        values = [theory.neg_log_snr(weights) for weights in groups]
        measured[name] = float(np.median(np.concatenate(values))) if values else math.nan
    return measured
