"""The benches of networks one after the other, with their tables in one file: ``python -m bioshare bench all``.

For a GPU that is lent for some minutes. What was measured is in the file as soon as its bench is over.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioshare.bench import timing
from bioshare.cli import device, positive

PLAN = {
    "floor-bf16": "floor --dtype bf16",
    "floor-fp32": "floor --dtype fp32",
    "layer": "layer --batches 512 --dtypes fp32 bf16",
    "train": "train --batches 512 --dtypes fp32 bf16 fp16 --epochs 200 --together 1 2 5",
    "bridge": "bridge --networks resnet20 --dtype bf16",
    "floor18": "floor --network resnet18 --dtype bf16",
    "train18": "train --network resnet18 --batches 256 --dtypes fp32 bf16 --epochs 200",
    "compiled": "train --batches 512 --dtypes bf16 --compile",
}
"""The benches by name, as one would type them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench all``."""
    parser.add_argument("--to", type=Path, required=True, help="the JSON file")
    parser.add_argument("--only", nargs="+", choices=PLAN, default=[*PLAN], help="(default: all)")
    parser.add_argument("--batch", type=positive, help="instead of those of the plan")
    parser.add_argument("--repeats", type=positive, help="instead of those of the plan")
    parser.add_argument("--device", type=device, default="cuda", help="(default: %(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Run them; one that fails does not keep the others from it.

    Raises:
        OSError: some failed, and were shown; or the file can't be written.
    """
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": timing.machine(), "benches": {}}
    for name in arguments.only:
        words = _words(name, arguments)
        print(f"\n== {shlex.join(['bench', *words])}\n", flush=True)
        start = time.perf_counter()
        try:
            rows: dict[str, Any] = {"rows": _run(words)}
        except Exception as error:  # whatever a driver or a compiler may say
            traceback.print_exc()
            rows = {"error": repr(error)}
        seconds = time.perf_counter() - start
        found["benches"][name] = {"command": shlex.join(words), "seconds": seconds} | rows
        arguments.to.write_text(json.dumps(found, indent=1) + "\n")
    failed = [name for name, bench in found["benches"].items() if "error" in bench]
    if failed:
        raise OSError(f"failed: {', '.join(failed)}; {arguments.to} has the others")


def _words(name: str, arguments: argparse.Namespace) -> list[str]:
    """A bench of the plan as words of a command, on the device and with what replaces its options."""
    words = [*shlex.split(PLAN[name]), "--device", arguments.device]
    if arguments.batch:
        words += ["--batch" if words[0] in ("floor", "bridge") else "--batches", str(arguments.batch)]
    return [*words, *(["--repeats", str(arguments.repeats)] if arguments.repeats else [])]


def _run(words: Sequence[str]) -> list[dict[str, Any]]:
    bench = importlib.import_module(f"bioshare.bench.{words[0]}")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.main(parser.parse_args(words[1:]))
