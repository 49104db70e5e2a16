"""The least time of a training step on a device, and the time that it takes: ``python -m bioshare bench floor``.

The floor is a bound for kernels that run one after the other and find nothing in the cache of what the one before them
wrote. A cache that holds whole activations can do better.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bioshare.bench import ceilings, traffic
from bioshare.bench.ceilings import Ceilings
from bioshare.bench.networks import NETWORKS, Form, TrainingStep, network
from bioshare.bench.options import DTYPES, add_dtype, add_machine_options, without_tf32
from bioshare.bench.table import Column, Table
from bioshare.bench.timing import free, turns
from bioshare.bench.traffic import Work
from bioshare.cli import positive

COLUMNS = (
    Column("part", "", width=28),
    Column("gigaoperations", "GFLOP", ".3g", 10),
    Column("megabytes", "MB", ".4g", 10),
    Column("rate_ms", "ms at rate", ".3f", 14),
    Column("bandwidth_ms", "ms at bandwidth", ".3f", 18),
    Column("least_ms", "at least ms", ".3f", 14),
)

FORMS: dict[str, Form] = {"conv": "conv", "LC": "auto"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench floor``."""
    parser.add_argument("--network", choices=NETWORKS, default="resnet20", help="(default: %(default)s)")
    parser.add_argument("--batch", type=positive, help="(default: the paper's)")
    parser.add_argument("--image", type=positive, help="rows and columns (default: the data set's)")
    given = "taken instead of a measured one, in"
    parser.add_argument("--bandwidth", type=float, help=f"{given} GB/s; with --rate nothing is measured")
    parser.add_argument("--rate", type=float, help=f"{given} TFLOP/s")
    parser.add_argument("--rate32", type=float, help="that of fp32, in which maps are applied (default: --rate)")
    add_dtype(parser)
    add_machine_options(parser, repeats=5)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the floor of both networks, and what their steps take."""
    torch.set_num_threads(arguments.threads)
    case, dtype, device = NETWORKS[arguments.network], arguments.dtype, torch.device(arguments.device)
    batch, side = arguments.batch or case.batch, arguments.image or case.side
    given = _given(arguments)
    limits, records = given or ceilings.measured(device, dtype), list[dict[str, Any]]()
    print(f"{'given' if given else 'measured'}: {limits}")
    for name, form in FORMS.items():
        print(f"\n{name} {case.title} at {side} x {side}, batch {batch}, {dtype}\n")
        model = network(arguments.network, form, "meta", side)
        works = traffic.step_works(model, (batch, 3, side, side), DTYPES[dtype].itemsize)
        table = Table(COLUMNS)
        least = _print_parts(table, works, limits, "floor of a step")
        for part in (traffic.INSTANT, traffic.SLEEP) if form != "conv" else ():
            _print_parts(table, [work for work in traffic.sharing_works(model) if work.part == part], limits)
        records += [{"network": name, "batch": batch, "dtype": dtype} | record for record in table.records]
        if not given:
            steps = _steps(arguments.network, form, side, batch, dtype, device)
            records += [{"network": name} | record for record in _measured(steps, arguments.repeats, device, least)]
            del steps
            free(device)
    return [{"part": "ceilings"} | limits._asdict(), *records]


def _given(arguments: argparse.Namespace) -> Ceilings | None:
    """The ceilings among the options.

    Raises:
        ValueError: only some of them are there, or one isn't positive or finite.
    """
    bandwidth, rate = arguments.bandwidth, arguments.rate
    given = [value for value in (bandwidth, rate, arguments.rate32) if value is not None]
    if not given:
        return None
    if bandwidth is None or rate is None or not all(math.isfinite(value) and value > 0 for value in given):
        raise ValueError(
            f"--bandwidth and --rate must both be positive numbers, or left out; got {bandwidth} and {rate}, and "
            f"{arguments.rate32} for --rate32"
        )
    return Ceilings(1e9 * bandwidth, 1e12 * rate, 1e12 * (arguments.rate32 or rate))


def _print_parts(table: Table, works: Sequence[Work], limits: Ceilings, total: str | None = None) -> float:
    """Print a row for each part, and one for all of them if it has a name; return the least seconds."""
    parts = {part: [work for work in works if work.part == part] for part in dict.fromkeys(w.part for w in works)}
    for part, kernels in (parts | ({total: works} if total else {})).items():
        operations, moved = sum(work.operations for work in kernels), sum(work.bytes for work in kernels)
        table.add(
            part=part,
            gigaoperations=operations / 1e9,
            megabytes=moved / 1e6,
            rate_ms=1e3 * sum(work.operations / work.rate(limits) for work in kernels),
            bandwidth_ms=1e3 * moved / limits.bandwidth,
            least_ms=1e3 * sum(work.seconds(limits) for work in kernels),
        )
    return sum(work.seconds(limits) for work in works)


def _steps(name: str, form: Form, side: int, batch: int, dtype: str, device: torch.device) -> dict[str, TrainingStep]:
    """The training step, ordinary and where there are CUDA graphs as one of those."""
    kinds = {"step, eager": False} | ({"step, graph": True} if device.type == "cuda" else {})
    make = lambda graph: TrainingStep(
        network(name, form, device, side), (3, side, side), batch, dtype, form, graph=graph
    )
    return {kind: make(graph) for kind, graph in kinds.items()}


def _measured(steps: dict[str, TrainingStep], repeats: int, device: torch.device, least: float) -> list[dict[str, Any]]:
    """Print what the steps take, and how far that is from the floor."""
    records = []
    with without_tf32():
        for step in steps.values():
            step.warm_up()
        for name, seconds in turns(dict[str, Callable[[], Any]](steps), repeats, device):
            print(f"{name}: {1e3 * seconds:.3f} ms, {seconds / least:.2f} times the floor", flush=True)
            records.append({"part": name, "ms": 1e3 * seconds, "of_floor": seconds / least})
    return records
