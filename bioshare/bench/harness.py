"""The tools of all benches: options, timing, memory, and a table that grows while a bench measures."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bioshare.cli import device, positive
from bioshare.machine import processor, versions
from bioshare.progress import shows_bar
from bioshare.text import number

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

BLOCK_SECONDS = 0.2
"""Seconds of a turn on a GPU, which gets many calls without waiting in between, as in training."""

MOST_CALLS = 1000
"""Largest number of calls in a turn."""


def add_common_options(parser: argparse.ArgumentParser, repeats: int, several_dtypes: bool = False) -> None:
    """Add the options of every bench of networks; ``--dtypes`` in place of ``--dtype`` if a bench takes several."""
    about = "type under automatic mixed precision; fp32 is without TF32 (default: fp32)"
    if several_dtypes:
        parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["fp32"], help=about)
    else:
        parser.add_argument("--dtype", choices=DTYPES, default="fp32", help=about)
    parser.add_argument("--repeats", type=positive, default=repeats, help="turns of every row (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--device", type=device, default="cpu", help="(default: %(default)s)")


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute all products of fp32 without TF32; by default PyTorch rounds the factors of convolutions only."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class BenchTable:
    """A table whose head is printed at once, and every row as soon as the row is measured.

    Args:
        columns: head, least width and format of every column, as in "dtype 5 s | peak MB 9 .0f".

    Attributes:
        records: the rows so far: values as measured, by the heads of the columns.
    """

    def __init__(self, columns: str) -> None:
        self.columns, self.records = [column.rsplit(" ", 2) for column in columns.split(" | ")], []
        self._print({head: head for head, _, _ in self.columns})

    def add(self, record: dict[str, Any]) -> None:
        """Print a row, with dashes for None and missing values; values without a column go into the records only."""
        self.records.append(record)
        self._print(record)

    def _print(self, record: dict[str, Any]) -> None:
        cells = []
        for head, width, form in self.columns:
            value = record.get(head)
            text = value if isinstance(value, str) else number(value, form)
            width = max(len(head), int(width))
            cells.append(text.ljust(width) if form == "s" else text.rjust(width))
        print("  ".join(cells).rstrip(), flush=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def median_seconds(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of works in turns, after a first call of each."""
    for work in works.values():
        work()
    return dict(turns(works, repeats, device))


def turns(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> Iterator[tuple[str, float]]:
    """Take turns, so that a busy machine slows all works alike; yield name and median seconds after a last turn.

    Args:
        works: calls by name, warm.
        repeats: turns of every work. A turn is a single call on a CPU, and takes `BLOCK_SECONDS` on a GPU.
    """
    calls, seconds = dict.fromkeys(works, 1), {name: list[float]() for name in works}
    if device.type != "cpu":
        wanted = {name: round(BLOCK_SECONDS / seconds_per_call(work, 1, device)) for name, work in works.items()}
        calls = {name: max(1, min(MOST_CALLS, many)) for name, many in wanted.items()}
    with tqdm(total=repeats * len(works), desc="turns", leave=False, disable=not shows_bar()) as bar:
        for turn in range(repeats):
            for name, work in works.items():
                seconds[name].append(seconds_per_call(work, calls[name], device))
                bar.update()
                if turn == repeats - 1:
                    bar.clear()  # the caller prints a row now
                    yield name, statistics.median(seconds[name])


def seconds_per_call(work: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Mean seconds of some calls in a row."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def synchronise(device: torch.device) -> None:
    """Wait until a GPU is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Give unused memory back, also of networks in training, whose references are cycles."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_bytes(prepare: Callable[[], Callable[[], Any]], device: torch.device) -> int | None:
    """Peak of memory in ``prepare()()``, beyond the memory after ``prepare()``.

    On a GPU the peak of PyTorch's allocator; on a CPU the peak of resident memory in a process of its own, to which
    ``prepare`` is pickled; None if the system is not Linux.
    """
    if device.type == "cuda":
        work = prepare()
        synchronise(device)
        free_memory(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(_peak_of_process, (prepare,))
        pool.close()
        pool.join()  # a process that is killed would leave its locks behind
    return peak


def _peak_of_process(prepare: Callable[[], Callable[[], Any]]) -> int | None:
    reset = Path("/proc/self/clear_refs")
    work = prepare()
    if not reset.exists():
        return None
    with suppress(AttributeError):  # of the GNU C library
        ctypes.CDLL(None).malloc_trim(0)  # or the work takes free memory that the process still holds
    reset.write_text("5")  # the peak so far is forgotten
    before = _linux_bytes("/proc/self/status", "VmRSS")
    work()
    return _linux_bytes("/proc/self/status", "VmHWM") - before


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None for a CPU if the system is not Linux."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _linux_bytes("/proc/meminfo", "MemAvailable") if Path("/proc/meminfo").exists() else None


def _linux_bytes(path: str, field: str) -> int:
    """A field of a file of Linux about memory, whose unit is 1024 bytes."""
    lines = Path(path).read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def machine_line() -> str:
    """Date, devices and versions as a line of text."""
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    packages = ["numpy", "torch", "brian2", *["triton"] * len(gpu)]
    texts = [f"{name} {version}" for name, version in versions(*packages).items()]
    return ", ".join([str(datetime.date.today()), *gpu, processor(), *texts])
