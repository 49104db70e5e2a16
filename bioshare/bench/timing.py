"""What all benches measure with: seconds, peak memory, and the machine they ran on."""

from __future__ import annotations

import datetime
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bioshare.machine import processor, versions


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that some work took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def in_turns(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each of several works, which take turns so that a busy machine slows all of them."""
    for work in works.values():
        work()  # warms up
    return dict(turns(works, repeats, device))


def turns(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> Iterator[tuple[str, float]]:
    """Name and median seconds of each of several warm works, as soon as the last turn of each is over."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        for name, work in works.items():
            synchronise(device)
            elapsed, _ = timed(lambda work=work: (work(), synchronise(device)))
            seconds[name].append(elapsed)
            if turn == repeats - 1:
                yield name, statistics.median(seconds[name])


def synchronise(device: torch.device) -> None:
    """Wait for the device to finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int | None:
    """The most memory that ``prepare(*arguments)()`` takes beyond what ``prepare`` took, in a process of its own.

    The arguments end with the device. On a CPU it is the resident memory that Linux counts; elsewhere None.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes, (prepare, arguments))


def _peak_bytes(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int | None:
    device = torch.device(arguments[-1])
    work = prepare(*arguments)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def available_bytes(device: torch.device) -> int | None:
    """Memory that a new tensor may still take; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not Path("/proc/meminfo").exists():
        return None
    return _kibibytes("/proc/meminfo", "MemAvailable")


def megabytes(number: int | None) -> str:
    """A number of bytes in MB; "-" for None."""
    return "-" if number is None else f"{number / 1e6:.0f}"


def _resident(field: str) -> int:
    return _kibibytes("/proc/self/status", field)


def _kibibytes(path: str, field: str) -> int:
    """A field of one of Linux's files about memory, in bytes."""
    lines = Path(path).read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def machine() -> str:
    """Date, processor and versions, in one line."""
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    there = " ".join(f"{name} {version}," for name, version in versions("numpy", "torch", "brian2").items())
    return ", ".join([str(datetime.date.today()), *gpu, processor(), there.rstrip(",")])
