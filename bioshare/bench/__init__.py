"""Benchmarks against baselines: ``python -m bioshare bench sleep``, for example."""

from __future__ import annotations

import argparse
import importlib
import json
import time

import torch

from bioshare.bench.harness import machine_line, without_tf32
from bioshare.cli import path
from bioshare.files import check_writable, replacing

BENCHES = {
    "sleep": "one sleep of Fig. 4B in every engine",
    "layer": "LocallyConnected2d against unfold + einsum and against Conv2d: time, memory, share of the floor",
    "train": "a training step of a network in every form: convolutional, locally connected, with sharing",
    "floor": "the least time of a training step on this machine, from bytes and operations, beside the time it takes",
    "bridge": "one sleep of whole networks in every form, against a training step and direct averaging",
    "patches": "a training step of layers and networks with a matrix for every token, against shared ones",
    "full": "layers as convolutions, locally and fully connected, against the floors of time and memory",
    "feedback": "a training step with feedback weights, and a mirror, against a plain training step",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each of the `BENCHES`."""
    benches = parser.add_subparsers(dest="bench", required=True)
    for name, help_text in BENCHES.items():
        bench = benches.add_parser(name, help=help_text, description=help_text)
        bench.add_argument("--to", type=path, help="a JSON file for machine, options and rows")
        importlib.import_module(f"bioshare.bench.{name}").add_arguments(bench)


def main(arguments: argparse.Namespace) -> None:
    """Print the machine and the rows of a bench, and write both to the file of ``--to``.

    Raises:
        ValueError: ``--to`` can't be a file; nothing was measured.
    """
    if arguments.to is not None:
        if arguments.to.is_dir():
            raise ValueError(f"--to must be a file; got {arguments.to}, a folder")
        check_writable(arguments.to.parent)
    if "threads" in arguments:
        torch.set_num_threads(arguments.threads)
    machine, start = machine_line(), time.perf_counter()
    print(machine, flush=True)
    with without_tf32():
        rows = importlib.import_module(f"bioshare.bench.{arguments.bench}").main(arguments)
    if arguments.to is not None:
        measured = {"machine": machine, "seconds": time.perf_counter() - start, "options": vars(arguments)}
        with replacing(arguments.to) as file:
            file.write_text(json.dumps(measured | {"rows": rows}, indent=1, default=str) + "\n")
