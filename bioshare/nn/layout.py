"""How the weights of a locally connected layer lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def physical(weight: Tensor) -> Tensor:
    """The axes of the weights in their order in memory: (H_out, W_out, out, kw, kh, in / groups)."""
    return weight.permute(0, 1, 2, 5, 4, 3)


logical = physical
"""The way back: the permutation is its own inverse."""


def new_weight(shape: tuple[int, ...], dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Memory for weights (H_out, W_out, out, in / groups, kh, kw), laid out as `physical`."""
    rows, columns, out_channels, channels, kh, kw = shape
    layout = logical(torch.empty(rows, columns, out_channels, kw, kh, channels, dtype=dtype, device="meta"))
    return torch.empty_like(layout, device=device)  # with PyTorch's own strides where an axis has length 1
