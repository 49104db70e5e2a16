"""`evaluate` tests a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.checks import choice, shown, takes
from bioshare.train.data import Batches
from bioshare.train.distributed import Processes


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    dtype: torch.dtype | None = None,
    processes: Processes | None = None,
    count: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Test a network in evaluation mode, and restore the mode.

    Args:
        model: network from images to logits.
        batches: test images, the part of this process, on the model's device.
        dtype: type of automatic mixed precision; None for none.
        processes: this process among all; None for a single process.
        count: replaces `scores_counted` of the model, for instance by a CUDA graph.

    Returns:
        test_loss (mean cross entropy), top1 and top5 (%), over the images of all processes.

    Raises:
        TypeError, ValueError: an argument is of another kind.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {shown(model)}")
    if not callable(getattr(batches, "epoch", None)):
        raise TypeError(f"batches must be Batches, as from bioshare.train.data.test_batches; got {shown(batches)}")
    choice("dtype", dtype, (None, torch.bfloat16, torch.float16))
    if not isinstance(processes, Processes | None):
        raise TypeError(f"processes must be a Processes or None; got {shown(processes)}")
    if count is not None and not takes(count, None, None):
        raise TypeError(f"count must be a function of images and labels, or None; got {shown(count)}")
    mode, sums = model.training, torch.zeros(4, dtype=torch.float64)
    model.eval()
    for x, y in batches.epoch(0):
        sums = sums.to(x.device) + (count(x, y) if count else scores_counted(model, dtype, x, y))
    model.train(mode)
    loss, first, five, images = (processes.total(sums) if processes else sums).tolist()
    return {"test_loss": loss / images, "top1": 100 * first / images, "top5": 100 * five / images}


def scores_counted(model: nn.Module, dtype: torch.dtype | None, x: Tensor, y: Tensor) -> Tensor:
    """Sum of losses, images whose class came first, and among the first five, and images of one batch, (4,)."""
    with torch.autocast(x.device.type, dtype) if dtype else nullcontext():
        scores = model(x).float()
    hits = scores.topk(min(5, scores.shape[1])).indices == y[:, None]
    loss, first = cross_entropy(scores, y, reduction="sum"), hits[:, 0].sum()
    return torch.stack([loss, first, hits.sum(), torch.full_like(first, len(y))])
