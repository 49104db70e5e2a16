"""The largest batch, and the hours of a whole training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bioshare.bench.rows import Row, Setting
from bioshare.bench.table import Column, Table
from bioshare.bench.timing import free

BATCH_STEP = 512
"""The largest batch is looked for among multiples of this."""


def print_hours(records: Sequence[dict[str, Any]], epochs: int, images: int, cards: Sequence[int]) -> None:
    """The hours of a whole training for every row, and keep them in its record."""
    print(
        f"\nhours for {epochs} epochs of {images} images: one card as in the table above, several as if the speed grew "
        "in proportion (not measured)\n"
    )
    hours = [Column(f"hours_{many}", f"{many} card{'s' * (many > 1)}", ".3f", 12) for many in cards]
    table = Table([*(Column(key, key, width=width) for key, width in (("dtype", 7), ("name", 54))), *hours])
    for record in records:
        speed = record["images_per_second"]
        for many, column in zip(cards, hours, strict=True):
            record[column.key] = epochs * images / speed / 3600 / many if speed else None
        table.add(**record)


def print_largest(lines: Sequence[Row], setting: Setting) -> list[dict[str, Any]]:
    """The largest batch of every row that is eager and does not share."""
    records, device = [], torch.device(setting.device)
    print(f"\nlargest batch that can be trained, in steps of {BATCH_STEP}\n")
    for row in lines:
        if not (row.graph or row.compiled or row.sharing):
            batch = largest_batch(lambda batch, row=row: row.step(setting._replace(batch=batch))(), device)
            print(f"{setting.dtype:7s}{row.name:54s}{batch:6d}", flush=True)
            records.append({"dtype": setting.dtype, "name": row.name, "largest_batch": batch})
    return records


def largest_batch(step: Callable[[int], Any], device: torch.device) -> int:
    """The largest multiple of `BATCH_STEP` for which a step doesn't fail, found by doubling and halving; or 0.

    It fails where the memory is too small, or the batch larger than a library's indices.
    """
    fits, fails = 0, 0
    while not fails or fails - fits > BATCH_STEP:
        batch = (fits + fails) // (2 * BATCH_STEP) * BATCH_STEP if fails else max(BATCH_STEP, 2 * fits)
        try:
            step(batch)
            fits = batch
        except RuntimeError:
            fails = batch
        free(device)
    return fits
