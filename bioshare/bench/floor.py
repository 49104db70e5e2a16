"""The least time of a training step on a device, and the measured time: ``python -m bioshare bench floor``.

The floor is a bound for kernels in sequence, each of which reads its inputs from memory. A cache large enough for
whole activations can do better.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bioshare.bench import traffic
from bioshare.bench.harness import DTYPES, BenchTable, add_common_options, free_memory, turns
from bioshare.bench.networks import NETWORKS, NetworkForm, TrainingStep, add_network_options, bench_network
from bioshare.bench.traffic import Ceilings, Kernel
from bioshare.cli import positive

FLOOR_COLUMNS = "part 26 s | GFLOP 8 .3g | MB 8 .4g | ms at rate 12 .3f | ms at bandwidth 16 .3f | at least ms 12 .3f"

FLOOR_FORMS: dict[str, NetworkForm] = {"conv": "conv", "LC": "auto"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench floor``."""
    add_network_options(parser)
    parser.add_argument("--batch", type=positive, help="(default: the paper's)")
    parser.add_argument("--bandwidth", type=float, help="GB/s of the device; with --rate, nothing is measured")
    parser.add_argument("--rate", type=float, help="TFLOP/s of the device")
    parser.add_argument("--rate32", type=float, help="TFLOP/s in fp32, in which maps are applied (default: --rate)")
    add_common_options(parser, repeats=5)


def main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print floor and step time of the convolutional and of the locally connected network."""
    paper, dtype, device = NETWORKS[arguments.network], arguments.dtype, torch.device(arguments.device)
    batch, side = arguments.batch or paper.batch, arguments.image or paper.side
    given = given_ceilings(arguments)
    ceilings = given or traffic.measured_ceilings(device, dtype)
    print(f"{'given' if given else 'measured'}: {ceilings}")
    records = [{"part": "ceilings"} | ceilings._asdict()]
    for name, form in FLOOR_FORMS.items():
        print(f"\n{name} {paper.title} at {side} x {side}, batch {batch}, {dtype}\n")
        model = bench_network(arguments.network, form, "meta", side)
        kernels = traffic.step_kernels(model, (batch, 3, side, side), DTYPES[dtype].itemsize)
        table = BenchTable(FLOOR_COLUMNS)
        add_floor_rows(table, kernels, ceilings, total="floor of a step")
        if form != "conv":
            add_floor_rows(table, traffic.sharing_kernels(model), ceilings)
        records += [{"network": name, "batch": batch, "dtype": dtype} | record for record in table.records]
        if not given:
            least = sum(kernel.seconds(ceilings) for kernel in kernels)
            steps = measured_steps(arguments, form, batch, side, least)
            records += [{"network": name} | record for record in steps]
            free_memory(device)
    return records


def given_ceilings(arguments: argparse.Namespace) -> Ceilings | None:
    """The ceilings among the options.

    Raises:
        ValueError: some are missing, or not positive and finite.
    """
    bandwidth, rate, rate32 = arguments.bandwidth, arguments.rate, arguments.rate32
    given = [value for value in (bandwidth, rate, rate32) if value is not None]
    if not given:
        return None
    if bandwidth is None or rate is None or not all(math.isfinite(value) and value > 0 for value in given):
        raise ValueError(
            f"--bandwidth and --rate must both be positive numbers, or left out; got {bandwidth} and {rate}, and "
            f"{rate32} for --rate32"
        )
    return Ceilings(1e9 * bandwidth, 1e12 * rate, 1e12 * (rate32 or rate))


def measured_steps(
    arguments: argparse.Namespace, form: NetworkForm, batch: int, side: int, least: float
) -> list[dict[str, Any]]:
    """Print the time of a training step, and on a GPU also from a graph, beside the least time."""
    device, works = torch.device(arguments.device), dict[str, Callable[[], Any]]()
    for kind in ("eager", "graph") if device.type == "cuda" else ("eager",):
        model = bench_network(arguments.network, form, device, side)
        step = TrainingStep(model, (3, side, side), batch, arguments.dtype, form, graph=kind == "graph")
        step.warm_up()
        works[f"step, {kind}"] = step
    records = []
    for part, seconds in turns(works, arguments.repeats, device):
        print(f"{part}: {1e3 * seconds:.3f} ms, {seconds / least:.2f} times the floor", flush=True)
        records.append({"part": part, "ms": 1e3 * seconds, "of_floor": seconds / least})
    return records


def add_floor_rows(table: BenchTable, kernels: Sequence[Kernel], ceilings: Ceilings, total: str | None = None) -> None:
    """Add a row for every part among some kernels, and a row with the title ``total`` for all kernels."""
    groups: dict[str, Sequence[Kernel]] = {}
    for kernel in kernels:
        groups[kernel.part] = [*groups.get(kernel.part, []), kernel]
    if total:
        groups[total] = kernels
    for part, members in groups.items():
        moved = sum(kernel.bytes for kernel in members)
        row = {
            "part": part,
            "GFLOP": sum(kernel.operations for kernel in members) / 1e9,
            "MB": moved / 1e6,
            "ms at rate": 1e3 * sum(kernel.operations / kernel.rate(ceilings) for kernel in members),
            "ms at bandwidth": 1e3 * moved / ceilings.bandwidth,
            "at least ms": 1e3 * sum(kernel.seconds(ceilings) for kernel in members),
        }
        table.add(row)
