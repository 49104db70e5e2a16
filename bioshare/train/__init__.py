"""Experiments: networks in training, with and without sleep. Importing this package alone does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bioshare.train.config import TrainConfig as TrainConfig
    from bioshare.train.evaluation import evaluate as evaluate
    from bioshare.train.fitting import fit as fit
    from bioshare.train.fitting import trained_network as trained_network

_HOME = {"TrainConfig": "config", "evaluate": "evaluation", "fit": "fitting", "trained_network": "fitting"}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bioshare.train' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bioshare.train.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
