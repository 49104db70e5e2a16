"""The walk over a model's layers, from input to output, that changes their weights in place."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bioshare.bridge.bags import Bags
from bioshare.bridge.changes import Change
from bioshare.bridge.lattice import Border, Layers, modules
from bioshare.bridge.moments import Moments
from bioshare.bridge.report import Kept, LayerReport, measure, medians
from bioshare.checks import whole
from bioshare.nn import LocallyConnected2d

ChangeOf = Callable[[LocallyConnected2d, int], Change]
"""Takes a layer and its number to its change, just before it happens."""


@torch.no_grad()
def change_layers(
    layers: Layers, change_of: ChangeOf, *, border: Border, rescale: bool = False, moments: Moments | None = None
) -> None:
    """Change locally connected layers one after the other, in place; nothing here waits for a GPU.

    Args:
        layers: in the order in which they change.
        change_of: gives their changes.
        border: which positions take part.
        rescale: bring every group's mean back to its norm.
        moments: what happens to those of an optimiser.
    """
    for index, (_, layer) in enumerate(layers):
        _change(layer, index, change_of, border, rescale, moments)


@torch.no_grad()
def report_changes(
    layers: Layers,
    change_of: ChangeOf,
    *,
    border: Border,
    rescale: bool = False,
    moments: Moments | None = None,
    measured: bool = True,
    keep: tuple[str, int] | None = None,
) -> tuple[tuple[LayerReport, ...], Kept | None]:
    """Change locally connected layers as `change_layers` does, and say what that did.

    Args:
        layers, change_of, border, rescale, moments: as there.
        measured: whether to measure SNR, spread and drift.
        keep: a layer and an output channel whose weights before and after are kept.

    Raises:
        TypeError, ValueError: there is not what ``keep`` names; or the optimiser is that of another model. Nothing has
            changed.
    """
    reports, kept = [], None
    _refuse_keep(keep, dict(layers))
    if moments:
        moments.refuse_strangers(layers)
    for index, (name, layer) in enumerate(layers):
        start, values, weight = time.perf_counter(), [], layer.weight
        channel = keep[1] if keep and keep[0] == name else None
        old = None if channel is None else weight[:, :, channel].cpu().clone()
        note = (lambda *groups, values=values: values.append(measure(*groups))) if measured else None
        count = _change(layer, index, change_of, border, rescale, moments, note)
        if old is not None and channel is not None:
            kept = Kept(name, channel, old, weight[:, :, channel].cpu().clone())
        reports.append(LayerReport(name, count, **medians(values), seconds=time.perf_counter() - start))
    return tuple(reports), kept


def _change(
    layer: LocallyConnected2d,
    index: int,
    change_of: ChangeOf,
    border: Border,
    rescale: bool,
    moments: Moments | None,
    note: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> int:
    """Change one layer, and let ``note`` see the groups before, after, and before they were rescaled.

    Returns:
        How many modules took part.
    """
    weight, taking_part = layer.weight, modules(layer, border)
    with torch.autocast(weight.device.type, enabled=False):
        change = change_of(layer, index)
        if note is None and not rescale:
            change.apply_to(weight, taking_part)
        else:
            for module, before, slept in change(weight, taking_part):
                after = (_at_norm_of(before, slept) if rescale else slept).to(weight.dtype)
                if note:
                    note(before, after, slept)
                module.write(weight, after)
        if moments:
            moments.follow(weight, taking_part, Bags.of_layer(layer, border), change)
    return len(taking_part)


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
    factor = torch.where(new > 0, old / new, torch.ones_like(new))  # a number would be copied to the device
    return after * factor[:, None, None]
