"""What follows from a training step: several networks at once, the largest batch, the hours of a whole training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bioshare.bench.rows import Row, Setting
from bioshare.bench.table import Column, Table
from bioshare.bench.timing import free, in_turns

TOGETHER = (
    Column("dtype", "dtype", width=7),
    Column("batch", "batch", "d", 5),
    Column("together", "together", "d", 10),
    Column("ms", "ms for a step of each", ".3f", 23),
    Column("images_per_second", "images / s of all", ".0f", 19),
    Column("of_one", "of one alone", ".2f", 14),
)
BATCH_STEP = 512
"""The largest batch is looked for among multiples of this."""


def print_together(row: Row, settings: Sequence[Setting], numbers: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """The throughput of several networks that learn at once in one process, and of one alone."""
    print(f"\n{row.name}: several at once, a step of each in turn, on a GPU in streams of their own\n")
    table = Table(TOGETHER)
    for setting in settings:
        alone, device = 0.0, torch.device(setting.device)
        for number in sorted({1, *numbers}):
            free(device)
            seconds = in_turns({"round": together(row, setting, number)}, repeats, device)["round"]
            alone = seconds if number == 1 else alone
            table.add(
                dtype=setting.dtype,
                batch=setting.batch,
                together=number,
                ms=1e3 * seconds,
                images_per_second=number * setting.batch / seconds,
                of_one=number * alone / seconds,
            )
        free(device)
    return table.records


def together(row: Row, setting: Setting, number: int) -> Callable[[], None]:
    """A warm step of each of several networks in turn; none waits for another where each has a stream of its own."""
    steps = [row.step(setting) for _ in range(number)]
    for step in steps:
        step.warm_up()

    def turn() -> None:
        for step in steps:
            step()

    return turn


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
