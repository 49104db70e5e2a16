"""The walk over a model's layers, from input to output, that changes their weights in place."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bioshare.bridge.changes import Change
from bioshare.bridge.modules import Border, modules, sharing_layers
from bioshare.bridge.moments import Moments
from bioshare.bridge.report import Kept, LayerReport, measure, medians
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
        moments: what happens to an optimiser's.
        measured: whether to measure SNR, spread and drift.
        keep: a layer and an output channel whose weights before and after are kept.
    """
    reports, kept = [], None
    for index, (name, layer) in enumerate(sharing_layers(model)):
        start, values, weight = time.perf_counter(), [], layer.weight
        channel = keep[1] if keep and keep[0] == name else None
        old = None if channel is None else weight[:, :, channel].cpu().clone()
        taking_part = list(modules(layer, border))
        with torch.autocast(weight.device.type, enabled=False):
            change = change_of(layer, index)
            for module, before, after in change(weight, taking_part):
                after = _at_norm_of(before, after) if rescale else after
                if measured:
                    values.append(measure(before, after))
                module.write(weight, after)
            if moments:
                moments.follow(weight, taking_part, change)
        if old is not None and channel is not None:
            kept = Kept(name, channel, old, weight[:, :, channel].cpu().clone())
        reports.append(LayerReport(name, len(taking_part), **medians(values), seconds=time.perf_counter() - start))
    return tuple(reports), kept


def _at_norm_of(before: Tensor, after: Tensor) -> Tensor:
    """The groups (out, N, K) after, each scaled until its mean is as long as it was before."""
    old, new = (torch.linalg.vector_norm(groups.mean(1), dim=-1) for groups in (before.to(after), after))
    return after * torch.where(new > 0, old / new, 1.0)[:, None, None]
