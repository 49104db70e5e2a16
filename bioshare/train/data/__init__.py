"""Data sets: one prepared file for each, and batches of images. Importing this package alone does not import torch.

The processes that decode images import no more than they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bioshare.train.data.batches import Batches as Batches
    from bioshare.train.data.datasets import Dataset as Dataset
    from bioshare.train.data.loading import load as load
    from bioshare.train.data.loading import test_batches as test_batches
    from bioshare.train.data.loading import training_batches as training_batches
    from bioshare.train.data.own import own_data as own_data

_HOME = {"Batches": "batches", "Dataset": "datasets", "own_data": "own"}
_HOME |= dict.fromkeys(("load", "test_batches", "training_batches"), "loading")

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bioshare.train.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bioshare.train.data.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
