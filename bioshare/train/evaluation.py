"""`evaluate` tests a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bioshare.train.data import Batches
from bioshare.train.distributed import Processes
from bioshare.train.recipe import autocast


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    dtype: torch.dtype | None = None,
    here: Processes | None = None,
    judge: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Test a network, in evaluation mode; its mode comes back.

    Args:
        model: takes images to logits.
        batches: of the test images, this process's part, on the model's device.
        dtype: of automatic mixed precision; None for none.
        here: this process; None if it is the only one.
        judge: what `judged` makes of the model and a batch, if it is to be done in another way.

    Returns:
        test_loss (mean cross entropy), top1 and top5 (%), over the images of all processes.
    """
    mode, sums = model.training, torch.zeros(4, dtype=torch.float64)
    model.eval()
    for x, y in batches.epoch(0):
        sums = sums.to(x.device) + (judge(x, y) if judge else judged(model, dtype, x, y))
    model.train(mode)
    loss, first, five, images = (here.total(sums) if here else sums).tolist()
    return {"test_loss": loss / images, "top1": 100 * first / images, "top5": 100 * five / images}


def judged(model: nn.Module, dtype: torch.dtype | None, x: Tensor, y: Tensor) -> Tensor:
    """Sum of losses, images whose class came first, and among the first five, and images of one batch, (4,)."""
    with autocast(x.device, dtype):
        scores = model(x).float()
    hits = scores.topk(min(5, scores.shape[1])).indices == y[:, None]
    loss, first = cross_entropy(scores, y, reduction="sum"), hits[:, 0].sum()
    return torch.stack([loss, first, hits.sum(), torch.full_like(first, len(y))])
