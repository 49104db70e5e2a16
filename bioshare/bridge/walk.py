"""The walk over a model's layers, from input to output, that changes their weights in place."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bioshare.bridge.changes import Change
from bioshare.bridge.lattice import Border, modules, sharing_layers
from bioshare.bridge.moments import Moments
from bioshare.bridge.report import Kept, LayerReport, measure, medians
from bioshare.circuit.checks import whole
from bioshare.nn import LocallyConnected2d


@torch.no_grad()
def change_layers(
    model: nn.Module,
    change_of: Callable[[LocallyConnected2d, int], Change],
    *,
    border: Border,
    rescale: bool = False,
    moments: Moments | None = None,
    measured: bool = True,
    keep: tuple[str, int] | None = None,
) -> tuple[tuple[LayerReport, ...], Kept | None]:
    """Change a model's locally connected layers one after the other, in place, and say what that did.

    Args:
        model: its layers change in the order of ``model.modules()``.
        change_of: takes a layer and its number to its change, just before it happens.
        border: which positions take part.
        rescale: bring every group's mean back to its norm.
        moments: what happens to those of an optimiser.
        measured: whether to measure SNR, spread and drift.
        keep: a layer and an output channel whose weights before and after are kept.

    Raises:
        TypeError, ValueError: the model has no layers to share, or not what ``keep`` names; or the optimiser is that of
            another model. Nothing has changed.
    """
    reports, kept = [], None
    layers = sharing_layers(model)
    _refuse_keep(keep, dict(layers))
    if moments:
        moments.refuse_strangers(layers)
    for index, (name, layer) in enumerate(layers):
        start, values, weight = time.perf_counter(), [], layer.weight
        channel = keep[1] if keep and keep[0] == name else None
        old = None if channel is None else weight[:, :, channel].cpu().clone()
        taking_part = list(modules(layer, border))
        with torch.autocast(weight.device.type, enabled=False):
            change = change_of(layer, index)
            for module, before, slept in change(weight, taking_part):
                after = (_at_norm_of(before, slept) if rescale else slept).to(weight.dtype)
                if measured:
                    values.append(measure(before, after, slept))
                module.write(weight, after)
            if moments:
                moments.follow(weight, taking_part, change)
        if old is not None and channel is not None:
            kept = Kept(name, channel, old, weight[:, :, channel].cpu().clone())
        reports.append(LayerReport(name, len(taking_part), **medians(values), seconds=time.perf_counter() - start))
    return tuple(reports), kept


def _refuse_keep(keep: object, layers: Mapping[str, LocallyConnected2d]) -> None:
    """Refuse to keep what isn't there."""
    if keep is None:
        return
    expected = "keep must be a layer's name and the number of an output channel, such as ('stages.0.0.conv1', 0)"
    if not isinstance(keep, tuple) or len(keep) != 2 or not isinstance(keep[0], str):
        raise TypeError(f"{expected}; got {keep!r}")
    name, channel = keep
    if name not in layers:
        near = ", ".join(map(repr, difflib.get_close_matches(name, layers, cutoff=0.0)))
        raise ValueError(f"keep must name a locally connected layer of the model; got {name!r}. Nearest: {near}")
    channels = layers[name].out_channels
    told = f"an output channel of layer {name!r} (0 to {channels - 1})"
    if whole("keep", channel, told, at_least=0) >= channels:
        raise ValueError(f"keep must have {told}; got {channel}")


def _at_norm_of(before: Tensor, after: Tensor) -> Tensor:
    """The groups (out, N, K) after, each scaled until its mean is as long as it was before."""
    old, new = (torch.linalg.vector_norm(groups.mean(1), dim=-1) for groups in (before.to(after), after))
    return after * torch.where(new > 0, old / new, 1.0)[:, None, None]
