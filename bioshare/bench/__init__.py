"""Benchmarks, side by side in one run: ``python -m bioshare bench sleep``, or another of `BENCHES`."""

from __future__ import annotations

import argparse
import importlib

import bioshare.bench.timing as timing

BENCHES = {
    "sleep": "one sleep of Fig. 4B in every engine",
    "layer": "LocallyConnected2d against unfold + einsum and against Conv2d: time, memory, share of the floor",
    "train": "a training step of a network in every form: convolutional, locally connected, with sharing",
    "floor": "the least time of a training step on this machine, from bytes and operations, beside the time it takes",
    "bridge": "one sleep of whole networks in every form, against a training step and direct averaging",
    "all": "those of networks one after the other, with their tables in one JSON file",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every bench, as commands of their own."""
    benches = parser.add_subparsers(dest="bench", required=True)
    for name, help_text in BENCHES.items():
        bench = benches.add_parser(name, help=help_text, description=help_text)
        importlib.import_module(f"bioshare.bench.{name}").add_arguments(bench)


def main(arguments: argparse.Namespace) -> None:
    """Say what machine this is, and print the table."""
    print(timing.machine())
    importlib.import_module(f"bioshare.bench.{arguments.bench}").main(arguments)
