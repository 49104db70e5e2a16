"""Benchmarks, side by side in one run: ``python -m bioshare bench sleep`` (or ``layer``, ``train``, ``bridge``)."""

from __future__ import annotations

import argparse
import importlib

import bioshare.bench.timing as timing

BENCHES = {
    "sleep": "one sleep of Fig. 4B in every engine",
    "layer": "LocallyConnected2d against unfold + einsum and against Conv2d: time and memory",
    "train": "a training step of ResNet-20: convolutional, locally connected, with sharing",
    "bridge": "one sleep of whole networks in every form, against a training step and direct averaging",
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
