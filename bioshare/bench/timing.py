"""What all benches measure with: seconds, peak memory, and the machine they ran on."""

from __future__ import annotations

import datetime
import gc
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


BLOCK_SECONDS = 0.2
"""On a GPU a turn is so many calls, handed over without waiting in between, as in training."""

MOST_CALLS = 1000


def in_turns(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each of several works, which take turns so that a busy machine slows all of them."""
    for work in works.values():
        work()  # warms up
    return dict(turns(works, repeats, device))


def turns(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> Iterator[tuple[str, float]]:
    """Name and median seconds of each of several warm works, as soon as the last turn of each is over."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    calls = {name: _calls(work, device) for name, work in works.items()}
    for turn in range(repeats):
        for name, work in works.items():
            seconds[name].append(_block(work, calls[name], device))
            if turn == repeats - 1:
                yield name, statistics.median(seconds[name])


def _calls(work: Callable[[], Any], device: torch.device) -> int:
    """How many calls make a turn: one on a CPU, which has nothing waiting."""
    if device.type == "cpu":
        return 1
    return max(1, min(MOST_CALLS, round(BLOCK_SECONDS / _block(work, 1, device))))


def _block(work: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Seconds per call of some calls in a row."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def synchronise(device: torch.device) -> None:
    """Wait for the device to finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back the memory of what is no longer in use: networks in training refer to themselves."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int | None:
    """The most memory that ``prepare(*arguments)()`` takes beyond what ``prepare`` took.

    The arguments end with the device. On a GPU it is what PyTorch's allocator gave away at most; on a CPU the resident
    memory that Linux counts, in a process of its own; elsewhere None.
    """
    if torch.device(arguments[-1]).type == "cuda":
        return _peak_bytes(prepare, arguments)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(_peak_bytes, (prepare, arguments))
        pool.close()
        pool.join()  # or it would be killed, and leave its locks behind
    return peak


def _peak_bytes(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int | None:
    device = torch.device(arguments[-1])
    work = prepare(*arguments)
    if device.type == "cuda":
        synchronise(device)
        free(device)
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
    packages = ["numpy", "torch", "brian2", *["triton"] * len(gpu)]
    there = " ".join(f"{name} {version}," for name, version in versions(*packages).items())
    return ", ".join([str(datetime.date.today()), *gpu, processor(), there.rstrip(",")])
