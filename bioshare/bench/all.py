"""The benches of networks one after the other, with their tables in one file: ``python -m bioshare bench all``.

For a GPU that is lent for some minutes. What was measured is in the file as soon as its bench is over, and stays there
until the same bench is run again.
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

import torch

from bioshare.bench import timing
from bioshare.cli import device, positive
from bioshare.files import refuse_unwritable, replacing

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
    parser.add_argument("--to", type=Path, required=True, help="the JSON file; what else it has stays")
    parser.add_argument("--only", nargs="+", choices=PLAN, default=[*PLAN], help="(default: all)")
    parser.add_argument("--batch", type=positive, help="instead of those of the plan")
    parser.add_argument("--repeats", type=positive, help="instead of those of the plan")
    parser.add_argument("--device", type=device, help="(default: cuda)")


def main(arguments: argparse.Namespace) -> None:
    """Run them; one that fails does not keep the others from it.

    Raises:
        ValueError: there is no GPU and no device was named; the file is another one, or can't be in its folder.
            Nothing was run.
        OSError: some failed, and were shown; or the file can't be written.
    """
    if arguments.device is None and not torch.cuda.is_available():
        raise ValueError("--device must be named, such as cpu: PyTorch sees no GPU here")
    benches = _earlier(arguments.to)
    refuse_unwritable(arguments.to.parent)
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
        benches[name] = {"machine": timing.machine(), "command": shlex.join(words), "seconds": seconds} | rows
        with replacing(arguments.to) as path:
            path.write_text(json.dumps({"benches": benches}, indent=1) + "\n")
    failed = [name for name in arguments.only if "error" in benches[name]]
    if failed:
        raise OSError(f"failed: {', '.join(failed)}; {arguments.to} has the others")


def _earlier(path: Path) -> dict[str, Any]:
    """What an earlier call has written, by name.

    Raises:
        ValueError: something else did.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError):
        found = None
    benches = found.get("benches") if isinstance(found, dict) else None
    if not isinstance(benches, dict) or not all(isinstance(one, dict) and "command" in one for one in benches.values()):
        raise ValueError(f"--to must be a new file, or one that `bench all` wrote; got {path}, which is neither")
    return benches


def _words(name: str, arguments: argparse.Namespace) -> list[str]:
    """A bench of the plan as words of a command, on the device and with what replaces its options."""
    words = [*shlex.split(PLAN[name]), "--device", arguments.device or "cuda"]
    if arguments.batch:
        words += ["--batch" if words[0] in ("floor", "bridge") else "--batches", str(arguments.batch)]
    return [*words, *(["--repeats", str(arguments.repeats)] if arguments.repeats else [])]


def _run(words: Sequence[str]) -> list[dict[str, Any]]:
    bench = importlib.import_module(f"bioshare.bench.{words[0]}")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.main(parser.parse_args(words[1:]))
