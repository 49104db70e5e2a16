"""A training step of a network on random images, in every form: ``python -m bioshare bench train``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from bioshare.bench.networks import NETWORKS
from bioshare.bench.options import add_batches, add_dtypes, add_machine_options, without_tf32
from bioshare.bench.rows import Row, Setting, peak_of, per_step, rows, works
from bioshare.bench.scale import print_hours, print_largest
from bioshare.bench.table import Column, Table
from bioshare.bench.timing import free, turns
from bioshare.cli import positive

COLUMNS = (
    Column("dtype", "dtype", width=7),
    Column("batch", "batch", "d", 5),
    Column("name", "  network", width=52),
    Column("ms", "ms / step", ".3f", 11),
    Column("images_per_second", "images / s", ".0f", 12),
    Column("of_conv", "of conv", ".2f", 9),
    Column("of_naive", "of naive", ".3f", 10),
    Column("peak_mb", "peak MB", ".0f", 9),
    Column("peak_of_naive", "peak of naive", ".3f", 15),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench train``."""
    parser.add_argument("--network", choices=NETWORKS, default="resnet20", help="(default: %(default)s)")
    parser.add_argument("--image", type=positive, help="rows and columns (default: the data set's)")
    add_batches(parser, None, "the paper's")
    parser.add_argument("--pool", type=positive, default=1, help="sleeps in the pool (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--largest", action="store_true", help="find the largest batch that fits on the GPU")
    parser.add_argument("--epochs", type=positive, help="project the hours that so many epochs take")
    parser.add_argument("--images", type=positive, help="in an epoch (default: the data set's)")
    parser.add_argument("--cards", type=positive, nargs="+", default=[1, 4, 8], help="(default: %(default)s)")
    add_dtypes(parser)
    add_machine_options(parser, repeats=3)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the tables."""
    torch.set_num_threads(arguments.threads)
    case, where = NETWORKS[arguments.network], torch.device(arguments.device)
    if arguments.largest and where.type != "cuda":
        raise ValueError(f"--largest needs --device cuda; got {where}, where a batch that is too large ends everything")
    side, batches = arguments.image or case.side, arguments.batches or [case.batch]
    print(
        f"forward, backward and AdamW step of {case.title} at {side} x {side} on {where}, {arguments.threads} threads, "
        f"medians of {arguments.repeats}.\nSharing is timed apart from the step, and its time spread over the steps "
        "between.\nPeaks are of two steps, beyond the weights: what tensors take; with graphs what is reserved, "
        "which is more\n"
    )
    settings = [
        Setting(arguments.network, side, batch, dtype, arguments.device, arguments.pool)
        for dtype in arguments.dtypes
        for batch in batches
    ]
    lines = rows(where, arguments.compile)
    records = []
    with without_tf32():
        table = Table(COLUMNS)
        for setting in settings:
            measure(table, lines, setting, arguments.repeats)
        if arguments.epochs:
            print_hours(table.records, arguments.epochs, arguments.images or case.images, arguments.cards)
        for setting in settings[:: len(batches)] if arguments.largest else []:
            records += print_largest(lines, setting)
    return table.records + records


def measure(table: Table, lines: Sequence[Row], setting: Setting, repeats: int) -> None:
    """Add a row for each of the lines; what does not fit into the memory has no numbers."""
    device = torch.device(setting.device)
    timed = dict(turns(dict(works(lines, setting)), repeats, device))
    free(device)
    seconds = per_step(lines, timed)
    conv, naive = (seconds.get(line.name) for line in lines[:2])
    peak_bytes = cache(lambda row: peak_of(row, setting) if row.name in seconds else None)
    for row in lines:
        total, peak, naive_peak = seconds.get(row.name), peak_bytes(row), peak_bytes(lines[1])
        table.add(
            dtype=setting.dtype,
            batch=setting.batch,
            name=f"  {row.name}",
            ms=1e3 * total if total else None,
            images_per_second=setting.batch / total if total else None,
            of_conv=total / conv if total and conv else None,
            of_naive=total / naive if total and naive else None,
            peak_mb=peak / 1e6 if peak is not None else None,
            peak_of_naive=peak / naive_peak if peak is not None and naive_peak else None,
        )
