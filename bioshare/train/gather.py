"""The results of many runs in one labelled dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import numpy as np
import xarray as xr

from bioshare.train.config import TrainConfig
from bioshare.train.results import RESULT, read_result, refuse_other

Key = TypeVar("Key", bound=tuple[Any, ...])


def gather(results: Mapping[Key, xr.Dataset], axes: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    """Stack the histories of runs along new leading axes.

    Args:
        results: by their values along the axes, in the order of ``axes``.
        axes: name and values of every new axis.

    Returns:
        Every numeric variable that has exactly the axis epoch, and no new axis' name, with the axes (..., epoch), from
        epoch 1; and ``neg_log_snr``, the median over layers, where it was measured once an epoch. NaN where a run is
        missing or shorter than others, or lacks the variable. Attributes are those that all runs agree on.
    """
    runs = [
        _histories(result, axes).expand_dims({name: [value] for name, value in zip(axes, key, strict=True)})
        for key, result in results.items()
    ]
    stacked = xr.combine_by_coords(runs, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    epochs = range(1, max(result.sizes["epoch"] for result in results.values()) + 1)
    wanted = {
        name: np.array(values) for name, values in {**axes, "epoch": epochs}.items()
    }  # names as text, not objects
    return cast(xr.Dataset, stacked).reindex(wanted).assign_coords(wanted)


def complete(folder: Path, config: TrainConfig | None = None) -> xr.Dataset | None:
    """The result of a run that has all its epochs; None for one that has not, or has not begun.

    Args:
        folder: of the run.
        config: what it must be a run of; None for whatever it was made with.

    Raises:
        ValueError: the folder holds a run of another configuration, or a damaged result.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    result = read_result(path)
    if config:
        refuse_other(config, result.attrs, path)
    return result if result.sizes["epoch"] == (config or configuration(result)).epochs else None


def configuration(result: xr.Dataset) -> TrainConfig:
    """The configuration in a result's attributes; a field that isn't there has its default."""
    hints = get_type_hints(TrainConfig)
    there = [field.name for field in fields(TrainConfig) if field.name in result.attrs]
    return TrainConfig(**{name: _decoded(result.attrs[name], hints[name]) for name in there})


def _decoded(value: Any, hint: Any) -> Any:
    """What `bioshare.train.results.encoded` made a netCDF attribute of."""
    if hint == tuple[float, ...]:
        return () if isinstance(value, str) else tuple(np.atleast_1d(value).tolist())
    if isinstance(value, str):
        return None if value == "none" else value
    return bool(value) if bool in (hint, *get_args(hint)) else np.array(value).item()


def _histories(result: xr.Dataset, axes: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    """What a run has of every epoch, from epoch 1."""
    names = [name for name, values in result.data_vars.items() if _is_history(values) and name not in axes]
    found = result[names].reset_coords(drop=True).assign_coords(epoch=range(1, result.sizes["epoch"] + 1))
    once_an_epoch = result.sizes.get("snr_step") == result.sizes["epoch"] + 1  # and at the start
    if once_an_epoch and "neg_log_snr" in result and "neg_log_snr" not in axes:
        ends = result["neg_log_snr"].dropna("layer", how="all").median("layer").values[1:]
        found["neg_log_snr"] = "epoch", ends, {"long_name": "-log SNR at the epoch's end, median over layers"}
    return found


def _is_history(values: xr.DataArray) -> bool:
    return values.dims == ("epoch",) and np.issubdtype(values.dtype, np.number)
