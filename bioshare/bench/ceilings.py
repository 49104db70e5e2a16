"""What a device can do at most, measured: bytes that a large copy moves, operations of a large matrix product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from bioshare.bench.options import DTYPES
from bioshare.bench.timing import in_turns

COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Of the tensor that is copied: far more than any cache holds."""

SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices."""

REPEATS = 5


class Ceilings(NamedTuple):
    """Bytes per second, read and written together, and operations per second, those of float32 beside them."""

    bandwidth: float
    rate: float
    rate32: float

    def __str__(self) -> str:
        rates = f"{self.rate / 1e12:.4g} TFLOP/s in a matrix product, {self.rate32 / 1e12:.4g} in fp32"
        return f"{self.bandwidth / 1e9:.4g} GB/s in a copy, {rates}"


def measured(device: torch.device, dtype: str) -> Ceilings:
    """Copy and multiply random numbers, and take the medians."""
    source = torch.rand(COPY_BYTES[device.type] // 4, device=device)
    target, side = torch.empty_like(source), SIDE[device.type]
    works: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(source)}
    for name in dict.fromkeys(("fp32", dtype)):
        left, right = (torch.randn(side, side, device=device).to(DTYPES[name]) for _ in range(2))
        works[name] = partial(torch.mm, left, right, out=torch.empty_like(left))
    seconds = in_turns(works, REPEATS, device)
    operations = 2 * side**3
    return Ceilings(
        2 * COPY_BYTES[device.type] / seconds["copy"], operations / seconds[dtype], operations / seconds["fp32"]
    )
